"""A slot's keeper: the warm, clean parent that forks a child for each job and outlives it.

One process per slot, one thread. It has cloudpickle imported and nothing of any job, so a fresh child costs a fork. It
adopts what its children leave behind and ends it before it reports the child's end, so that nothing a call started
outlives the child that ran it. The daemon speaks to it over a control socket; end of file there ends everything.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
from typing import NoReturn

import cloudpickle  # noqa: F401 - imported once here so that every child has it

from ..protocol.frames import FrameReader, Kind, pack_frame
from . import child, kernel

__all__ = ["Keeper", "main"]

_N_DESCRIPTORS = 4  # channel, stdout, stderr, page


def main(control_fd: int, daemon_pid: int) -> NoReturn:
    """Serve the daemon until its control socket closes."""
    # the daemon's end shows as the end of the control socket, which leaves time to end what calls have started;
    # the signal wakes a keeper that its call has stopped
    kernel.die_with_parent(daemon_pid, signal.SIGCONT)
    kernel.adopt_orphans()
    # what the collector never has to look at again is never copied by a fork either
    gc.collect()
    gc.freeze()
    Keeper(socket.socket(fileno=control_fd)).serve()
    os._exit(0)


class Keeper:
    """Forks, signals and reaps the one child of a slot."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._wake_read, self._wake_write = os.pipe()
        for descriptor in (self._wake_read, self._wake_write):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._reader = FrameReader()
        self._descriptors: list[int] = []
        self._child = 0
        self._generation = 0

    def serve(self) -> None:
        """Do what the daemon says until it is gone."""
        control = self._control.fileno()
        while True:
            ready, _, _ = select.select([control, self._wake_read], [], [])
            if self._wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
                self._reap()
            if control in ready and not self._obey():
                break
        if self._child:
            self._kill_group()
        self._end_orphans()

    def _kill_group(self) -> None:
        for kill in (os.killpg, os.kill):  # the second for a child that made itself the member of another group
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self._child, signal.SIGKILL)

    def _obey(self) -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, 65536, 2 * _N_DESCRIPTORS)
        except ConnectionError:
            return False
        if not data:
            return False
        self._descriptors += descriptors
        for kind, body in self._reader.feed(data):
            order = json.loads(body)
            if kind == Kind.SPAWN:
                self._spawn(order["generation"])
            elif kind == Kind.KILL and self._child:
                # the child is reaped by nobody else, so its number still means this group
                if order["signal"] == signal.SIGKILL:
                    self._kill_group()
                else:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(self._child, order["signal"])
        return True

    def _spawn(self, generation: int) -> None:
        descriptors, self._descriptors = self._descriptors[:_N_DESCRIPTORS], self._descriptors[_N_DESCRIPTORS:]
        if self._child:
            # nobody waits for it any more, and what its job started must not live beside the next one's
            self._kill_group()
            os.waitpid(self._child, 0)
            self._child = 0
            self._tidy_up()
        keeper_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.setsid()
                kernel.die_with_parent(keeper_pid)
                kernel.invite_oom_killer()
                self._control.close()
                os.close(self._wake_read)
                os.close(self._wake_write)
                child.main(descriptors)
            except BaseException:  # noqa: BLE001 - a forked child must never return into the keeper's code
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)
        for descriptor in descriptors:
            os.close(descriptor)
        self._child, self._generation = pid, generation
        self._report(Kind.SPAWNED, pid=pid)

    def _reap(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            if found.si_pid != self._child:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(found.si_pid, 0)  # an orphan that ended while its slot still runs
                continue
            # while the zombie is there its number cannot be anybody else's
            self._kill_group()
            _, status, usage = os.wait4(self._child, 0)
            self._child = 0
            self._tidy_up()
            scale = 1 if sys.platform == "darwin" else 1024
            self._report(Kind.EXITED, status=os.waitstatus_to_exitcode(status), peak_rss_bytes=usage.ru_maxrss * scale)

    def _tidy_up(self) -> None:
        self._end_orphans()
        # what calls wrote where they stood is theirs while their child lives; this process stands in the slot's folder
        shutil.rmtree("cwd", ignore_errors=True)

    def _end_orphans(self) -> None:
        # killing one hands its own children to this process, so look again until none is left
        for _ in range(100):
            orphans = kernel.children_of(os.getpid())
            if not orphans:
                return
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in orphans:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)

    def _report(self, kind: Kind, **facts: object) -> None:
        body = json.dumps({"generation": self._generation, **facts}).encode()
        with contextlib.suppress(ConnectionError):
            self._control.sendall(pack_frame(kind, body))
