"""Finds chunks that no queue and no instance has any more, and sends them again.

Nothing here is certain, and nothing needs to be: a chunk that is sent twice is resolved once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wren_worker.client.hints import Hints
from wren_worker.client.job import Job
from wren_worker.client.resend import Resender
from wren_worker.client.resolve import ChunkBook
from wren_worker.client.states import States
from wren_worker.client.transport import Patience
from wren_worker.client.verdicts import Verdicts, verdict
from wren_worker.clock import Clock
from wren_worker.errors import QueueError
from wren_worker.protocol.ports import ObjectStore, TaskQueue
from wren_worker.protocol.wire import new_chunk_id

__all__ = ["Recovery"]

#: How often, while it waits, it asks whether the queue is empty: so many times in the time that makes a chunk lost.
_LOOKS = 3


@dataclass(slots=True)
class _History:
    n_resent: int = 0
    last_time: float = 0.0


class Recovery:
    """Decides what is lost and has it sent again, or given up. Used by the collector's thread.

    A chunk is presumed lost when no instance that shows life says it has it and, for ``lost_time``, no outcome of its
    job came, while the queue reads empty or later chunks of the job have outcomes. It asks for nothing while news
    come: then one request for the queue, one for all instances, each third of that time.

    Args:
        store: The fleet's bucket.
        task_queue: Where chunks go.
        clock: The machine's clock.
        hints: Says what is done.
        resender: Sends.
        patience: How long to wait.
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        task_queue: TaskQueue,
        clock: Clock,
        hints: Hints,
        resender: Resender,
        patience: Patience,
    ) -> None:
        self._queue = task_queue
        self._clock = clock
        self._hints = hints
        self._resender = resender
        self._patience = patience
        self._verdicts = Verdicts(store, clock)
        self._states = States(store, stale_time=patience.lost_time * (_LOOKS - 1) / _LOOKS)
        self._histories: dict[tuple[str, int], _History] = {}
        self._empty_since: float | None = None
        self._next_time = 0.0

    @property
    def interval(self) -> float:
        """Return seconds between two looks."""
        return self._patience.lost_time / _LOOKS

    def tick(self, jobs: Sequence[tuple[Job, float]], *, now: float) -> int:
        """Look, if it is time; return how many calls were given up.

        Args:
            jobs: Jobs with unresolved calls, and for how many seconds no outcome of theirs came.
            now: The monotonic clock.

        Raises:
            QueueError: SQS did not answer.
            StoreError: S3 did not answer.
        """
        quiet = [(job, quiet_time) for job, quiet_time in jobs if quiet_time >= self.interval]
        if not quiet:
            self._empty_since = None
            self._histories = {} if not jobs else self._histories
            return 0
        if now < self._next_time:
            return 0
        self._next_time = now + self.interval
        self._look_at_queue(now)
        self._states.look(now)
        n_given_up = 0
        for job, quiet_time in quiet:
            if quiet_time >= self._patience.lost_time:
                n_given_up += self._recover(job, self._lost(job, now), now)
        return n_given_up

    def _look_at_queue(self, now: float) -> None:
        try:
            depth = self._queue.depth()
        except QueueError as error:
            if not getattr(error, "gone", False):
                raise
            # what it held is gone with it, and is sent once there is a queue again
            text = (
                f"task queue {self._queue.name} does not exist, or was deleted with all that waited in it. "
                "Run `wren-standalone setup` for this fleet: then what is lost is sent again."
            )
            self._hints.trouble(QueueError(text, gone=True), now=now)
        else:
            if depth.visible or depth.in_flight:
                self._empty_since = None
                return
        if self._empty_since is None:
            self._empty_since = now

    def _lost(self, job: Job, now: float) -> list[ChunkBook]:
        """Return the chunks of a job that seem to be nowhere."""
        lost_time, timestamp = self._patience.lost_time, self._clock.timestamp()
        is_empty = self._empty_since is not None and now - self._empty_since >= lost_time
        with job.condition:
            highest = job.ledger.highest_answered
            found = [
                book
                for book in job.ledger.open_books()
                # a clock that was set back says nothing about when it was sent
                if book.host_send_timestamp
                and not 0 <= timestamp - book.host_send_timestamp < lost_time
                and (is_empty or book.number < highest)
            ]
        found = [book for book in found if self._is_due(job, book, now)]
        held = self._states.held({_name(job, book) for book in found}, now) if found else ()
        return [book for book in found if _name(job, book) not in held]

    def _is_due(self, job: Job, book: ChunkBook, now: float) -> bool:
        history = self._histories.get((job.job_id, book.number))
        return history is None or now - history.last_time >= self._patience.lost_time * 2**history.n_resent

    def _recover(self, job: Job, lost: list[ChunkBook], now: float) -> int:
        """Send lost chunks again; give up those that were sent often enough, or cannot be. Return how many calls."""
        hopeless: list[ChunkBook] = []
        again: dict[int, int] = {}
        for book in lost:
            history = self._histories.setdefault((job.job_id, book.number), _History())
            if history.n_resent >= self._patience.most_resends:
                hopeless.append(book)
            else:
                again[book.number] = history.n_resent + 1
        n_given_up = self._verdicts.give_up(job, hopeless, _often_enough(job, self._patience.most_resends))
        if not again:
            return n_given_up
        sent = self._resender.resend(job.job_id, again)
        for number in sent.numbers:
            self._histories[job.job_id, number] = _History(again[number], now)
        if sent.numbers:
            self._hints.tell(
                f"{len(sent.numbers)} chunks of job {job.job_id} are in no queue and on no instance: sent again"
            )
        gone = [book for book in lost if book.number in sent.missing]
        return n_given_up + self._verdicts.give_up(job, gone, _cannot_be_sent(job))


def _name(job: Job, book: ChunkBook) -> str:
    return f"{job.job_id}/{new_chunk_id(book.number)}"


def _often_enough(job: Job, n_resent: int) -> Callable[[int], bytes]:
    return verdict(
        "ChunkLost",
        f"call {{call}} of job {job.job_id} was sent {n_resent + 1} times and no outcome ever came: its messages were "
        "purged, ran out of time, or went to the dead-letter queue as something that no instance can read. "
        "`wren-standalone doctor` may know more; run the call again.",
        resent=n_resent,
    )


def _cannot_be_sent(job: Job) -> Callable[[int], bytes]:
    return verdict(
        "ChunkLost",
        f"call {{call}} of job {job.job_id} is in no queue and on no instance, has no outcome (any more), and cannot "
        "be sent again: its arguments are not in the bucket, or the job is older than the 14 days that messages are "
        "kept. Run the call again.",
        resent=0,
    )
