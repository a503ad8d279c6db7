"""Everything the daemon holds: which call goes to which slot, what became of it, what is stored, what may go.

Runs on the loop's thread. It decides; slots, publisher and lease keeper do.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wren_worker.clock import Clock
from wren_worker.daemon.dispatch import Dispatch, Paces, Timeouts
from wren_worker.daemon.endings import Endings
from wren_worker.daemon.events import Arrived, Removed, Settled, Stored
from wren_worker.daemon.holding import Holding
from wren_worker.daemon.leases import LeaseKeeper
from wren_worker.daemon.memory import MemoryWatch
from wren_worker.daemon.outputs import Outputs
from wren_worker.daemon.publisher import Publisher
from wren_worker.daemon.slot import Ended, Finished, Given, Slot, SlotEvent
from wren_worker.daemon.verdicts import attempts_exhausted
from wren_worker.log import EventLog

__all__ = ["Workload"]

#: A chunk that runs longer than this is worth splitting, if its calls are long enough to be worth a PUT each.
#: Source: 1 S3 PUT costs what a c5.xlarge costs in 0.106 s (list prices, read 2026-11).
_SPLIT_AFTER_TIME = 3.0
_WORTH_A_PUT_TIME = 0.1
_MAX_PUT_PAUSE = 30.0
#: A chunk that was fetched ahead goes back when no call of it could start for so long.
_UNSTARTED_TIME = 5.0


@dataclass(slots=True)
class _Setback:
    """Storing failed: since when, and when to try again."""

    since: float
    retry: float
    pause: float


class Workload:
    """The deliveries an instance holds.

    Args:
        slots: All slots.
        publisher: Stores, notifies, deletes.
        leases: Heartbeats what is held.
        outputs: Joins outputs to outcomes.
        clock: The loop's clock.
        log: For what becomes of chunks.
        instance_id: Written into results.
        grace_time: Seconds between SIGTERM and SIGKILL of a call that ran too long.
        publish_timeout: Seconds after which a result that cannot be stored is dropped.
        memory: Ends slots that hold too much.
        chance: Spreads the waits before retries.
    """

    def __init__(
        self,
        *,
        slots: Sequence[Slot],
        publisher: Publisher,
        leases: LeaseKeeper,
        outputs: Outputs,
        clock: Clock,
        log: EventLog,
        instance_id: str,
        grace_time: float,
        publish_timeout: float,
        memory: MemoryWatch,
        chance: random.Random | None = None,
    ) -> None:
        self._slots = slots
        self._paces = Paces()
        self._dispatch = Dispatch(slots=slots, paces=self._paces, clock=clock)
        self._timeouts = Timeouts(slots=slots, grace_time=grace_time, clock=clock)
        self._memory = memory
        self._publisher = publisher
        self._leases = leases
        self._outputs = outputs
        self._clock = clock
        self._log = log
        self._instance_id = instance_id
        self._publish_timeout = publish_timeout
        self._holdings: dict[str, Holding] = {}
        self._setbacks: dict[str, _Setback] = {}
        self._endings = Endings(
            holdings=self._holdings,
            timeouts=self._timeouts,
            memory=memory,
            outputs=outputs,
            clock=clock,
            log=log,
            instance_id=instance_id,
            chance=chance or random.Random(),  # noqa: S311 - it spreads load
        )
        self._releasing = False
        #: When the receiver's own poll has ended for certain: what is given back earlier, it would receive itself.
        self.poll_ends = 0.0
        self.last_work = clock.monotonic()
        self.n_calls_done = 0

    # --- what is held -----------------------------------------------------------------------------------------------

    @property
    def holdings(self) -> Sequence[Holding]:
        """Return what is held, oldest first."""
        return list(self._holdings.values())

    @property
    def empty(self) -> bool:
        """Return whether nothing is held, running or unpublished."""
        return not self._holdings

    @property
    def n_wanted(self) -> int:
        """Return how many chunks to ask for."""
        return self._dispatch.wanted(self.holdings)

    @property
    def storing(self) -> bool:
        """Return whether results can be stored, as far as is known; while they cannot, more work is of no use."""
        return not self._setbacks and self._publisher.state_written

    # --- facts from other threads -----------------------------------------------------------------------------------

    def arrive(self, arrived: Arrived) -> None:
        """Take a delivery in."""
        now = self._clock.monotonic()
        holding = Holding(arrived, instance_id=self._instance_id, held_since=now)
        self._holdings[holding.receipt_handle] = holding
        if arrived.delivery > arrived.chunk.limits.max_deliveries:
            for index in holding.give_up_waiting():
                holding.outcome(index, attempts_exhausted(index, arrived.delivery - 1))
        if holding.covered:
            self._publisher.notify(holding)
        self._log.event(
            "chunk_received",
            job_id=holding.chunk.job_id,
            chunk_id=holding.chunk.chunk_id,
            n_calls=holding.chunk.n_calls,
            delivery=holding.delivery,
        )

    def _is_ours(self, holding: Holding) -> bool:
        """Return whether its message may still be touched; the lease keeper's word may come too late for this."""
        if not holding.lease_lost and not self._leases.held(holding.receipt_handle):
            self.lease_lost(holding.receipt_handle)
        return not holding.lease_lost

    def lease_lost(self, receipt_handle: str) -> None:
        """Its message is not touched again; its work goes on, and its result may still be the first."""
        holding = self._holdings.get(receipt_handle)
        if holding is not None:
            holding.lease_lost = True
            self._log.event("lease_lost", job_id=holding.chunk.job_id, chunk_id=holding.chunk.chunk_id)

    def stored(self, stored: Stored) -> None:
        """Take note of a PUT's end."""
        holding = self._holdings.get(stored.receipt_handle)
        if holding is None:
            return
        now = self._clock.monotonic()
        if not stored.error:
            self._setbacks.pop(stored.receipt_handle, None)
            holding.stored(stored.call_index, stored.found)
            return
        if stored.refused:
            # not deleted: no outcome is stored that anybody could read; it ends in the dead-letter queue
            self._log.event("result_refused", key=stored.key, error=stored.error)
            self._drop(holding)
            return
        holding.put_failed(stored.call_index)
        setback = self._setbacks.setdefault(stored.receipt_handle, _Setback(now, now, 1.0))
        setback.retry, setback.pause = now + setback.pause, min(2 * setback.pause, _MAX_PUT_PAUSE)
        self._log.event("result_not_stored", key=stored.key, error=stored.error)
        if now - setback.since > self._publish_timeout:
            self._log.event("result_given_up", key=stored.key, error=stored.error)
            self._publisher.state_written = False  # nothing more is received until a state can be written
            self._drop(holding)

    def settled(self, settled: Settled) -> None:
        """Take note that others have resolved calls that are held here; what runs of them is ended."""
        holding = self._holdings.get(settled.receipt_handle)
        if holding is not None and not holding.leaving:
            holding.settled(settled.known, settled.resolved)

    def removed(self, removed: Removed) -> None:
        """Take note that a message is gone (or comes again, and is found done)."""
        holding = self._holdings.get(removed.receipt_handle)
        if holding is not None:
            self._log.event(
                "chunk_done",
                job_id=holding.chunk.job_id,
                chunk_id=holding.chunk.chunk_id,
                held_time=round(self._clock.monotonic() - holding.held_since, 4),
                deleted=removed.deleted,
            )
            self._drop(holding)

    def _drop(self, holding: Holding) -> None:
        self._leases.untrack(holding.receipt_handle)
        self._holdings.pop(holding.receipt_handle, None)
        self._setbacks.pop(holding.receipt_handle, None)
        if isinstance(holding.args, Path):
            holding.args.unlink(missing_ok=True)
        self.last_work = self._clock.monotonic()

    # --- facts from slots -------------------------------------------------------------------------------------------

    def slot_event(self, event: SlotEvent) -> None:
        """Take note of what a slot said."""
        if isinstance(event, Finished):
            self._finished(event)
        elif isinstance(event, Ended):
            self._endings.ended(event)
        else:
            holding = self._holdings.get(event.given.receipt_handle) if event.given else None
            self._outputs.take(event, holding.chunk.job_id if holding else "")

    def _finished(self, event: Finished) -> None:
        holding = self._holdings.get(event.receipt_handle)
        n_calls = len(event.plain) + len(event.others)
        self.n_calls_done += n_calls
        if holding is None or not n_calls:
            return
        self._paces.note(holding.chunk.job_id, event.run_time, n_calls)
        others = list(event.others)
        if self._outputs.idle and holding.told_by_itself:
            holding.outcomes(event.plain)
        else:
            for index, record in event.plain.items():
                attempt = event.attempts[index]
                others.append((Given(receipt_handle=event.receipt_handle, call_index=index, attempt=attempt), record))
        for given, record in others:
            self._endings.reported(holding, given, event.slot, record)

    # --- verbs of the loop ------------------------------------------------------------------------------------------

    def enforce_limits(self) -> float:
        """End calls that run too long or hold too much; return the seconds until there is more to do without news."""
        watched = self._memory.enforce() if any(not slot.free for slot in self._slots) else 1.0
        return min(watched, self._timeouts.enforce(self._holdings), self._dispatch.wanted_in(self.holdings))

    def release_unstarted(self) -> None:
        """Give back what was fetched ahead and is stuck behind calls that took longer than expected."""
        now = self._clock.monotonic()
        for holding in self.holdings:
            waits = holding.untouched and not holding.cautious and not holding.n_outcomes
            if waits and now - holding.held_since > _UNSTARTED_TIME and not any(slot.free for slot in self._slots):
                self._log.event("chunk_released", job_id=holding.chunk.job_id, chunk_id=holding.chunk.chunk_id)
                self._release(holding)

    def publish(self) -> None:
        """Store what can be stored, and let messages go whose calls are all covered."""
        now, timestamp = self._clock.monotonic(), self._clock.timestamp()
        for holding in self.holdings:
            setback = self._setbacks.get(holding.receipt_handle)
            if holding.leaving or (setback is not None and now < setback.retry):
                continue
            for put in holding.puts(split=self._worth_splitting(holding, now), timestamp=timestamp):
                self._publisher.put(holding, put)
            if holding.covered:
                holding.leaving = True
                if self._is_ours(holding):
                    self._publisher.delete(holding)
                else:
                    self._drop(holding)
            elif self._releasing and not holding.n_running and not holding.busy:
                self._release(holding)

    def _worth_splitting(self, holding: Holding, now: float) -> bool:
        if self._releasing and not holding.n_running:
            return True
        if holding.oversized:
            return True
        if holding.only_rests and holding.rests_until - now > _WORTH_A_PUT_TIME:
            return True  # finished neighbours do not wait with it
        if holding.started is None or now - holding.started < _SPLIT_AFTER_TIME:
            return False
        if any(
            found[0].receipt_handle == holding.receipt_handle and now - found[1] > 1.0
            for found in (slot.running() for slot in self._slots)
            if found is not None
        ):
            return True
        return (self._paces.mean_time(holding.chunk.job_id) or 0.0) >= _WORTH_A_PUT_TIME

    def hand_out(self) -> None:
        """Give waiting calls to free slots."""
        if not self._releasing:
            self._dispatch.hand_out(self.holdings)

    # --- leaving ----------------------------------------------------------------------------------------------------

    def begin_release(self) -> None:
        """Start nothing more: what has not begun goes back now, the rest when its running calls have ended."""
        self._releasing = True
        for holding in self.holdings:
            holding.give_up_waiting()
            if holding.untouched and not holding.n_outcomes:
                self._release(holding)

    def release(self, receipt_handle: str) -> None:
        """Give one delivery back that came too late to be started."""
        holding = self._holdings.get(receipt_handle)
        if holding is not None and not holding.covered:
            self._release(holding)

    def release_all(self) -> None:
        """Give everything back that is still held, whatever it is doing."""
        for holding in self.holdings:
            self._release(holding)

    def _release(self, holding: Holding) -> None:
        if not holding.leaving and self._is_ours(holding):
            self._leases.untrack(holding.receipt_handle)
            delay = max(0.0, self.poll_ends - self._clock.monotonic())
            self._publisher.release(holding.receipt_handle, delay=delay)
        self._drop(holding)
