"""The lease keeper's thread: every held delivery is heartbeated, on a client of its own.

Its requests are neither retried by botocore nor queued behind a slow upload: a beat that is late is worth nothing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from wren_worker.clock import Clock
from wren_worker.daemon.events import Inbox, LeaseLost
from wren_worker.log import EventLog
from wren_worker.protocol.ports import LeaseState, TaskQueue

__all__ = ["LeaseKeeper"]

#: A beat at a third of the lease, then every fifteenth until one gets through.
_BEAT, _RETRY = 3, 15
_BATCH = 10


@dataclass(slots=True)
class _Lease:
    deadline: float
    next_beat: float


class LeaseKeeper:
    """Keeps leases alive until they are untracked or certainly lost.

    Args:
        queue_: The task queue, on a client with short timeouts and no retries.
        inbox: Where LeaseLost goes.
        lease_time: Seconds a delivery is ours without a beat.
        clock: Monotonic time.
        log: For beats that fail.
    """

    def __init__(self, *, queue_: TaskQueue, inbox: Inbox, lease_time: float, clock: Clock, log: EventLog) -> None:
        self._queue = queue_
        self._inbox = inbox
        self._lease_time = lease_time
        self._clock = clock
        self._log = log
        self._lock = threading.Lock()
        self._leases: dict[str, _Lease] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wren-leases", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; leases lapse from here on."""
        self._stopped.set()

    def track(self, receipt_handle: str, *, since: float) -> None:
        """Keep a lease alive.

        Args:
            receipt_handle: The delivery.
            since: When it was asked for, on the keeper's clock. SQS gave it some time after, and how long before the
                answer was read nobody knows: this process may have been stopped in between.
        """
        with self._lock:
            self._leases[receipt_handle] = _Lease(since + self._lease_time, since + self._lease_time / _BEAT)

    def untrack(self, receipt_handle: str) -> None:
        """Let a lease be: its message was deleted, released, or is nobody's business here."""
        with self._lock:
            self._leases.pop(receipt_handle, None)

    def held(self, receipt_handle: str) -> bool:
        """Return whether a lease is certainly ours now; after a stop of the whole process none may be."""
        with self._lock:
            lease = self._leases.get(receipt_handle)
        return lease is not None and lease.deadline > self._clock.monotonic()

    def beat(self) -> None:
        """Extend what is due and give up what is certainly lost; the thread calls it, and so do tests."""
        now = self._clock.monotonic()
        with self._lock:
            lost = [handle for handle, lease in self._leases.items() if lease.deadline <= now]
            due = [h for h, lease in self._leases.items() if lease.next_beat <= now and lease.deadline > now]
        for start in range(0, len(due), _BATCH):
            lost += self._extend(due[start : start + _BATCH])
        for handle in lost:
            with self._lock:
                known = self._leases.pop(handle, None)
            if known is not None:
                self._inbox.put(LeaseLost(receipt_handle=handle))

    def _extend(self, handles: list[str]) -> list[str]:
        asked = self._clock.monotonic()  # the lease counts from when SQS got the request, which is not before this
        states = self._queue.extend(handles, lease_time=self._lease_time)
        lost = []
        with self._lock:
            for handle, state in zip(handles, states, strict=True):
                lease = self._leases.get(handle)
                if lease is None:
                    continue
                if state is LeaseState.EXTENDED:
                    lease.deadline = asked + self._lease_time
                    lease.next_beat = asked + self._lease_time / _BEAT
                elif state is LeaseState.LOST:
                    lost.append(handle)
                else:
                    lease.next_beat = self._clock.monotonic() + self._lease_time / _RETRY
                    self._log.event("lease_beat_failed")
        return lost

    def _run(self) -> None:
        while not self._stopped.wait(min(1.0, self._lease_time / (2 * _RETRY))):
            try:
                self.beat()
            except Exception as error:  # noqa: BLE001 - a dead lease keeper would silently double all work
                self._log.event("lease_keeper_error", error=repr(error))
