"""What becomes of a call when its run has ended: an outcome, another attempt, or its place in the queue again.

Runs on the loop's thread.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Mapping

from wren_worker.clock import Clock
from wren_worker.daemon.dispatch import RESOLVED, Timeouts
from wren_worker.daemon.holding import Holding
from wren_worker.daemon.memory import MemoryWatch
from wren_worker.daemon.outputs import Outputs
from wren_worker.daemon.slot import Ended, Given, Slot
from wren_worker.daemon.stories import Story
from wren_worker.daemon.verdicts import CALL_TIMEOUT_NAMES, OomCounter, out_of_memory, slot_crashed, timed_out
from wren_worker.log import EventLog
from wren_worker.protocol import records

__all__ = ["Endings"]


class Endings:
    """Decides on calls by what ended them, and keeps the budgets of retries and of crashes apart.

    Args:
        holdings: What is held, by receipt handle; shared with the workload.
        timeouts: Knows which calls were ended on purpose.
        memory: Knows which slots were ended for their memory.
        outputs: Joins outputs to outcomes.
        clock: The loop's clock.
        log: For what slots die of.
        instance_id: Written into verdicts.
        chance: Spreads the waits before retries.
        oom: Tells whether the kernel has killed for memory.
    """

    def __init__(
        self,
        *,
        holdings: Mapping[str, Holding],
        timeouts: Timeouts,
        memory: MemoryWatch,
        outputs: Outputs,
        clock: Clock,
        log: EventLog,
        instance_id: str,
        chance: random.Random,
        oom: OomCounter | None = None,
    ) -> None:
        self._holdings = holdings
        self._timeouts = timeouts
        self._memory = memory
        self._outputs = outputs
        self._clock = clock
        self._log = log
        self._instance_id = instance_id
        self._chance = chance
        self._oom = oom or OomCounter()

    # --- calls that ended by themselves -------------------------------------------------------------------------------

    def reported(self, holding: Holding, given: Given, slot: Slot, record: bytes) -> None:
        """Take an outcome as the slot wrote it."""
        retriable = record[records.STATUS_AT] == records.FAILURE and not record[records.FLAGS_AT] & records.FLAG_FINAL
        if retriable and holding.failed(given.call_index):
            self._retry(holding, given, slot, record)
        else:
            self._resolve(holding, given, slot, record)

    def _resolve(self, holding: Holding, given: Given, slot: Slot, record: bytes) -> None:
        record = self._outputs.finish(
            given,
            record,
            job_id=holding.chunk.job_id,
            slot=slot.number,
            outbox=slot.folder / "outbox",
            story=holding.story(given.call_index),
        )
        holding.outcome(given.call_index, record)

    def _retry(self, holding: Holding, given: Given, slot: Slot, record: bytes) -> None:
        """Let a call wait for its next attempt, apart from its neighbours."""
        holding.remember(given.call_index, Story.of(record))
        self._forget(holding, given, slot)
        limits = holding.chunk.limits
        longest = min(
            limits.retry_max_delay, limits.retry_delay * 2.0 ** min(60, holding.n_failures(given.call_index) - 1)
        )
        delay = self._chance.uniform(0.0, longest)
        holding.rest(given.call_index, until=self._clock.monotonic() + delay)
        self._log.event(
            "call_waits",
            job_id=holding.chunk.job_id,
            call_index=given.call_index,
            attempt=given.attempt,
            delay_time=round(delay, 3),
        )

    def _again(self, holding: Holding, given: Given, slot: Slot) -> None:
        self._forget(holding, given, slot)
        holding.put_back([given.call_index])

    def _forget(self, holding: Holding, given: Given, slot: Slot) -> None:
        self._outputs.forget(given, job_id=holding.chunk.job_id, slot=slot.number)

    # --- calls whose child is gone ------------------------------------------------------------------------------------

    def ended(self, event: Ended) -> None:
        """Take the end of a slot's child: who pays for it, and who goes on."""
        condemned, shot = self._timeouts.condemned(event.slot), self._memory.shot(event.slot)
        running, left = event.running, event.left
        if running is None and condemned is None and left:
            running, left = self._suspect(left)
        for given in left:
            holding = self._holdings.get(given.receipt_handle)
            if holding is not None:
                self._again(holding, given, event.slot)
        holding = self._holdings.get(running.receipt_handle) if running else None
        if running is None or holding is None:
            return
        if shot is not None:
            record = out_of_memory(running, event, self._instance_id, self._clock, shot)
            self._resolve(holding, running, event.slot, record)
        elif condemned is not None and running != condemned.given:
            self._again(holding, running, event.slot)  # the neighbour of a call that was ended
        elif condemned is not None and condemned.why == RESOLVED:
            self._again(holding, running, event.slot)  # nobody's budget, and not run again
        elif condemned is not None:
            self._timed_out(holding, running, event)
        else:
            self._crashed(holding, running, event)
        self._log.event(
            "slot_ended",
            slot=event.slot.number,
            status=event.status,
            why=event.slot.killing,
            job_id=holding.chunk.job_id,
            call_index=running.call_index,
        )

    def _suspect(self, left: tuple[Given, ...]) -> tuple[Given | None, tuple[Given, ...]]:
        """Return who pays for a child that died between two calls, and who does not: somebody must, or it never ends.

        Of several it is none: they are given to a slot one by one from then on, so that the next time tells.
        """
        holding = self._holdings.get(left[0].receipt_handle)
        if len(left) == 1 or holding is None:
            return left[0], left[1:]
        holding.singly = True
        return None, left

    def _timed_out(self, holding: Holding, given: Given, event: Ended) -> None:
        record = timed_out(given, event, holding.chunk.limits.timeout, self._instance_id, self._clock)
        wanted = holding.job.retry_on if holding.job else ()
        if (not wanted or not CALL_TIMEOUT_NAMES.isdisjoint(wanted)) and holding.failed(given.call_index):
            self._retry(holding, given, event.slot, record)
        else:
            self._resolve(holding, given, event.slot, record)

    def _crashed(self, holding: Holding, given: Given, event: Ended) -> None:
        if event.status == -signal.SIGKILL and self._oom.increased():
            record = out_of_memory(given, event, self._instance_id, self._clock)
            self._resolve(holding, given, event.slot, record)
            return
        record = slot_crashed(given, event, self._instance_id, self._clock)
        if holding.crashed(given.call_index):
            holding.remember(given.call_index, Story.of(record))
            self._again(holding, given, event.slot)
        else:
            self._resolve(holding, given, event.slot, record)
