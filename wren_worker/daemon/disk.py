"""Whether the instance's disk has room for more work. Runs on the loop's thread."""

from __future__ import annotations

import os
from pathlib import Path

from wren_worker.clock import Clock
from wren_worker.log import EventLog

__all__ = ["Disk"]

_INTERVAL = 1.0


class Disk:
    """Looks once a second.

    Args:
        folder: Where slots and daemon keep their files.
        floor_bytes: With less than this free, nothing more is received; what is held goes on.
        clock: Monotonic time.
        log: For when that begins and ends.
    """

    def __init__(self, *, folder: Path, floor_bytes: int, clock: Clock, log: EventLog) -> None:
        self._folder = folder
        self._floor = floor_bytes
        self._clock = clock
        self._log = log
        self._next = 0.0
        self._room = True

    def room(self) -> bool:
        """Return whether more work may be taken."""
        now = self._clock.monotonic()
        if now < self._next:
            return self._room
        self._next = now + _INTERVAL
        try:
            found = os.statvfs(self._folder)
            free, writable = found.f_bavail * found.f_frsize, not found.f_flag & os.ST_RDONLY
            n_files = found.f_favail if found.f_files else 1
        except OSError:
            free, writable, n_files = 0, False, 0
        room = writable and free >= self._floor and n_files > 0
        if room is not self._room:
            self._room = room
            self._log.event("disk_has_room" if room else "disk_full", free_bytes=free, writable=writable)
        return room
