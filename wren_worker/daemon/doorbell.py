"""The doorbell's thread: hears that calls of a job were cancelled, and finds out which of those held here.

A verdict is recorded under the result keys, as all outcomes are; the doorbell is an object of the job that is written
anew after it. An instance that has worked on a job for a while asks for it now and then: one GET a job.
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from wren_worker.clock import Clock
from wren_worker.daemon.events import Inbox, Settled
from wren_worker.daemon.holding import Holding
from wren_worker.daemon.settle import read_settled
from wren_worker.log import EventLog
from wren_worker.protocol.model import Chunk, cancel_key
from wren_worker.protocol.ports import ObjectStore

__all__ = ["Doorbell"]

#: Jobs whose calls are done within this are never asked for.
_SHORT_JOB_TIME = 2.0
#: How often the loop looks which jobs there are.
_SHOW_INTERVAL = 0.5
#: A job whose chunks come one by one is the same work as long as the next comes within this.
_ABSENCE_TIME = 10.0
_RUNG_JOBS = 1024


@dataclass(slots=True)
class _Presence:
    """Since when a job is worked on, and when it last was."""

    since: float
    last: float


class Doorbell:
    """Listens for the jobs that are held; ``show`` and ``settle`` are the loop's, ``rung`` is anybody's.

    Args:
        store: The fleet's bucket.
        inbox: Where Settled goes.
        interval: Seconds between two GETs of a job's doorbell.
        clock: Monotonic time.
        log: For what is heard.
    """

    def __init__(self, *, store: ObjectStore, inbox: Inbox, interval: float, clock: Clock, log: EventLog) -> None:
        self._store = store
        self._inbox = inbox
        self._interval = interval
        self._clock = clock
        self._log = log
        self._presences: dict[str, _Presence] = {}
        self._next_show = 0.0
        self._watched: dict[str, list[tuple[str, Chunk]]] = {}
        self._orders: queue.SimpleQueue[tuple[str, Chunk] | None] = queue.SimpleQueue()
        #: What was last read of each job's doorbell, and which deliveries have been settled since.
        self._rung: OrderedDict[str, bytes] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name="wren-doorbell", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after what it does now."""
        self._orders.put(None)

    def rung(self, job_id: str) -> bool:
        """Return whether calls of the job are known to have been cancelled."""
        return job_id in self._rung

    def show(self, holdings: Sequence[Holding]) -> None:
        """Take note of what is held."""
        now = self._clock.monotonic()
        if now < self._next_show:
            return
        self._next_show = now + _SHOW_INTERVAL
        watched: dict[str, list[tuple[str, Chunk]]] = {}
        for holding in holdings:
            presence = self._presences.setdefault(holding.chunk.job_id, _Presence(now, now))
            presence.last = now
            if now - presence.since >= _SHORT_JOB_TIME and not holding.leaving:
                watched.setdefault(holding.chunk.job_id, []).append((holding.receipt_handle, holding.chunk))
        for job_id in [job_id for job_id, p in self._presences.items() if now - p.last > _ABSENCE_TIME]:
            del self._presences[job_id]
        self._watched = watched

    def settle(self, receipt_handle: str, chunk: Chunk) -> None:
        """Order that a delivery be looked at now: its job's doorbell rang while it was being fetched."""
        self._orders.put((receipt_handle, chunk))

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        next_time: dict[str, float] = {}
        while True:
            try:
                order = self._orders.get(timeout=_SHOW_INTERVAL)
            except queue.Empty:
                next_time = self._ask(next_time)
                continue
            if order is None:
                return
            self._settle([order])

    def _ask(self, next_time: dict[str, float]) -> dict[str, float]:
        now, watched = self._clock.monotonic(), self._watched
        for job_id, held in watched.items():
            if now < next_time.get(job_id, 0.0):
                continue
            next_time[job_id] = now + self._interval
            try:
                data = self._store.get(cancel_key(job_id))
            except Exception as error:  # noqa: BLE001 - a dead thread would never hear of a cancellation again
                self._log.event("doorbell_unheard", job_id=job_id, error=str(error))
                continue
            if data is None or self._rung.get(job_id) == data:
                continue
            before = self._rung.get(job_id)
            self._rung[job_id] = data  # before the look: what arrives from now on is looked at by itself
            self._log.event("job_cancelled", job_id=job_id, n_chunks=len(held))
            if not self._settle(held):
                self._rung[job_id] = before or b""  # look again
            while len(self._rung) > _RUNG_JOBS:
                self._rung.popitem(last=False)
        return {job_id: when for job_id, when in next_time.items() if job_id in watched}

    def _settle(self, held: Sequence[tuple[str, Chunk]]) -> bool:
        for receipt_handle, chunk in held:
            try:
                settled = read_settled(self._store, chunk)
            except Exception as error:  # noqa: BLE001 - as above
                self._log.event("doorbell_unheard", job_id=chunk.job_id, error=str(error))
                return False
            if settled is not None:
                self._inbox.put(Settled(receipt_handle=receipt_handle, known=settled[0], resolved=settled[1]))
        return True
