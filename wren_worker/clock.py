"""Time, passed in: durations from a clock that never steps, instants as unix seconds."""

from __future__ import annotations

import re
import time
from typing import Protocol

from wren_worker.errors import ConfigError

__all__ = ["Clock", "SystemClock", "parse_time"]

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Clock(Protocol):
    """What a part of the system may ask about time."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never steps and, where it exists, counts suspended time."""
        ...

    def timestamp(self) -> float:
        """Return unix seconds."""
        ...

    def sleep(self, duration_time: float) -> None:
        """Wait for that many seconds."""
        ...


class SystemClock:
    """The machine's clocks.

    Source: clock_gettime(2): CLOCK_BOOTTIME is CLOCK_MONOTONIC plus time suspended, so a laptop that
    slept for an hour sees the hour.
    """

    __slots__ = ("_clock_id",)

    def __init__(self) -> None:
        self._clock_id = (
            getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC) if hasattr(time, "clock_gettime") else None
        )

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; comparable between processes of one machine."""
        if self._clock_id is None:  # Windows clients have no clock_gettime
            return time.monotonic()
        return time.clock_gettime(self._clock_id)

    def timestamp(self) -> float:
        """Return unix seconds."""
        return time.time()

    def sleep(self, duration_time: float) -> None:
        """Wait for that many seconds."""
        time.sleep(duration_time)


def parse_time(text: str) -> float:
    """Return the seconds of "90", "90s", "5m", "8h" or "1.5d".

    Raises:
        ConfigError: It is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if match is None:
        raise ConfigError(f"'{text}' is no time. Write seconds, or a number with s, m, h or d: 90s, 5m, 8h.")
    return float(match[1]) * _UNITS[match[2]]
