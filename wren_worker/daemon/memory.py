"""Keeps one call's memory from being everybody's trouble: when it runs short, a slot above its share is ended.

The kernel would choose a victim too, but late, after minutes of thrashing, and its choice may be the daemon. What a
slot holds counts with everything its call started. Runs on the loop's thread; nothing here blocks.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wren_worker.clock import Clock
from wren_worker.daemon.slot import Slot

__all__ = ["Machine", "MemoryWatch", "Shot", "protect_daemon"]

_INTERVAL = 0.5
#: Once less than a quarter is left: a core fills a gigabyte in half a second.
_HASTY_INTERVAL = 0.1
_HASTY = 0.25
#: What the system and the daemon need beside the slots, and when memory counts as short.
_RESERVE_BYTES, _RESERVE = 256 * 1024 * 1024, 0.1
_SHORT_BYTES, _SHORT = 64 * 1024 * 1024, 0.03
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_UNLIMITED = 1 << 60


@dataclass(frozen=True, slots=True)
class Shot:
    """A slot's child that was ended for its memory: what it held, and what its share was, in bytes."""

    held_bytes: int
    share_bytes: int


class Machine:
    """The memory of this machine, or of the control group that the daemon is in, whichever is smaller.

    Source: proc_meminfo(5); cgroup-v2.rst ("memory.max", "memory.current"); cgroup-v1/memory.rst. Where there is no
    /proc nothing is known, and nothing is ever short.
    """

    def __init__(self, *, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> None:
        self._proc = proc
        self._limit, self._usage, self._stat = self._group(groups)
        self.total_bytes = min(self._limit, self._meminfo().get("MemTotal", _UNLIMITED))

    def available_bytes(self) -> int:
        """Return how much more could be used without anybody being ended."""
        available = self._meminfo().get("MemAvailable", _UNLIMITED)
        if self._usage is None:
            return available
        cached = 0
        with suppress(OSError, ValueError):
            for line in self._stat.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name in ("inactive_file", "total_inactive_file"):
                    cached = max(cached, int(value))
        with suppress(OSError, ValueError):
            available = min(available, self._limit - int(self._usage.read_text()) + cached)
        return available

    def held_bytes(self, roots: Sequence[int]) -> dict[int, int]:
        """Return what each of these processes and all below it hold of their own, by its pid."""
        parents: dict[int, int] = {}
        for entry in self._proc.glob("[0-9]*/stat"):
            with suppress(OSError, ValueError, IndexError):
                # the command in parentheses may hold anything, so split after its end
                fields = entry.read_text(errors="replace").rpartition(")")[2].split()
                parents[int(entry.parent.name)] = int(fields[1])
        held = dict.fromkeys(roots, 0)
        for pid in parents:
            root, seen = pid, 0
            while root not in held and root in parents and seen < 64:
                root, seen = parents[root], seen + 1
            if root in held:
                held[root] += self._own_bytes(pid)
        return held

    def _own_bytes(self, pid: int) -> int:
        with suppress(OSError, ValueError, IndexError):
            _, resident, shared = (self._proc / str(pid) / "statm").read_text().split()[:3]
            return (int(resident) - int(shared)) * _PAGE_BYTES
        return 0

    def _meminfo(self) -> dict[str, int]:
        found: dict[str, int] = {}
        with suppress(OSError, ValueError, IndexError):
            for line in (self._proc / "meminfo").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in ("MemTotal", "MemAvailable"):
                    found[name] = int(value.split()[0]) * 1024
        return found

    def _group(self, groups: Path) -> tuple[int, Path | None, Path]:
        """Return the limit of this process's control group and the files that say what it uses."""
        with suppress(OSError):
            for line in (self._proc / "self" / "cgroup").read_text().splitlines():
                _, controllers, path = line.split(":", 2)
                if controllers not in ("", "memory"):
                    continue
                top = groups / controllers
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
                limit, usage = names if controllers else ("memory.max", "memory.current")
                for folder in (top / path.lstrip("/"), top):
                    with suppress(OSError, ValueError):
                        value = int((folder / limit).read_text())  # "max" is no number: no limit
                        if value < _UNLIMITED:
                            return value, folder / usage, folder / "memory.stat"
        return _UNLIMITED, None, Path()


class MemoryWatch:
    """Looks twice a second, oftener when little is left.

    Args:
        slots: All slots.
        machine: What there is.
        budget_bytes: What all slots may hold together; 0 for what the machine has, less a reserve.
        clock: The loop's clock.
    """

    def __init__(self, *, slots: Sequence[Slot], machine: Machine, budget_bytes: int, clock: Clock) -> None:
        self._slots = slots
        self._machine = machine
        self._clock = clock
        total = machine.total_bytes
        self._short_bytes = int(_SHORT_BYTES + _SHORT * total)
        self._budget = budget_bytes or max(total // 2, int(total * (1 - _RESERVE)) - _RESERVE_BYTES)
        self._next = 0.0
        self._shots: dict[int, Shot] = {}

    @property
    def share_bytes(self) -> int:
        """Return what a slot may hold whatever the others do."""
        return self._budget // len(self._slots)

    def enforce(self) -> float:
        """End what must be ended; return the seconds until the next look is due."""
        now = self._clock.monotonic()
        if now < self._next:
            return self._next - now
        total, available = self._machine.total_bytes, self._machine.available_bytes()
        # as long as the whole machine uses less than the slots may, there is no need to ask who uses it
        if total - available > min(self._budget, total - self._short_bytes):
            self._choose(short=available < self._short_bytes)
        interval = _HASTY_INTERVAL if available < _HASTY * total else _INTERVAL
        self._next = now + interval
        return interval

    def _choose(self, *, short: bool) -> None:
        slots = {slot.keeper_pid: slot for slot in self._slots if slot.keeper_pid}
        held = self._machine.held_bytes(list(slots))
        if not held or not (short or sum(held.values()) > self._budget):
            return
        pid = max(held, key=lambda pid: held[pid])
        # a slot within its share is not the one to blame, and one that is ending frees its memory by itself
        if held[pid] > self.share_bytes and slots[pid].number not in self._shots:
            self._shots[slots[pid].number] = Shot(held[pid], self.share_bytes)
            slots[pid].kill(signal.SIGKILL, "memory")

    def shot(self, slot: Slot) -> Shot | None:
        """Return what a slot's child was ended for, None when it ended otherwise; asked once per end."""
        return self._shots.pop(slot.number, None)


def protect_daemon() -> bool:
    """Make this process the last that the kernel ends for memory; return whether it may. Slots volunteer themselves."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-900")
        return True
    return False
