"""The receiver's thread: one poll per order of the loop, everything it brings prepared, then the loop's turn again."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass

from wren_worker.clock import Clock
from wren_worker.daemon.events import Inbox, PollEnded, Rejected
from wren_worker.daemon.intake import Intake
from wren_worker.daemon.leases import LeaseKeeper
from wren_worker.errors import WrenError
from wren_worker.protocol.ports import TaskQueue

__all__ = ["Receiver"]


@dataclass(frozen=True, slots=True)
class _Order:
    max_messages: int
    wait_time: float


class Receiver:
    """Polls when told to. ``polling`` is true from an order until its PollEnded was taken note of by the loop."""

    def __init__(
        self,
        *,
        queue_: TaskQueue,
        intake: Intake,
        leases: LeaseKeeper,
        inbox: Inbox,
        lease_time: float,
        clock: Clock,
    ) -> None:
        self._queue = queue_
        self._intake = intake
        self._leases = leases
        self._inbox = inbox
        self._lease_time = lease_time
        self._clock = clock
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="wren-receiver", daemon=True)
        self.polling = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def poll(self, *, max_messages: int, wait_time: float) -> None:
        """Order one poll; the loop calls it only while ``polling`` is false."""
        self.polling = True
        self._orders.put(_Order(max_messages, wait_time))

    def stop(self) -> None:
        """End the thread after the poll it is in, if any."""
        self._orders.put(None)

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            n_messages, n_rejected, error = 0, 0, ""
            try:
                n_messages, n_rejected = self._poll(order)
            except WrenError as problem:
                error = str(problem)
            except Exception as problem:  # noqa: BLE001 - the loop must hear of it, or it would wait for ever
                error = f"{type(problem).__name__}: {problem}"
            self._inbox.put(PollEnded(n_messages=n_messages, n_rejected=n_rejected, error=error))

    def _poll(self, order: _Order) -> tuple[int, int]:
        n_rejected = 0
        self._intake.check()
        since = self._clock.monotonic()
        # a lease counts from before its poll, so a poll must leave most of it
        wait_time = min(order.wait_time, self._lease_time / 3)
        messages = self._queue.receive(
            max_messages=order.max_messages, wait_time=wait_time, lease_time=self._lease_time
        )
        # all of them before the first is fetched: fetching may take longer than a lease
        for message in messages:
            self._leases.track(message.receipt_handle, since=since)
        for position, message in enumerate(messages):
            try:
                event = self._intake.prepare(message)
            except Exception:
                # ours until the lease lapses, then somebody's; nothing is lost, and the loop backs off
                for left in messages[position:]:
                    self._leases.untrack(left.receipt_handle)
                raise
            if isinstance(event, Rejected):
                n_rejected += 1
                self._leases.untrack(message.receipt_handle)
            self._inbox.put(event)
        return len(messages), n_rejected
