"""How the daemon ends, and how it ends the machine. ``supervisord.conf`` agrees with the codes (a test compares)."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from enum import IntEnum

__all__ = ["EXPECTED", "Exit", "power_off"]


class Exit(IntEnum):
    """Exit codes of ``python -m wren_worker daemon``."""

    STOPPED = 0  # SIGTERM came and everything finished was published
    BAD_CONFIG = 64  # the instance's configuration cannot be used; trying again will not help
    CRASHED = 70  # a defect of ours
    CUT_SHORT = 75  # a second SIGTERM came


#: What supervisord need not count as a crash. The daemon never exits 0 to go idle: it powers the machine off.
EXPECTED = (Exit.STOPPED,)

#: Each step is tried when the one before did not end the machine in time.
_ESCALATION: tuple[tuple[str, ...], ...] = (
    ("systemctl", "poweroff"),
    ("systemctl", "poweroff", "--force"),
    ("systemctl", "poweroff", "--force", "--force"),
)


def power_off(tries: int) -> Sequence[str]:
    """Ask the machine to power off, harder with every earlier try; return the command that was started.

    ``poweroff``, not ``halt``: a halted EC2 instance keeps running and billing.
    Source: EC2 user guide, "Change instance initiated shutdown behavior", read 2026-11.
    """
    command = _ESCALATION[min(tries, len(_ESCALATION) - 1)]
    subprocess.Popen(command, stdin=subprocess.DEVNULL)
    return command
