"""When an instance stops receiving, and when it goes off. Pure: time and facts in, a verdict out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

__all__ = ["Retirement", "Verdict"]

#: Before the end of an instance's life it only finishes what it has.
_DRAIN_TIME = 900.0
_LONG_POLL_TIME = 20.0
#: Before a deadline of AWS's: 10 s to publish and give back, and some to be off by ourselves.
_LEAVE_TIME = 15.0


class Verdict(Enum):
    """What the clock says."""

    STAY = "stay"
    LAST_LOOK = "last_look"  # idle for long enough: one short poll more, then off
    DRAIN = "drain"  # stop receiving, finish what is held
    OFF = "off"  # now, whatever is held


@dataclass(frozen=True, slots=True, kw_only=True)
class Retirement:
    """The bounds of one instance's life; all times on one monotonic clock.

    ``booted`` is when the instance came up, ``idle_timeout`` how long it may have nothing to do, ``max_lifetime`` how
    long it may live at all. ``leaving_from`` and ``leave_by`` are set once somebody asked it to leave; ``why`` says
    who.
    """

    booted: float
    idle_timeout: float
    max_lifetime: float
    leaving_from: float = math.inf
    leave_by: float = math.inf
    why: str = "maximum lifetime"

    @property
    def end(self) -> float:
        """Return when it must give back what still runs and go off."""
        return min(self.booted + self.max_lifetime, self.leave_by)

    @property
    def drain_from(self) -> float:
        """Return when it stops receiving: when asked to, or 15 minutes (or a quarter of its life) before its end."""
        return min(self.leaving_from, self.booted + self.max_lifetime - min(_DRAIN_TIME, self.max_lifetime / 4))

    def asked_to_leave(self, *, now: float, deadline: float | None, why: str) -> Retirement:
        """Return the bounds of a life that ends when what is held is finished, and by ``deadline`` at the latest."""
        leave_by = math.inf if deadline is None else max(now, deadline - _LEAVE_TIME)
        return replace(self, leaving_from=min(now, self.leaving_from), leave_by=min(leave_by, self.leave_by), why=why)

    def verdict(self, *, now: float, idle_since: float | None) -> Verdict:
        """Return what to do.

        Args:
            now: The time.
            idle_since: When the last completed, authentic work ended; None while there is work.
        """
        if now >= self.end:
            return Verdict.OFF
        if now >= self.drain_from:
            return Verdict.DRAIN
        if idle_since is not None and now >= idle_since + self.idle_timeout:
            return Verdict.LAST_LOOK
        return Verdict.STAY

    def poll_time(self, *, now: float, idle_since: float | None) -> float:
        """Return how long a poll may wait: no longer than until the next thing to decide, and 20 s at most."""
        # while there is work it may end at once, and idleness counts from there
        until = min(self.drain_from, (now if idle_since is None else idle_since) + self.idle_timeout)
        return max(1.0, min(_LONG_POLL_TIME, until - now))
