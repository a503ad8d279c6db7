"""One held delivery: its calls, what became of them, and what must still be stored before its message may go.

Pure bookkeeping on the loop's thread. The rule it keeps is DESIGN's split: a chunk's result object is written once and
may leave calls out; a call that it leaves out has a key of its own, written once too. The message may be deleted when
object and own keys cover every call.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from wren_worker.daemon.calls import Run
from wren_worker.daemon.events import Arrived
from wren_worker.daemon.stories import Story
from wren_worker.protocol.model import ResultObject, ranges

__all__ = ["Holding", "Put"]

#: A chunk's result object stays within this; what more there is goes under keys of its own.
MAX_RESULT_BYTES = 8 * 1024 * 1024
#: A chunk whose deliveries keep vanishing may be what makes them vanish: from here on its calls run one at a time,
#: each stored before the next is started, and with no other chunk beside them.
CAUTIOUS_FROM = 3
_LAST_BY_TURNS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Something to store: the chunk's object (``call_index`` None) or one call's own key."""

    result: ResultObject
    records: tuple[bytes, ...]
    call_index: int | None = None


def _order(indexes: list[int], delivery: int) -> list[int]:
    """Return the order in which to run calls, so that those that kill their machine end up alone.

    From the third delivery on by turns from either end, which leaves a single such call alone after two; later
    shuffled, because calls between two of them are reached from neither end.
    """
    if delivery > _LAST_BY_TURNS:
        random.Random(delivery).shuffle(indexes)  # noqa: S311 - the same order for the same delivery is fine
    elif delivery >= CAUTIOUS_FROM and delivery % 2:
        indexes.reverse()
    return indexes


class Holding:
    """A delivery from its arrival to the deletion (or loss) of its message.

    Args:
        arrived: The delivery as it was fetched.
        instance_id: Written into result objects.
        held_since: When it arrived, on the loop's monotonic clock.
    """

    def __init__(self, arrived: Arrived, *, instance_id: str, held_since: float) -> None:
        self.chunk = arrived.chunk
        self.receipt_handle = arrived.receipt_handle
        self.delivery = arrived.delivery
        self.job = arrived.job
        self.args = arrived.args
        self.held_since = held_since
        self.started: float | None = None
        self.lease_lost = False
        self.leaving = False  # its message is being deleted
        #: One of its calls ended a slot, and nobody knows which.
        self.singly = False
        self._instance_id = instance_id
        self._all = range(self.chunk.first_call, self.chunk.first_call + self.chunk.n_calls)
        self.table = arrived.table
        #: The calls with keys of their own once an object exists (or is being written); None while there is none.
        self._left_out: set[int] | None = None
        self._object_stored = False
        self._covered: set[int] = set()
        self._records: dict[int, bytes] = {}
        self._n_record_bytes = 0
        self._in_flight: set[int] = set()
        self._attempts: dict[int, int] = {}
        self._user_failures: dict[int, int] = {}
        self._stories: dict[int, list[Story]] = {}
        #: Calls that wait for their next attempt, and until when.
        self._resting: dict[int, float] = {}
        self._queue: deque[int] = deque()
        self._running: set[int] = set()
        if arrived.known is not None:
            self.settled(arrived.known, arrived.resolved)
        self._queue.extend(_order([index for index in self._all if index not in self._covered], self.delivery))

    # --- handing out ------------------------------------------------------------------------------------------------

    @property
    def n_waiting(self) -> int:
        """Return how many calls no slot has."""
        return len(self._queue)

    @property
    def n_running(self) -> int:
        """Return how many calls slots have."""
        return len(self._running)

    @property
    def cautious(self) -> bool:
        """Return whether its calls are to run one at a time and alone."""
        return self.delivery >= CAUTIOUS_FROM

    @property
    def unsettled(self) -> bool:
        """Return whether a call runs, or has an outcome that is not stored yet."""
        return bool(self._running or self._records)

    @property
    def untouched(self) -> bool:
        """Return whether no call of it was ever handed to a slot."""
        return self.started is None

    def take(self, n_calls: int, *, now: float) -> Run:
        """Return up to ``n_calls`` calls to run."""
        if self.started is None:
            self.started = now
        calls = [self._queue.popleft() for _ in range(min(n_calls, len(self._queue)))]
        self._running.update(calls)
        if not self._attempts and not self._user_failures:
            return Run(calls, {})
        return Run(calls, {index: self.attempts(index) + 1 for index in calls if self.attempts(index)})

    def put_back(self, indexes: Iterable[int]) -> None:
        """Take calls back that a slot had and did not run to an end through no fault of theirs."""
        for index in sorted((i for i in indexes if i in self._running), reverse=True):
            self._running.discard(index)
            if index not in self._covered:
                self._queue.appendleft(index)

    def rest(self, index: int, *, until: float) -> None:
        """Take a call back that a slot had, and keep it from the others until a time of the loop's clock."""
        if index in self._running:
            self._running.discard(index)
            if index not in self._covered:
                self._resting[index] = until

    @property
    def rests_until(self) -> float:
        """Return when the first resting call may run again; infinity when none rests."""
        return min(self._resting.values()) if self._resting else math.inf

    @property
    def only_rests(self) -> bool:
        """Return whether all that is left to run waits for another attempt."""
        return bool(self._resting) and not self._queue and not self._running

    def wake(self, now: float) -> None:
        """Queue the calls that have rested long enough."""
        if self._resting:
            due = [index for index, until in self._resting.items() if until <= now]
            for index in due:
                del self._resting[index]
            self._queue.extendleft(reversed(due))

    def remember(self, index: int, story: Story) -> None:
        """Keep what became of an attempt that is followed by another."""
        self._stories.setdefault(index, []).append(story)

    def story(self, index: int) -> Sequence[Story]:
        """Return the attempts before the one that ended now."""
        return self._stories.pop(index, ())

    @property
    def told_by_itself(self) -> bool:
        """Return whether the outcomes need nothing joined that is known here only."""
        return not self._stories

    def n_failures(self, index: int) -> int:
        """Return how often the call was retried for an exception or a timeout."""
        return self._user_failures.get(index, 0)

    def crashed(self, index: int) -> bool:
        """Count a crash against a call; return whether it may be tried again."""
        self._attempts[index] = self._attempts.get(index, 0) + 1
        return self._attempts[index] < self.chunk.limits.max_attempts

    def failed(self, index: int) -> bool:
        """Count a user's exception or timeout against ``retries``; return whether the call may be tried again."""
        if self._user_failures.get(index, 0) >= self.chunk.limits.retries:
            return False
        self._user_failures[index] = self._user_failures.get(index, 0) + 1
        return True

    def attempts(self, index: int) -> int:
        """Return how many executions of the call this delivery has seen end badly."""
        return self._attempts.get(index, 0) + self._user_failures.get(index, 0)

    def give_up_waiting(self) -> list[int]:
        """Empty the queue and return what was in it (a drain, or a budget spent)."""
        left = [*self._queue, *self._resting]
        self._queue.clear()
        self._resting.clear()
        return left

    # --- outcomes ---------------------------------------------------------------------------------------------------

    def outcome(self, index: int, record: bytes) -> bool:
        """Take a call's outcome record; return False for a call that has one already or is not of this chunk."""
        if index not in self._all or index in self._records or index in self._covered:
            self._running.discard(index)
            return False
        self._running.discard(index)
        self._records[index] = record
        self._n_record_bytes += len(record)
        return True

    def outcomes(self, records: Mapping[int, bytes]) -> None:
        """Take outcome records of calls that slots had; what has one already, or is not of this chunk, is dropped."""
        self._running.difference_update(records)
        if records.keys() & self._records.keys() or records.keys() & self._covered:
            records = {i: r for i, r in records.items() if i not in self._records and i not in self._covered}
        self._records.update(records)
        self._n_record_bytes += sum(map(len, records.values()))

    @property
    def n_outcomes(self) -> int:
        """Return how many calls have an outcome here, stored or not."""
        return len(self._records) + len(self._covered)

    @property
    def busy(self) -> bool:
        """Return whether a PUT is under way."""
        return bool(self._in_flight) or (self._left_out is not None and not self._object_stored)

    @property
    def oversized(self) -> bool:
        """Return whether the outcomes no longer fit one object."""
        return self._n_record_bytes > MAX_RESULT_BYTES

    # --- storing ----------------------------------------------------------------------------------------------------

    def puts(self, *, split: bool, timestamp: float) -> list[Put]:
        """Return what is to be stored now; what is returned counts as in flight until ``stored`` or ``put_failed``.

        Args:
            split: Write the chunk's object now, leaving out what has no outcome yet.
            timestamp: Unix seconds, written into the objects.
        """
        if self._left_out is None:
            complete = len(self._records) == len(self._all)
            if not (complete or (split and self._records)):
                return []
            self._left_out = set(self._all) - self._records.keys()
            self._in_flight |= self._records.keys()
            records = tuple(self._records[index] for index in sorted(self._records))
            return [Put(result=self._head(timestamp, left_out=ranges(self._left_out)), records=records)]
        if not self._object_stored:
            return []  # until the object is there nobody knows whether it leaves these calls out
        ready = [index for index in self._records if index in self._left_out and index not in self._in_flight]
        self._in_flight.update(ready)
        return [
            Put(result=self._head(timestamp, call_index=index), records=(self._records[index],), call_index=index)
            for index in ready
        ]

    def _head(
        self, timestamp: float, *, left_out: tuple[tuple[int, int], ...] = (), call_index: int | None = None
    ) -> ResultObject:
        return ResultObject(
            job_id=self.chunk.job_id,
            chunk_id=self.chunk.chunk_id,
            first_call=self.chunk.first_call,
            n_calls=self.chunk.n_calls,
            left_out=left_out,
            call_index=call_index,
            instance_id=self._instance_id,
            delivery=self.delivery,
            remote_write_timestamp=timestamp,
        )

    def stored(self, call_index: int | None, found: ResultObject | None) -> None:
        """Take note that a key holds something: ours, or (412) what was ``found`` there.

        A 412 on the chunk's object tells which calls it leaves out; our outcomes for those get keys of their own.
        """
        if call_index is not None:
            self._in_flight.discard(call_index)
            self._settle({call_index})
            return
        self._in_flight.clear()
        if found is not None:
            self.learn_object(found)
        else:
            self._object_stored = True
            self._settle(set(self._all) - (self._left_out or set()))

    def put_failed(self, call_index: int | None) -> None:
        """Take note that nothing is known to be stored; ``puts`` returns it again."""
        if call_index is None:
            self._in_flight.clear()
            if not self._object_stored:  # another's may have been found meanwhile
                self._left_out = None
        else:
            self._in_flight.discard(call_index)

    def learn_object(self, found: ResultObject) -> None:
        """Take another's result object for the truth."""
        self._left_out = {index for first, end in found.left_out for index in range(first, end)}
        self._object_stored = True
        self._settle(set(self._all) - self._left_out)

    def settled(self, known: ResultObject, resolved: frozenset[int]) -> None:
        """Take note of what is stored, by whomever."""
        self.learn_object(known)
        self._settle(set(resolved & set(self._all)))

    def is_resolved(self, index: int) -> bool:
        """Return whether the call's outcome is known to be durable."""
        return index in self._covered

    def _settle(self, indexes: set[int]) -> None:
        self._covered |= indexes
        self._records = {index: record for index, record in self._records.items() if index not in indexes}
        self._n_record_bytes = sum(map(len, self._records.values()))
        if self._queue:
            self._queue = deque(index for index in self._queue if index not in indexes)
        for index in self._resting.keys() & indexes:
            del self._resting[index]

    @property
    def covered(self) -> bool:
        """Return whether durable outcomes exist for all calls, so that the message may be deleted."""
        return self._object_stored and len(self._covered) == len(self._all)

    @property
    def resolved_calls(self) -> Sequence[int]:
        """Return the calls whose outcomes are known to be durable."""
        return sorted(self._covered)
