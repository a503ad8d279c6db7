"""One page of memory that a slot's child and its daemon share: which call runs, and since when.

It is how the daemon knows whom a crash hit, without a message per call. Standard library only and no import of ours,
because a slot loads this file by path under a runtime that has nothing of ours installed.
"""

from __future__ import annotations

import mmap
import time

__all__ = ["PAGE_BYTES", "Page"]

PAGE_BYTES = mmap.PAGESIZE

_IDLE = -1


def _clock() -> float:
    # both sides read the same clock of the machine: see clock.SystemClock
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Page:
    """Written by the child, read by the daemon.

    Args:
        descriptor: An open file of at least PAGE_BYTES.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, PAGE_BYTES)
        # views write a number in one store; struct.pack_into clears its place first, and a reader would see a 0
        self._index = memoryview(self._memory)[:8].cast("q")
        self._start = memoryview(self._memory)[8:16].cast("d")

    def mark(self, call_index: int) -> None:
        """Say that this call starts now."""
        # the start first: a reader that sees the new index must not see the old start
        self._start[0] = _clock()
        self._index[0] = call_index

    def clear(self) -> None:
        """Say that no call runs."""
        self._index[0] = _IDLE

    def running(self) -> tuple[int, float] | None:
        """Return ``(call_index, start)`` of the running call; ``start`` is seconds on the machine's monotonic clock."""
        call_index = self._index[0]
        start = self._start[0]
        return None if call_index == _IDLE else (call_index, start)

    def close(self) -> None:
        """Unmap the page."""
        self._index.release()
        self._start.release()
        self._memory.close()
