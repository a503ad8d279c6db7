"""A clock that moves only when told to."""

from __future__ import annotations

import threading

__all__ = ["FakeClock"]


class FakeClock:
    """A clock that moves only when told to. ``sleep`` does not wait: it moves the clock.

    A long poll on this clock jumps to the next message that becomes visible, or to its end. Threads that wait for
    one another need a ``SystemClock``.

    Args:
        start_time: What ``monotonic`` says first, seconds.
        start_timestamp: What ``timestamp`` says first, unix seconds.
    """

    def __init__(self, *, start_time: float = 1000.0, start_timestamp: float = 1_700_000_000.0) -> None:
        self._lock = threading.Lock()
        self._time = start_time
        self._offset = start_timestamp - start_time
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start."""
        return self._time

    def timestamp(self) -> float:
        """Return unix seconds; they move along with ``monotonic``."""
        return self._time + self._offset

    def sleep(self, duration_time: float) -> None:
        """Move the clock by that many seconds, and remember it in ``sleeps``."""
        self.sleeps.append(duration_time)
        self.advance(duration_time)

    def advance(self, duration_time: float) -> None:
        """Move the clock by that many seconds."""
        with self._lock:
            self._time += max(0.0, duration_time)
