"""How often, how soon and for what a call is run again."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

__all__ = ["Retry", "as_retry"]

_MAX_RETRIES = 10_000
_LONGEST_DELAY_TIME = 3600.0


@dataclass(frozen=True, slots=True)
class Retry:
    """What ``retries=`` takes: a call that raised or ran out of time is run again on the same instance.

    Before its k-th retry a call waits for a random time between 0 and ``delay`` × 2^(k−1) seconds, so that calls that
    failed together do not come back together. Crashes of the process and lost instances have budgets of their own.

    Args:
        n: How many retries a call has.
        on: The exception or exceptions, their subclasses included, that are worth another try; all by default.
            ``TimeoutError`` or ``CallTimeout`` stands for a call that ran out of time, too.
        delay: Longest wait before the first retry, in seconds.
        max_delay: Longest wait before any, in seconds.

    Raises:
        ValueError: A number is out of range.
        TypeError: ``on`` is something else than exception classes.
    """

    n: int
    on: type[BaseException] | tuple[type[BaseException], ...] = BaseException
    delay: float = 1.0
    max_delay: float = 60.0

    def __post_init__(self) -> None:
        """Check the fields."""
        if not 0 <= operator.index(self.n) <= _MAX_RETRIES:
            raise ValueError(f"retries={self.n} is out of range; give 0 to {_MAX_RETRIES:,}.")
        for name in ("delay", "max_delay"):
            value = float(getattr(self, name))
            if not (math.isfinite(value) and 0 <= value <= _LONGEST_DELAY_TIME):
                raise ValueError(f"{name}={value:g} is out of range; give 0 to {_LONGEST_DELAY_TIME:g} seconds.")
        kinds = self.on if isinstance(self.on, tuple) else (self.on,)
        if not kinds or not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
            raise TypeError(f"on={self.on!r}: give an exception class or a tuple of them.")

    @property
    def names(self) -> tuple[str, ...]:
        """Return the classes by name, as an instance compares them; empty for all."""
        kinds = self.on if isinstance(self.on, tuple) else (self.on,)
        return () if BaseException in kinds else tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)

    def longest_delay_time(self, retry: int) -> float:
        """Return the longest wait before the ``retry``-th retry, counted from 1, in seconds."""
        return min(self.max_delay, self.delay * 2.0 ** min(60, retry - 1))


def as_retry(retries: int | Retry) -> Retry:
    """Return what a user gave as ``retries``."""
    return retries if isinstance(retries, Retry) else Retry(retries)
