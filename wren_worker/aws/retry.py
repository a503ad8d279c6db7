"""Waits between tries: full jitter within a total deadline."""

from __future__ import annotations

import random
from collections.abc import Callable

from wren_worker.clock import Clock

__all__ = ["Backoff"]


class Backoff:
    """One operation's waits.

    Each wait is uniform between 0 and a ceiling that doubles, so that a fleet that failed together does not come
    back together.

    Source: AWS Architecture Blog, "Exponential Backoff and Jitter" (full jitter).

    Args:
        clock: Measures and waits.
        timeout: Seconds for all tries together.
        base_time: Ceiling of the first wait.
        cap_time: Ceiling of every wait.
        draw: Gives a number in 0..1.
    """

    __slots__ = ("_cap_time", "_ceiling_time", "_clock", "_deadline", "_draw")

    def __init__(
        self,
        clock: Clock,
        *,
        timeout: float,
        base_time: float = 0.1,
        cap_time: float = 5.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._deadline = clock.monotonic() + timeout
        self._ceiling_time = base_time
        self._cap_time = cap_time
        self._draw = draw

    def wait(self) -> bool:
        """Wait before the next try; False, at once, when the time for tries is over."""
        left = self._deadline - self._clock.monotonic()
        if left <= 0:
            return False
        self._clock.sleep(min(left, self._draw() * self._ceiling_time))
        self._ceiling_time = min(self._cap_time, self._ceiling_time * 2)
        return True
