"""A local instance's PID 1: plays the kernel, systemd and the power supply. Standard library only.

Runs as its own process, ``python -P -m wren_worker.sandbox.machine <folder>``, one thread, woken by signals and by
the pipe of the instance's ``systemctl``. Everything the instance starts stays below it (child subreaper on Linux), so
power-off leaves nothing, double forks and ``setsid`` included.

SIGUSR1 is the power button (``TerminateInstances``): services may finish. SIGTERM cuts the power: so does the
sandbox's death, by PDEATHSIG or, elsewhere, by looking at the parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from enum import Enum
from pathlib import Path
from types import FrameType

from wren_worker.sandbox import cloudinit, processes
from wren_worker.sandbox.blueprint import CUT, POWERED_OFF, Blueprint
from wren_worker.sandbox.systemctl import append_line

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LOOK_INTERVAL = 1.0  # seconds between looks at the parent
_NUDGE_INTERVAL = 0.1


class Power(Enum):
    """What the machine was asked for."""

    ON = "on"
    OFF = "off"
    FORCED = "forced"
    CUT = "cut"


class Service:
    """supervisord as a systemd service: restarted when it dies, given up after a few times."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        self._process: subprocess.Popen[bytes] | None = None
        self._start_again_at: float | None = None
        self._n_starts = 0
        self._nudge_until = 0.0

    @property
    def is_starting(self) -> bool:
        """Return whether it may not have started its programs yet."""
        return time.monotonic() < self._nudge_until

    @property
    def pid(self) -> int | None:
        """Return the pid while it runs."""
        return self._process.pid if self._process else None

    @property
    def due(self) -> float | None:
        """Return when it must be started again, on the monotonic clock."""
        return self._start_again_at

    def start(self) -> None:
        """Start it unless it runs."""
        self._start_again_at = None
        if self._process is not None:
            return
        self._n_starts += 1
        self._nudge_until = time.monotonic() + 1.5
        blueprint = self._blueprint
        self._process = subprocess.Popen(
            [blueprint.python, "-m", "supervisor.supervisord", "-n", "-c", blueprint.supervisord_conf],
            env=dict(blueprint.environment),
            cwd=blueprint.environment["WREN_WORK_DIR"],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        _log("systemd.started", unit="wren-supervisord.service", pid=self._process.pid, n_starts=self._n_starts)

    def nudge(self) -> None:
        """Make supervisord look at its programs now: it does so once a second, and whenever somebody connects."""
        if self._process is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)
            try:
                connection.connect(f"{self._blueprint.run_dir}/supervisor.sock")
            except OSError:
                pass  # not up yet, or it has no socket: then it takes its second

    def died(self) -> bool:
        """Note its death; return whether it may be started again."""
        self._process = None
        if self._n_starts > self._blueprint.restart_limit:
            return False
        self._start_again_at = time.monotonic() + self._blueprint.restart_interval
        return True


class Timer:
    """The dead-man timer: one run at a time, every ``deadman_interval`` of the instance's configuration."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        self._process: subprocess.Popen[bytes] | None = None
        self.due = time.monotonic() + 0.5

    @property
    def pid(self) -> int | None:
        """Return the pid of a run under way."""
        return self._process.pid if self._process else None

    def _interval(self) -> float:
        try:
            content = Path(self._blueprint.environment["WREN_INSTANCE_CONFIG"]).read_text(encoding="utf-8")
            return max(0.05, float(json.loads(content)["deadman_interval"]))
        except (OSError, ValueError, KeyError, TypeError):
            return 30.0

    def run(self) -> None:
        """Start a run unless one is under way."""
        self.due = time.monotonic() + self._interval()
        if self._process is None:
            self._process = subprocess.Popen(
                [self._blueprint.python, "-I", "-S", self._blueprint.deadman],
                env=dict(self._blueprint.environment),
                stdin=subprocess.DEVNULL,
            )

    def ended(self) -> None:
        """Note that the run is over, and plan the next by what the configuration says by now."""
        self._process = None
        self.due = min(self.due, time.monotonic() + self._interval())


class Machine:
    """One local instance, from power on to power off."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        self._folder = Path(blueprint.folder)
        self._power = Power.ON
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        self._pipe = self._open_pipe()
        self._heard = b""
        self._service = Service(blueprint)
        self._timer = Timer(blueprint)

    def _open_pipe(self) -> int:
        path = self._folder / "run" / "systemctl.fifo"
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        # read and write, so that it never reports end of file when a caller leaves
        return os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def run(self) -> int:
        """Live; return the exit code that says how it ended."""
        self._catch_signals()
        _bind_to_parent(self._blueprint.sandbox_pid)
        _log("machine.on", instance_id=self._blueprint.instance_id, pid=os.getpid())
        self._boot()
        while self._power is Power.ON:
            self._tick()
        return self._shut_down()

    def _catch_signals(self) -> None:
        signal.set_wakeup_fd(self._wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGUSR1, self._on_button)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_cut)

    def _on_button(self, _number: int, _frame: FrameType | None) -> None:
        if self._power is Power.ON:
            self._power = Power.OFF

    def _on_cut(self, _number: int, _frame: FrameType | None) -> None:
        self._power = Power.CUT

    def _boot(self) -> None:
        """Run cloud-init beside us: a hanging runcmd must not keep the dead-man from running."""
        if os.fork():
            return
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            cloudinit.run(self._folder, self._blueprint.environment)
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _tick(self) -> None:
        now = time.monotonic()
        look_interval = _NUDGE_INTERVAL if self._service.is_starting else _LOOK_INTERVAL
        due = min(now + look_interval, self._timer.due, self._service.due or now + _LOOK_INTERVAL)
        select.select([self._wake_read, self._pipe], [], [], max(0.0, due - now))
        self._drain_wakeups()
        self._reap()
        self._listen()
        now = time.monotonic()
        if self._power is Power.ON and self._service.due is not None and self._service.due <= now:
            self._service.start()
        if self._service.is_starting:
            self._service.nudge()
        if self._power is Power.ON and self._timer.due <= now:
            self._timer.run()
        if os.getppid() != self._blueprint.sandbox_pid:
            self._power = Power.CUT

    def _drain_wakeups(self) -> None:
        try:
            while os.read(self._wake_read, 512):
                pass
        except BlockingIOError:
            pass

    def _reap(self) -> None:
        """Wait for every dead child, orphans included."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._timer.pid:
                self._timer.ended()
            elif pid == self._service.pid:
                self._service_died(os.waitstatus_to_exitcode(status))

    def _service_died(self, exit_code: int) -> None:
        _log("systemd.died", unit="wren-supervisord.service", exit_code=exit_code)
        again = self._service.died()
        if self._power is not Power.ON:
            return
        self._end_everything()  # KillMode=control-group
        if not again:
            record: dict[str, object] = {
                "timestamp": round(time.time(), 3),
                "arguments": ["poweroff", "--force"],
                "pid": os.getpid(),
                "caller_pid": os.getpid(),
                "caller": "systemd",
                "reason": "StartLimitAction=poweroff-force",
            }
            append_line(self._folder / "log" / "systemctl.log", record)
            self._power = Power.FORCED

    def _listen(self) -> None:
        try:
            self._heard += os.read(self._pipe, 65536)
        except BlockingIOError:
            return
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            request = json.loads(line)
            if request["verb"] == "poweroff" and self._power is Power.ON:
                self._power = Power.FORCED if request["force"] else Power.OFF
            elif request["verb"] == "start" and request["unit"] == "wren-supervisord.service":
                self._service.start()
            # the dead-man timer is enabled in the image: it runs since boot

    def _shut_down(self) -> int:
        """Give services their time, then end everything; never leaves a process."""
        os.close(self._pipe)
        _log("machine.off", how=self._power.value)
        if self._power is Power.OFF and self._service.pid is not None:
            processes.kill([self._service.pid], signal.SIGTERM)
            deadline = time.monotonic() + self._blueprint.stop_timeout
            # the signals CUT and CHLD wake us; a cut in between ends the wait
            while self._service.pid is not None and self._is_patient(deadline):
                self._service.nudge()
                select.select([self._wake_read], [], [], 0.1)
                self._drain_wakeups()
                self._reap()
        was_cut = self._power is Power.CUT
        self._end_everything()
        return CUT if was_cut else POWERED_OFF

    def _is_patient(self, deadline: float) -> bool:
        orphaned = os.getppid() != self._blueprint.sandbox_pid
        return self._power is Power.OFF and not orphaned and time.monotonic() < deadline

    def _end_everything(self) -> None:
        left = processes.end_all(lambda: processes.descendants(os.getpid()), timeout=10)
        self._timer.ended()  # its run, if any, died with the rest
        if left:
            _log("machine.left_behind", pids=left)


def _bind_to_parent(parent_pid: int) -> None:
    """Be cut off when the sandbox dies, by whatever death, and inherit every orphan below us."""
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before we could ask
        sys.exit(CUT)


def _log(event: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"timestamp": round(time.time(), 3), "event": event, **fields}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(Machine(Blueprint.load(Path(sys.argv[1]))).run())
