"""The message store of one standard SQS queue, whose every operation costs the same at any depth.

moto's own keeps one list and scans it at every step. Pure but for the clock and the lock; knows nothing of moto.

Source: "Amazon SQS visibility timeout" and the API reference of SendMessage, ReceiveMessage, DeleteMessage and
ChangeMessageVisibility, read 2026-11.
"""

from __future__ import annotations

import heapq
import secrets
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Counts", "HandleInvalid", "Letter", "Mailbox", "MailboxClosed", "NotInFlight"]

_LONGEST_VISIBILITY = 43200.0


class HandleInvalid(Exception):
    """The text is no receipt handle of this queue."""


class NotInFlight(Exception):
    """The message is visible again, or gone."""


class TooLong(Exception):
    """The message would be invisible for more than 12 hours since it was received."""


class MailboxClosed(Exception):
    """The queue was deleted."""


@dataclass(slots=True, eq=False, kw_only=True)
class Letter:
    """One message. Instants in unix seconds; ``free_at`` is when it may be received (again)."""

    body: str
    md5: str
    attributes: Mapping[str, Any]
    attributes_md5: str
    group_id: str
    sent_timestamp: float
    free_at: float
    message_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    secret: str = field(default_factory=lambda: secrets.token_hex(8))
    receive_count: int = 0
    first_received_timestamp: float = 0.0
    received_timestamp: float = 0.0
    ready: bool = False

    @property
    def handle(self) -> str:
        """Return the receipt handle of the latest delivery."""
        return f"{self.message_id}#{self.secret}#{self.receive_count}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What GetQueueAttributes tells."""

    visible: int
    in_flight: int
    delayed: int


class Mailbox:
    """One queue's messages. Every method may be called from any thread.

    Args:
        now: Unix seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._changed = threading.Condition()
        self._letters: dict[str, Letter] = {}
        self._ready: deque[Letter] = deque()
        self._waiting: list[tuple[float, int, Letter]] = []  # (free_at, tie-break, letter); stale entries are skipped
        self._n_waits = 0
        self._closed = False
        self.n_steps = 0  # work done, for the test that it does not grow with depth

    def send(self, letters: Iterable[Letter]) -> None:
        """Store messages."""
        now, n_ready = self._now(), 0
        with self._changed:
            if self._closed:
                raise MailboxClosed
            for letter in letters:
                self._letters[letter.message_id] = letter
                self.n_steps += 1
                if letter.free_at <= now:
                    letter.ready = True
                    self._ready.append(letter)
                    n_ready += 1
                else:
                    self._wait(letter)
            # one waiter per message is enough; a delayed message may shorten somebody's wait
            self._changed.notify(max(n_ready, 1))

    def receive(
        self,
        *,
        max_messages: int,
        wait_time: float,
        visibility_time: float,
        is_listening: Callable[[], bool],
        give_up: Callable[[Letter], bool] = lambda _letter: False,
    ) -> tuple[list[Letter], list[Letter]]:
        """Return up to ``max_messages``, and those that ``give_up`` wants in the dead-letter queue.

        Args:
            max_messages: 1..10.
            wait_time: Seconds to wait for the first message.
            visibility_time: Seconds for which what is returned is nobody else's.
            is_listening: Whether the caller is still there: a dead poller must not swallow messages.
            give_up: Whether a message was received too often; taken out of this mailbox.

        Raises:
            MailboxClosed: The queue was deleted meanwhile.
        """
        deadline = self._now() + wait_time
        with self._changed:
            while True:
                if self._closed:
                    raise MailboxClosed
                now = self._now()
                self._free_what_is_due(now)
                if self._ready and not is_listening():
                    self._changed.notify()  # hand the wake-up on
                    return [], []
                taken, given_up = self._take(now, max_messages, visibility_time, give_up)
                if taken or given_up or now >= deadline:
                    return taken, given_up
                due = min(deadline, self._waiting[0][0]) if self._waiting else deadline
                self._changed.wait(max(0.0005, due - now))

    def _take(
        self, now: float, max_messages: int, visibility_time: float, give_up: Callable[[Letter], bool]
    ) -> tuple[list[Letter], list[Letter]]:
        taken: list[Letter] = []
        given_up: list[Letter] = []
        while self._ready and len(taken) < max_messages:
            letter = self._ready.popleft()
            self.n_steps += 1
            if not letter.ready or letter.message_id not in self._letters:
                continue  # deleted while it was visible
            letter.ready = False
            if give_up(letter):
                del self._letters[letter.message_id]
                given_up.append(letter)
                continue
            letter.receive_count += 1
            letter.received_timestamp = now
            letter.first_received_timestamp = letter.first_received_timestamp or now
            letter.free_at = now + visibility_time
            if visibility_time > 0:
                self._wait(letter)
            taken.append(letter)
        for letter in taken:
            if visibility_time <= 0 and not letter.ready:
                letter.ready = True
                self._ready.append(letter)
        return taken, given_up

    def change_visibility(self, handle: str, visibility_time: float) -> None:
        """Make a delivery last ``visibility_time`` seconds from now; 0 gives it back.

        Raises:
            HandleInvalid: This is no handle of this queue.
            NotInFlight: The message is visible again, or gone.
            TooLong: 12 hours since it was received would be passed.
        """
        with self._changed:
            letter = self._find(handle)
            now = self._now()
            if letter is None or letter.ready or letter.free_at <= now or letter.receive_count == 0:
                raise NotInFlight
            if now + visibility_time - letter.received_timestamp > _LONGEST_VISIBILITY + 1:
                raise TooLong
            letter.free_at = now + visibility_time
            if visibility_time > 0:
                self._wait(letter)
                return
            letter.ready = True
            self._ready.append(letter)
            self._changed.notify()

    def delete(self, handle: str) -> None:
        """Delete a message; one that is gone already is no error.

        Raises:
            HandleInvalid: This is no handle of this queue.
        """
        with self._changed:
            letter = self._find(handle)
            if letter is not None:
                del self._letters[letter.message_id]
                letter.ready = False

    def purge(self) -> None:
        """Delete every message."""
        with self._changed:
            self._letters.clear()
            self._ready.clear()
            self._waiting.clear()

    def close(self) -> None:
        """End every poll: the queue is deleted."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def counts(self) -> Counts:
        """Return how many messages are in which state."""
        with self._changed:
            self._free_what_is_due(self._now())
            letters = self._letters.values()
            visible = sum(letter.ready for letter in letters)
            delayed = sum(not letter.ready and letter.receive_count == 0 for letter in letters)
            return Counts(visible=visible, delayed=delayed, in_flight=len(letters) - visible - delayed)

    def _wait(self, letter: Letter) -> None:
        self._n_waits += 1
        heapq.heappush(self._waiting, (letter.free_at, self._n_waits, letter))

    def _free_what_is_due(self, now: float) -> None:
        while self._waiting and self._waiting[0][0] <= now:
            free_at, _, letter = heapq.heappop(self._waiting)
            self.n_steps += 1
            # an extended, released or deleted message left this entry behind
            if letter.free_at == free_at and not letter.ready and letter.message_id in self._letters:
                letter.ready = True
                self._ready.append(letter)

    def _find(self, handle: str) -> Letter | None:
        """Return the message of a handle of any of its deliveries, None when it is gone."""
        message_id, _, rest = handle.partition("#")
        secret, _, number = rest.partition("#")
        if not number.isdigit() or not secret:
            raise HandleInvalid
        letter = self._letters.get(message_id)
        if letter is not None and letter.secret != secret:
            raise HandleInvalid
        return letter
