"""Whether the disk has room for more work. A full one fails calls that another instance could run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from wren_worker.log import EventLog

__all__ = ["Room"]

#: Too little: less than this, or than this share of a small disk.
_MIN_BYTES, _MIN_SHARE = 256 * 1024 * 1024, 0.05


def _free(folder: Path) -> tuple[int, int]:
    """Return ``(free, all)`` bytes of the file system."""
    found = os.statvfs(folder)
    if found.f_flag & os.ST_RDONLY:
        raise OSError("it is read-only")
    if found.f_files and not found.f_favail:
        raise OSError("it has no room for another file")
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


class Room:
    """Asked by the loop before every poll and for every arrival: a system call of a microsecond.

    Args:
        folder: Where slots, arguments and outcomes lie.
        log: Hears when the disk becomes full, and when it is no longer.
        free: Returns ``(free, all)`` bytes of the folder's file system.
    """

    def __init__(self, folder: Path, *, log: EventLog, free: Callable[[Path], tuple[int, int]] = _free) -> None:
        self._folder = folder
        self._log = log
        self._free = free
        #: What is wrong, "" when there is room.
        self.error = ""

    @property
    def enough(self) -> bool:
        """Return whether more work may be received."""
        self._look()
        return not self.error

    def _look(self) -> None:
        try:
            free, size = self._free(self._folder)
        except OSError as error:
            wrong = f"the disk cannot be used: {error}"
        else:
            least = min(_MIN_BYTES, int(size * _MIN_SHARE))
            wrong = "" if free >= least else f"disk full: {free >> 20} MiB are left, {least >> 20} are needed"
        if bool(wrong) is not bool(self.error):
            self._log.event("disk_full" if wrong else "disk_has_room", error=wrong)
        self.error = wrong
