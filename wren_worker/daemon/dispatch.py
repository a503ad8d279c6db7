"""Which waiting calls go to which free slot, how many at once, and which calls have run too long.

Runs on the loop's thread.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace

from wren_worker.clock import Clock
from wren_worker.daemon.holding import Holding
from wren_worker.daemon.slot import Given, Slot

__all__ = ["RESOLVED", "Condemned", "Dispatch", "Paces", "Timeouts"]

#: Why a call is ended that has an outcome already.
RESOLVED = "resolved"
_SHORT_CALL_TIME = 0.5
_KEEPER_KILLS = 4
#: A dead child is reported by its keeper at once.
_HANG_UP_TIME = 0.5

#: What a slot is given at once, once the job's calls are known to be short.
_BATCH_TIME = 0.2
_MAX_BATCH = 10_000
#: What a call costs its slot besides running, in seconds; measured on a c5-like core.
_CALL_OVERHEAD_TIME = 15e-6
_PACES_KEPT = 64
#: A chunk is fetched so many seconds before the slots run dry: several round trips to SQS. More would only take work
#: from other instances; and so many at most, because the next ones may be of another job.
_PREFETCH_TIME = 0.1
_PREFETCHED_PER_SLOT = 4


@dataclass(slots=True)
class _Pace:
    """How long one call of a job takes here, as far as is known."""

    mean_time: float | None = None


class Paces:
    """What was learnt of jobs' calls; forgets the oldest job when there are many."""

    def __init__(self) -> None:
        self._paces: dict[str, _Pace] = {}

    def note(self, job_id: str, run_time: float, n_calls: int = 1) -> None:
        """Learn from calls that took ``run_time`` seconds together."""
        pace = self._paces.setdefault(job_id, _Pace())
        mean_time = run_time / n_calls + _CALL_OVERHEAD_TIME
        kept = 0.0 if pace.mean_time is None else 0.8**n_calls
        pace.mean_time = kept * (pace.mean_time or 0.0) + (1 - kept) * mean_time
        while len(self._paces) > _PACES_KEPT:
            del self._paces[next(iter(self._paces))]

    def mean_time(self, job_id: str) -> float | None:
        """Return seconds per call, None before the first."""
        pace = self._paces.get(job_id)
        return pace.mean_time if pace else None

    def batch(self, job_id: str) -> int:
        """Return how many calls to give at once: one while nothing is known."""
        mean_time = self.mean_time(job_id)
        return 1 if mean_time is None else max(1, min(_MAX_BATCH, int(_BATCH_TIME / mean_time)))


class Dispatch:
    """Feeds slots from what is held."""

    def __init__(self, *, slots: Sequence[Slot], paces: Paces, clock: Clock) -> None:
        self._slots = slots
        self._paces = paces
        self._clock = clock

    def wanted(self, holdings: Sequence[Holding]) -> int:
        """Return how many chunks to ask for: what free slots can start, and a little for those soon to be free."""
        if any(holding.cautious for holding in holdings):
            return 0
        n_free = sum(slot.free for slot in self._slots)
        n_startable = max(0, n_free - sum(holding.n_waiting for holding in holdings))
        ahead = self._work_ahead(holdings)
        if ahead is None or ahead >= _PREFETCH_TIME:
            return n_startable
        latest = holdings[-1].chunk
        chunk_time = latest.n_calls * (self._paces.mean_time(latest.job_id) or _PREFETCH_TIME)
        n_more = math.ceil((_PREFETCH_TIME - ahead) * len(self._slots) / chunk_time)
        return max(n_startable, min(n_more, _PREFETCHED_PER_SLOT * len(self._slots)))

    def wanted_in(self, holdings: Sequence[Holding]) -> float:
        """Return in how many seconds there may be more to do without any other news; at most 1."""
        ahead = self._work_ahead(holdings)
        resting = min((holding.rests_until for holding in holdings), default=math.inf) - self._clock.monotonic()
        soon = 1.0 if ahead is None or ahead < _PREFETCH_TIME else ahead - _PREFETCH_TIME
        return max(0.0, min(1.0, soon, resting))

    def _work_ahead(self, holdings: Sequence[Holding]) -> float | None:
        """Return for how many seconds what is held keeps the slots busy; None when nobody knows, or nothing is."""
        if not holdings:
            return None
        total = 0.0
        for holding in holdings:
            if holding.n_waiting:
                mean_time = self._paces.mean_time(holding.chunk.job_id)
                if mean_time is None:
                    return None
                total += holding.n_waiting * mean_time
        now = self._clock.monotonic()
        for slot in self._slots:
            if slot.free:
                continue
            mean_time = self._paces.mean_time(slot.job[0]) if slot.job else None
            if mean_time is None:
                return None
            found = slot.running()
            elapsed = now - found[1] if found else 0.0
            if elapsed > max(2 * mean_time, _PREFETCH_TIME):
                return None  # not one of the usual ones: it may go on for long
            total += slot.n_given * mean_time - min(elapsed, mean_time)
        return total / len(self._slots)

    def hand_out(self, holdings: Sequence[Holding]) -> None:
        """Give waiting calls to free slots, a chunk's calls to several if they are free."""
        now = self._clock.monotonic()
        for holding in holdings:
            holding.wake(now)
        free = [slot for slot in self._slots if slot.free]
        ordinary = [holding for holding in holdings if not holding.cautious]
        for holding in ordinary:
            while free and holding.n_waiting:
                # by all slots, not by those free now: a call must not wait behind a long one while another slot idles
                share = math.ceil(holding.n_waiting / len(self._slots))
                self._give(free, holding, min(share, self._paces.batch(holding.chunk.job_id)))
        if free and not any(holding.n_waiting or holding.n_running for holding in ordinary):
            self._give_cautiously(free, [holding for holding in holdings if holding.cautious])

    def _give_cautiously(self, free: list[Slot], cautious: Sequence[Holding]) -> None:
        if any(holding.unsettled for holding in cautious):
            return
        for holding in sorted(cautious, key=lambda holding: holding.delivery):
            if holding.n_waiting:
                self._give(free, holding, 1)
                return

    def _give(self, free: list[Slot], holding: Holding, n_calls: int) -> None:
        assert holding.job is not None and holding.table is not None  # noqa: S101, PT018 - it has calls to run
        identity = holding.job.identity
        # a slot that serves the job already has its function loaded; a fresh one costs a fork
        slot = min(free, key=lambda slot: (slot.job != identity, slot.job is not None, slot.number))
        run = holding.take(1 if holding.singly else n_calls, now=self._clock.monotonic())
        slot.give(holding.job, run, holding.table.frame(holding.args, run), holding.receipt_handle)
        free.remove(slot)


@dataclass(frozen=True, slots=True)
class Condemned:
    """A call that is being ended, why, and by when its slot's child must be gone."""

    given: Given
    why: str
    deadline: float
    n_kills: int = 0


class Timeouts:
    """Ends calls that run too long, or that nobody waits for: TERM to the process group, then, after a grace, KILL.

    Args:
        slots: All slots.
        grace_time: Seconds between the two.
        clock: The loop's clock, which slots read too.
    """

    def __init__(self, *, slots: Sequence[Slot], grace_time: float, clock: Clock) -> None:
        self._slots = slots
        self._grace_time = grace_time
        self._clock = clock
        self._condemned: dict[int, Condemned] = {}
        self._hung_up: dict[int, float] = {}

    def enforce(self, holdings: dict[str, Holding]) -> float:
        """Signal what has run too long; return the seconds until the next call could have."""
        return min((self._check(slot, holdings) for slot in self._slots), default=1.0)

    def _check(self, slot: Slot, holdings: dict[str, Holding]) -> float:
        now, found = self._clock.monotonic(), slot.running()
        if not slot.hung_up:
            self._hung_up.pop(slot.number, None)
        elif now - self._hung_up.setdefault(slot.number, now) > _HANG_UP_TIME:
            slot.end_child()
        if slot.number in self._condemned:
            condemned = self._condemned[slot.number]
            if now >= condemned.deadline:
                slot.kill(signal.SIGKILL, condemned.why)
                if condemned.n_kills >= _KEEPER_KILLS:
                    slot.kill_keeper()  # stopped, by its call perhaps: it does not do what it is told
                self._condemned[slot.number] = replace(condemned, deadline=now + 1.0, n_kills=condemned.n_kills + 1)
            return max(0.0, condemned.deadline - now)
        if found is None or slot.killing:
            return 1.0 if slot.free else 0.1  # its next call is about to start
        given, start = found
        holding = holdings.get(given.receipt_handle)
        if holding is None or holding.is_resolved(given.call_index):
            # cancelled, or done by another; a short call ends by itself sooner than its slot is back
            why, left = RESOLVED, start + _SHORT_CALL_TIME - now
        else:
            why, left = "timeout", start + holding.chunk.limits.timeout - now
        if left > 0:
            return left
        slot.kill(signal.SIGTERM, why)
        self._condemned[slot.number] = Condemned(given, why, now + self._grace_time)
        return self._grace_time

    def condemned(self, slot: Slot) -> Condemned | None:
        """Return the call because of which the slot's child was ended, None when it ended otherwise; asked once."""
        return self._condemned.pop(slot.number, None)
