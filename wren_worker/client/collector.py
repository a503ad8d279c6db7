"""Brings outcomes home: long-polls the reply queue, and looks into S3 when that falls silent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from wren_worker.client.hints import Hints
from wren_worker.client.job import Job
from wren_worker.client.looking import Looker
from wren_worker.client.recovery import Recovery
from wren_worker.client.settling import settle_if_ours
from wren_worker.clock import Clock
from wren_worker.errors import QueueError, StoreError, WireError
from wren_worker.protocol.ports import ObjectStore, ReplyQueue
from wren_worker.protocol.wire import decode_notices

__all__ = ["Collector", "Jobs"]

#: Seconds without news of a job before S3 is looked into; doubles while that finds nothing, up to the second number. A
#: lost notice is rare, a long call is not.
STALL_TIME, LONGEST_STALL_TIME = 5.0, 60.0
#: The same while there is no reply queue to hear from.
LISTING_INTERVAL, LONGEST_LISTING_INTERVAL = 0.25, 5.0
#: Source: SQS ReceiveMessage, read 2026-11: WaitTimeSeconds is at most 20.
_LONGEST_POLL_TIME = 20.0
#: A wait that took so much longer than it should: the machine slept, and the world went on.
_NAP_TIME = 60.0
#: Seconds before a queue or bucket that does not answer is asked again.
_TROUBLE_PAUSE_TIME = 1.0


class Jobs(Protocol):
    """The jobs whose outcomes are wanted."""

    def job(self, job_id: str) -> Job | None:
        """Return a job by its id."""
        ...

    def pending(self) -> list[Job]:
        """Return the jobs with unresolved calls."""
        ...

    def wait_for_pending(self, timeout: float) -> bool:
        """Block until a job has unresolved calls; False when none has in that many seconds."""
        ...


@dataclass(slots=True)
class _Attention:
    """When one job was heard of last and is to be looked for next, on the monotonic clock."""

    n_news: int
    news_time: float
    last_look_time: float
    look_time: float
    look_interval: float

    def heard(self, n_news: int, *, now: float, interval: float) -> None:
        """Take note of news. A job that talks is looked for too, seldom: one notice of many may be lost."""
        self.n_news, self.news_time, self.look_interval = n_news, now, interval
        self.look_time = max(now, min(now + interval, self.last_look_time + LONGEST_STALL_TIME))


class Collector:
    """One thread's work: ``run``. Hints only ever wake it; what it believes lies in S3 or came from there.

    Args:
        jobs: Whom it works for.
        store: The fleet's bucket.
        clock: The machine's clock.
        hints: Says why nothing runs.
        reply_queue: Makes or returns the reply queue, None for S3 only; called in this thread.
        recovery: Sends again what is lost; None: nobody does.
    """

    def __init__(
        self,
        jobs: Jobs,
        *,
        store: ObjectStore,
        clock: Clock,
        hints: Hints,
        reply_queue: Callable[[], ReplyQueue | None],
        recovery: Recovery | None = None,
    ) -> None:
        self._jobs = jobs
        self._clock = clock
        self._hints = hints
        self._make_reply_queue = reply_queue
        self._recovery = recovery
        self._queue: ReplyQueue | None = None
        self._stopping = threading.Event()
        self._looker = Looker(jobs.job, store=store, clock=clock)
        self._attention: dict[str, _Attention] = {}
        self._news_time = clock.monotonic()
        self._longest_wait_time = min(_LONGEST_POLL_TIME, recovery.interval if recovery else _LONGEST_POLL_TIME)

    def stop(self) -> None:
        """Make ``run`` return soon."""
        self._stopping.set()

    def run(self) -> None:
        """Collect until stopped."""
        self._queue = self._make_reply_queue()
        try:
            while not self._stopping.is_set():
                if self._jobs.pending():
                    self.tick()
                elif self._jobs.wait_for_pending(_LONGEST_POLL_TIME):
                    self._start_afresh()
        finally:
            self._looker.close()

    def tick(self) -> None:
        """Wait for notices, or for the time to look into S3; then take what came."""
        now = self._clock.monotonic()
        self._attend(now)
        hint_due = self._hints.due_in(quiet_time=now - self._news_time, now=now)
        due = [attention.look_time - now for attention in self._attention.values()]
        due += [] if hint_due is None else [hint_due]
        wait_time = max(0.0, min(self._longest_wait_time, *due))
        n_news = self._hear(wait_time)
        later = self._clock.monotonic()
        if later - now > wait_time + _NAP_TIME:
            self._wake_up(later)
        self._attend(later)
        try:
            n_news += self._look_into_s3(later)
            if self._recovery is not None:
                jobs = [(job, later - self._attention[job.job_id].news_time) for job in self._known_jobs()]
                n_news += self._recovery.tick(jobs, now=later)
        except (QueueError, StoreError) as error:
            self._in_trouble(error)
            return
        if n_news:
            self._start_afresh()
        elif self._jobs.pending():
            now = self._clock.monotonic()
            self._hints.consider(quiet_time=now - self._news_time, now=now)

    def _start_afresh(self) -> None:
        self._news_time = self._clock.monotonic()

    def _known_jobs(self) -> list[Job]:
        return [job for job in self._jobs.pending() if job.job_id in self._attention]

    def _attend(self, now: float) -> None:
        """Keep the times of the jobs that have unresolved calls."""
        interval = STALL_TIME if self._queue is not None else LISTING_INTERVAL
        pending = {job.job_id: job for job in self._jobs.pending()}
        for job_id in self._attention.keys() - pending.keys():
            del self._attention[job_id]
        for job_id, job in pending.items():
            known = self._attention.get(job_id)
            if known is None:
                self._attention[job_id] = _Attention(job.n_news, now, now, now + interval, interval)
            elif known.n_news != job.n_news:
                known.heard(job.n_news, now=now, interval=interval)

    def _wake_up(self, now: float) -> None:
        """Look at everything now: while this machine slept others may have finished, and nothing was lost by it."""
        for attention in self._attention.values():
            attention.news_time = attention.look_time = now
        self._news_time = now

    def _pause(self, wait_time: float) -> int:
        self._stopping.wait(wait_time)
        return 0

    def _in_trouble(self, error: QueueError | StoreError) -> None:
        # no outcome is lost by it: the network may come back, credentials may be renewed
        self._hints.trouble(error, now=self._clock.monotonic())
        self._pause(_TROUBLE_PAUSE_TIME)

    def _hear(self, wait_time: float) -> int:
        """Take the notices that come within some seconds; return how many calls they resolved."""
        if self._queue is None:
            return self._pause(wait_time)
        try:
            return self._poll(self._queue, wait_time)
        except QueueError as error:
            if getattr(error, "gone", False):
                self._queue = None
                for attention in self._attention.values():
                    attention.look_interval, attention.look_time = LISTING_INTERVAL, self._clock.monotonic()
            else:
                self._in_trouble(error)
        except StoreError as error:
            self._in_trouble(error)
        return 0

    def _poll(self, queue: ReplyQueue, wait_time: float) -> int:
        messages = queue.receive(wait_time=wait_time)
        notices: dict[str, bytes] = {}
        for message in messages:
            try:
                for key, data in decode_notices(message.body):
                    notices[key] = notices.get(key) or data
            except WireError:
                continue  # anybody's message; it is deleted below and changes nothing
        n_news = self._take(notices)
        if messages:
            queue.delete([message.receipt_handle for message in messages])
        return n_news

    def _take(self, notices: dict[str, bytes]) -> int:
        n_news, to_fetch = 0, []
        for key, data in notices.items():
            job = self._looker.awaiting(key)
            if job is None:
                continue  # known already, or none of ours
            settled = settle_if_ours(job, key, data, timestamp=self._clock.timestamp()) if data else None
            if settled is None:
                to_fetch.append(key)
            else:
                n_news += settled
        return n_news + self._looker.fetch(to_fetch)

    def _look_into_s3(self, now: float) -> int:
        """Look for the jobs whose time it is; return how many calls that resolved."""
        longest = LONGEST_STALL_TIME if self._queue is not None else LONGEST_LISTING_INTERVAL
        n_news = 0
        for job in self._known_jobs():
            attention = self._attention[job.job_id]
            if now < attention.look_time:
                continue
            found = self._looker.look_for(job)
            attention.last_look_time = later = self._clock.monotonic()
            if not found:
                attention.look_interval = min(attention.look_interval * 2, longest)
                attention.look_time = later + attention.look_interval
            n_news += found
        if n_news:
            self._attend(self._clock.monotonic())
        return n_news
