"""The task queue and the reply queues, in memory."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from wren_worker.clock import Clock, SystemClock
from wren_worker.errors import QueueError
from wren_worker.protocol.ports import LeaseState, OutgoingMessage, QueueDepth, ReceivedMessage
from wren_worker.testing.clock import FakeClock

__all__ = ["MemoryPostOffice", "MemoryReplyQueue", "MemoryReplySender", "MemoryTaskQueue"]

#: Source: SQS SendMessageBatch and ChangeMessageVisibility, read 2026-11.
_MAX_BODY_BYTES = 1_048_576
_MAX_LEASE_TIME = 43_200.0
_MAX_MESSAGES = 10
_REPLY_LEASE_TIME = 30.0


@dataclass(slots=True, eq=False)
class _Letter:
    number: int
    body: str
    sent_timestamp: float
    free_at: float = 0.0
    received_at: float = 0.0
    receive_count: int = 0


class _Mailbox:
    """One queue's messages, oldest first."""

    def __init__(self, url: str, clock: Clock, max_receive_count: int | None = None) -> None:
        self.url = url
        self._clock = clock
        self._max_receive_count = max_receive_count
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._letters: dict[int, _Letter] = {}
        self._dead: list[str] = []
        self._gone = False

    def send(self, bodies: Sequence[str]) -> None:
        with self._changed:
            self._refuse_if_gone(unsent=list(range(len(bodies))))
            unsent = []
            for position, body in enumerate(bodies):
                if not 0 < len(body.encode()) <= _MAX_BODY_BYTES:
                    unsent.append(position)
                    continue
                number = next(self._numbers)
                self._letters[number] = _Letter(number, body, self._clock.timestamp())
            self._changed.notify_all()
        if unsent:
            text = f"{len(unsent)} messages are empty or larger than the {_MAX_BODY_BYTES} bytes that SQS takes."
            raise QueueError(text, unsent=unsent, gone=False, denied=False, transient=False)

    def receive(self, max_messages: int, wait_time: float, lease_time: float) -> list[ReceivedMessage]:
        deadline = self._clock.monotonic() + wait_time
        with self._changed:
            while True:
                self._refuse_if_gone()
                now = self._clock.monotonic()
                taken = self._take(now, max(1, min(_MAX_MESSAGES, max_messages)), lease_time)
                if taken or now >= deadline:
                    return taken
                self._pause(min([deadline, *(letter.free_at for letter in self._letters.values())]) - now)

    def _take(self, now: float, max_messages: int, lease_time: float) -> list[ReceivedMessage]:
        taken: list[ReceivedMessage] = []
        for letter in [letter for letter in self._letters.values() if letter.free_at <= now]:
            if self._max_receive_count is not None and letter.receive_count >= self._max_receive_count:
                self._dead.append(self._letters.pop(letter.number).body)
                continue
            letter.receive_count += 1
            letter.received_at, letter.free_at = now, now + lease_time
            taken.append(
                ReceivedMessage(
                    body=letter.body,
                    receipt_handle=self._handle(letter),
                    receive_count=letter.receive_count,
                    sent_timestamp=letter.sent_timestamp,
                    sender_id="memory",
                )
            )
            if len(taken) == max_messages:
                break
        return taken

    def _pause(self, duration_time: float) -> None:
        # at least a little: a remainder that floats round away must not keep the loop spinning
        duration_time = max(0.0005, duration_time)
        if isinstance(self._clock, FakeClock):
            self._clock.advance(duration_time)
        else:
            self._changed.wait(duration_time)

    def extend(self, handle: str, lease_time: float) -> LeaseState:
        with self._changed:
            letter, now = self._find(handle), self._clock.monotonic()
            if letter is None or self._handle(letter) != handle or letter.free_at <= now:
                return LeaseState.LOST
            if now + lease_time - letter.received_at > _MAX_LEASE_TIME:
                return LeaseState.LOST
            letter.free_at = now + lease_time
            self._changed.notify_all()
            return LeaseState.EXTENDED

    def delete(self, handle: str) -> bool:
        """Return whether SQS would have said yes; an outdated handle gets a yes and deletes nothing."""
        with self._changed:
            if self._gone or handle.rpartition("#")[0].rpartition("#")[0] != self.url:
                return False
            letter = self._find(handle)
            if letter is not None and self._handle(letter) == handle:
                del self._letters[letter.number]
            return True

    def depth(self) -> QueueDepth:
        with self._changed:
            self._refuse_if_gone()
            now = self._clock.monotonic()
            in_flight = sum(letter.free_at > now for letter in self._letters.values())
            return QueueDepth(visible=len(self._letters) - in_flight, in_flight=in_flight)

    def dead_letters(self) -> list[str]:
        with self._changed:
            return list(self._dead)

    def remove(self) -> None:
        with self._changed:
            self._gone = True
            self._letters.clear()
            self._changed.notify_all()

    def _handle(self, letter: _Letter) -> str:
        return f"{self.url}#{letter.number}#{letter.receive_count}"

    def _find(self, handle: str) -> _Letter | None:
        number = handle.rpartition("#")[0].rpartition("#")[2]
        return self._letters.get(int(number)) if number.isdecimal() else None

    def _refuse_if_gone(self, **data: object) -> None:
        if self._gone:
            raise QueueError(f"There is no queue {self.url}.", gone=True, denied=False, transient=False, **data)


class MemoryTaskQueue:
    """Fills ``ports.TaskQueue``.

    Args:
        name: The queue's name.
        clock: Measures leases and waits.
        max_receive_count: A message that was received so often is a dead letter at the next receive.
    """

    def __init__(self, name: str = "tasks", *, clock: Clock | None = None, max_receive_count: int = 30) -> None:
        self._name = name
        self._box = _Mailbox(f"memory://{name}", clock or SystemClock(), max_receive_count)

    @property
    def name(self) -> str:
        """Return the queue's name."""
        return self._name

    @property
    def dead_letters(self) -> list[str]:
        """Return the bodies of the dead letters, oldest first."""
        return self._box.dead_letters()

    def send(self, messages: Sequence[OutgoingMessage]) -> None:
        """Send every message.

        Raises:
            QueueError: Some are larger than SQS takes; ``unsent`` holds their positions.
        """
        self._box.send([message.body for message in messages])

    def receive(self, *, max_messages: int, wait_time: float, lease_time: float) -> list[ReceivedMessage]:
        """Return up to ``max_messages`` (1..10); wait up to ``wait_time`` seconds for the first."""
        return self._box.receive(max_messages, wait_time, lease_time)

    def extend(self, receipt_handles: Sequence[str], *, lease_time: float) -> list[LeaseState]:
        """Make leases last ``lease_time`` seconds from now; one state per handle."""
        return [self._box.extend(handle, lease_time) for handle in receipt_handles]

    def release(self, receipt_handles: Sequence[str], *, delay: float = 0.0) -> None:
        """Give deliveries back, ``delay`` seconds from now."""
        for handle in receipt_handles:
            self._box.extend(handle, delay)

    def delete(self, receipt_handles: Sequence[str]) -> list[str]:
        """Delete messages; return the handles that are none of this queue's."""
        return [handle for handle in receipt_handles if not self._box.delete(handle)]

    def depth(self) -> QueueDepth:
        """Return how many messages wait and how many are held; exact, unlike on AWS."""
        return self._box.depth()


class MemoryPostOffice:
    """The reply queues that exist: what ``MemoryReplyQueue`` and ``MemoryReplySender`` share."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._boxes: dict[str, _Mailbox] = {}

    def open(self, reply_id: str) -> MemoryReplyQueue:
        """Create a reply queue, or return the one of that id."""
        url = f"memory://reply-{reply_id}"
        return MemoryReplyQueue(self, self._boxes.setdefault(url, _Mailbox(url, self._clock)))

    def find(self, url: str) -> _Mailbox:
        """Return the queue at an address; one that was never there is gone."""
        box = self._boxes.get(url)
        if box is None:
            raise QueueError(f"There is no queue {url}.", gone=True, denied=False, transient=False)
        return box

    def close(self, url: str) -> None:
        """Delete a queue; whoever polls it is told."""
        box = self._boxes.pop(url, None)
        if box is not None:
            box.remove()


class MemoryReplyQueue:
    """Fills ``ports.ReplyQueue``; made by ``MemoryPostOffice.open``."""

    def __init__(self, office: MemoryPostOffice, box: _Mailbox) -> None:
        self._office = office
        self._box = box

    @property
    def url(self) -> str:
        """Return the address that travels in chunk messages."""
        return self._box.url

    def receive(self, *, wait_time: float) -> list[ReceivedMessage]:
        """Return up to ten messages; wait up to ``wait_time`` seconds for the first.

        Raises:
            QueueError: ``gone`` is true when the queue was removed.
        """
        return self._box.receive(_MAX_MESSAGES, wait_time, _REPLY_LEASE_TIME)

    def delete(self, receipt_handles: Sequence[str]) -> None:
        """Delete messages."""
        for handle in receipt_handles:
            self._box.delete(handle)

    def remove(self) -> None:
        """Delete the queue itself."""
        self._office.close(self.url)


class MemoryReplySender:
    """Fills ``ports.ReplySender``; reaches the queues of one post office."""

    def __init__(self, office: MemoryPostOffice) -> None:
        self._office = office

    def send(self, url: str, bodies: Sequence[str]) -> None:
        """Send every body to one queue.

        Raises:
            QueueError: ``gone`` is true when the queue does not exist.
        """
        self._office.find(url).send(bodies)
