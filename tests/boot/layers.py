"""Layers taken away, to see that each is needed: what then ends the machine, if anything does (docs/shutdown.md)."""

from __future__ import annotations

from collections.abc import Callable

from beside import Beside
from machine import CLOUD_UNITS


def _daemon(machine: Beside) -> None:
    """Layer 1: the daemon asks nobody when it is idle."""
    program = "#!/bin/sh\nexit 0\n"
    machine.put("/opt/drill/bin/systemctl", program, 0o755)
    machine.drop_in("wren-supervisord.service", "[Service]\nEnvironment=PATH=/opt/drill/bin:/usr/bin:/bin\n", "80-off")


def _listener(machine: Beside) -> None:
    """Layer 2: supervisord's listener does nothing."""
    machine.put("/opt/drill/listener.conf", "")
    machine.drop_in(
        "wren-supervisord.service",
        "[Service]\nExecStartPre=/bin/sh -c \"sed '/eventlistener:poweroff/,$d' /opt/wren/lib/supervisord.conf"
        ' >/run/supervisord.conf"\nExecStart=\nExecStart=/opt/wren/venv/bin/python -m supervisor.supervisord -n'
        " -c /run/supervisord.conf\n",
        "80-off",
    )


def _start_limit(machine: Beside) -> None:
    """Layer 2: systemd gives supervisord up and leaves it at that."""
    machine.drop_in("wren-supervisord.service", "[Unit]\nStartLimitAction=none\n", "80-off")


def _on_failure(machine: Beside) -> None:
    """Layer 2: a unit of cloud-init's may fail unheard."""
    for unit in CLOUD_UNITS:
        # the file itself goes: an empty OnFailure= takes nothing away, it is a dependency
        machine.drop_in(f"{unit}.service", "", "50-wren")


def _checkin(machine: Beside) -> None:
    """Layer 2: nobody asks whether cloud-init has started anything."""
    machine.drop_in("wren-checkin.service", "[Service]\nExecStart=\nExecStart=/bin/true\n", "80-off")


def _deadman(machine: Beside) -> None:
    """Layer 3."""
    machine.drop_in("wren-deadman.service", "[Service]\nExecStart=\nExecStart=/bin/true\n", "80-off")


def _job_timeout(machine: Beside) -> None:
    """Layer 4: a shutdown may take for ever."""
    machine.drop_in("poweroff.target", "[Unit]\nJobTimeoutSec=infinity\nJobTimeoutAction=none\n", "99-off")


def _panic(machine: Beside) -> None:
    """Layer 4: a panic is the end, as it is to a kernel that nobody has told otherwise."""
    machine.put("/etc/sysctl.d/99-drill.conf", "kernel.panic = 0\n")


def _oom_policy(machine: Beside) -> None:
    """No layer: systemd stops the unit of which the kernel has killed a process."""
    machine.drop_in("wren-supervisord.service", "[Service]\nOOMPolicy=stop\n", "80-off")


def _mixed(machine: Beside) -> None:
    """No layer: KillMode=control-group in the place of mixed."""
    machine.drop_in("wren-supervisord.service", "[Service]\nKillMode=control-group\n", "80-off")


LAYERS: dict[str, Callable[[Beside], None]] = {
    "idle": _daemon,
    "listener": _listener,
    "start-limit": _start_limit,
    "on-failure": _on_failure,
    "check-in": _checkin,
    "dead-man": _deadman,
    "job-timeout": _job_timeout,
    "panic": _panic,
    "kill-mode-mixed": _mixed,
    "oom-policy": _oom_policy,
}
