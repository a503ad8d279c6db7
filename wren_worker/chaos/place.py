"""The sandbox under test as the kit sees it: its instances, their processes, and what may be done to them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from wren_worker.chaos.proxy import FaultProxy
from wren_worker.chaos.violations import Violation
from wren_worker.errors import FleetError
from wren_worker.sandbox import control, processes

__all__ = ["Place"]

#: Slots die with their daemon: the kernel tells them.
_SLOT_DEATH_TIME = 2.0
_KINDS = {
    "daemon": "-m wren_worker daemon",
    "supervisord": "supervisor.supervisord",
    "slot": "slot/__main__.py",
}


class Place:
    """Instances of one sandbox behind a proxy. Safe from any thread.

    Args:
        info: The sandbox.
        proxy: What stands in front of it; every deed is noted in its record.
    """

    def __init__(self, info: control.SandboxInfo, proxy: FaultProxy) -> None:
        self.info = info
        self.proxy = proxy
        self.violations: list[Violation] = []
        self._watches: list[threading.Thread] = []

    def instances(self, *, min_up_time: float = 0.0) -> list[str]:
        """Return who runs and has done so for a while, in the order of their ids."""
        found = control.machines(self.info)
        return sorted(one["instance_id"] for one in found if one["up_time"] >= min_up_time)

    def pids(self, instance_id: str, kind: str) -> list[int]:
        """Return the processes of an instance of a kind: "daemon", "supervisord", "slot" (keepers and children)."""
        wanted = _KINDS[kind]
        found = processes.marked(f"IN_WREN_SANDBOX_INSTANCE={instance_id}")
        return sorted(pid for pid in found if wanted in processes.command_line(pid))

    def keepers(self, instance_id: str) -> list[int]:
        """Return the keepers of an instance's slots."""
        slots = self.pids(instance_id, "slot")
        return [pid for pid in slots if processes.parent(pid) not in slots]

    def children(self, instance_id: str) -> list[int]:
        """Return the children that run calls on an instance."""
        slots = self.pids(instance_id, "slot")
        return [pid for pid in slots if processes.parent(pid) in slots]

    # --- deeds --------------------------------------------------------------------------------------------------------

    def kill_daemon(self, instance_id: str) -> bool:
        """Kill the daemon; its slots must be gone within two seconds."""
        daemons, slots = self.pids(instance_id, "daemon"), self.pids(instance_id, "slot")
        return self._kill("killed daemon", instance_id, daemons, then_gone=slots)

    def kill_child(self, instance_id: str) -> bool:
        """Kill what runs a call."""
        return self._kill("killed slot", instance_id, self.children(instance_id)[:1])

    def kill_keeper(self, instance_id: str) -> bool:
        """Kill a slot's keeper."""
        return self._kill("killed keeper", instance_id, self.keepers(instance_id)[:1])

    def kill_supervisord(self, instance_id: str) -> bool:
        """Kill supervisord, and with it, as systemd does, everything of its unit."""
        return self._kill("killed supervisord", instance_id, self.pids(instance_id, "supervisord"))

    def crash(self, instance_id: str) -> bool:
        """Take the power from an instance, or take a spot instance back without notice."""
        self.proxy.record.note("crashed instance", instance_id)
        return self._asked(lambda: control.crash(self.info, instance_id))

    def interrupt(self, instance_id: str, *, notice_time: float) -> bool:
        """Give a spot interruption notice and take the instance away ``notice_time`` seconds later."""
        self.proxy.record.note("interrupted spot", instance_id)
        return self._asked(lambda: control.interrupt(self.info, instance_id, notice_time=notice_time))

    def freeze(self, instance_id: str, kind: str, seconds: float) -> bool:
        """Stop a daemon or a slot, as a paused machine would, and let it go on after ``seconds``."""
        pids = self.pids(instance_id, kind)
        if not pids:
            return False
        known = {pid: processes.start_time(pid) for pid in pids}
        self.proxy.record.note(f"froze {kind}", instance_id, f"{seconds:g} s")
        processes.kill(pids, signal.SIGSTOP)

        def thaw() -> None:
            time.sleep(seconds)
            self.proxy.record.note(f"thawed {kind}", instance_id)
            processes.kill(_alive(known), signal.SIGCONT)

        self._watch(thaw)
        return True

    def hang(self, instance_id: str, off_time: float) -> bool:
        """Stop a daemon for good: somebody must end the instance within ``off_time`` seconds."""
        known = {pid: processes.start_time(pid) for pid in self.pids(instance_id, "daemon")}
        if not known:
            return False
        self.proxy.record.note("hung daemon", instance_id)
        processes.kill(known, signal.SIGSTOP)

        def expect_off() -> None:
            began = time.monotonic()
            # another daemon in its place beats again, so then nobody has a reason to end the instance
            while _alive(known) and instance_id in self.instances():
                if time.monotonic() - began > off_time + self._stalled_time(began):
                    text = f"{instance_id} runs {off_time:g} s after its daemon hung"
                    self.violations.append(Violation("off in time", text))
                    processes.kill(_alive(known), signal.SIGCONT)
                    return
                time.sleep(0.2)

        self._watch(expect_off)
        return True

    def _stalled_time(self, since: float) -> float:
        """Return for how long this machine stood still: nobody can be held to a bound for that long."""
        notes = [note for note in list(self.proxy.record.notes) if note.kind == "stall" and note.moment >= since]
        return sum(float(note.detail) for note in notes)

    @staticmethod
    def _asked(ask: Callable[[], None]) -> bool:
        try:
            ask()
        except FleetError:
            return False  # it has just ended by itself
        return True

    def _kill(self, what: str, instance_id: str, pids: list[int], *, then_gone: list[int] | None = None) -> bool:
        if not pids:
            return False
        known = {pid: processes.start_time(pid) for pid in then_gone or ()}
        # noted first: what follows from a deed must not stand before it
        self.proxy.record.note(what, instance_id, " ".join(map(str, pids)))
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if known:
            self._watch(lambda: self._expect_gone(instance_id, known))
        return True

    def _expect_gone(self, instance_id: str, known: dict[int, str]) -> None:
        began = time.monotonic()
        while _alive(known) and time.monotonic() - began < _SLOT_DEATH_TIME:
            time.sleep(0.05)
        if pids := _alive(known):
            text = f"slots {pids} of {instance_id} run {_SLOT_DEATH_TIME:g} s after their daemon was killed"
            self.violations.append(Violation("slots die with their daemon", text))

    def _watch(self, action: Callable[[], None]) -> None:
        thread = threading.Thread(target=action, name="chaos-watch", daemon=True)
        self._watches.append(thread)
        thread.start()

    def settle(self, timeout: float = 60.0) -> None:
        """Wait until everything begun here has come to its end: who was frozen goes on, who was watched is judged."""
        deadline = time.monotonic() + timeout
        for thread in self._watches:
            thread.join(max(0.0, deadline - time.monotonic()))


def _alive(known: Mapping[int, str]) -> list[int]:
    """Return who runs still of ``{pid: start time}``; a pid that is somebody else's by now does not count."""
    return [pid for pid, start in known.items() if start and processes.start_time(pid) == start]
