"""Brings outcomes home: long-polls the reply queue, and looks into S3 when that falls silent."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from wren_worker.client.hints import Hints
from wren_worker.client.job import Job
from wren_worker.client.resolve import parse_result_key
from wren_worker.client.settling import settle, settle_if_ours
from wren_worker.clock import Clock
from wren_worker.errors import QueueError, StoreError, WireError
from wren_worker.protocol.model import result_key, result_prefix
from wren_worker.protocol.ports import ObjectStore, ReplyQueue
from wren_worker.protocol.wire import decode_notices, new_chunk_id

__all__ = ["Collector", "Jobs"]

#: Seconds without news before S3 is looked into; doubles while that finds nothing, up to the second number. A lost
#: notice is rare, a long call is not.
STALL_TIME, LONGEST_STALL_TIME = 5.0, 60.0
#: The same while there is no reply queue to hear from.
LISTING_INTERVAL, LONGEST_LISTING_INTERVAL = 0.25, 5.0
#: Source: SQS ReceiveMessage, read 2026-11: WaitTimeSeconds is at most 20.
_LONGEST_POLL_TIME = 20.0
#: So many missing objects are asked for one by one; more are listed, a thousand a request.
_ASKED_SINGLY = 20
_FETCHERS, _FETCHED_AT_ONCE = 8, 64


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


class Collector:
    """One thread's work: ``run``. Hints only ever wake it; what it believes lies in S3 or came from there.

    Args:
        jobs: Whom it works for.
        store: The fleet's bucket.
        clock: The machine's clock.
        hints: Says why nothing runs.
        reply_queue: Makes or returns the reply queue, None for S3 only; called in this thread.
    """

    def __init__(
        self,
        jobs: Jobs,
        *,
        store: ObjectStore,
        clock: Clock,
        hints: Hints,
        reply_queue: Callable[[], ReplyQueue | None],
    ) -> None:
        self._jobs = jobs
        self._store = store
        self._clock = clock
        self._hints = hints
        self._make_reply_queue = reply_queue
        self._queue: ReplyQueue | None = None
        self._stopping = threading.Event()
        self._fetchers: ThreadPoolExecutor | None = None
        self._news_time = clock.monotonic()
        self._look_time = 0.0
        self._look_interval = 0.0

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
            if self._fetchers is not None:
                self._fetchers.shutdown(wait=False, cancel_futures=True)

    def tick(self) -> None:
        """Wait for notices, or for the time to look into S3; then take what came."""
        now = self._clock.monotonic()
        hint_due = self._hints.due_in(quiet_time=now - self._news_time, now=now)
        wait_time = max(0.0, min(self._look_time - now, _LONGEST_POLL_TIME, *([] if hint_due is None else [hint_due])))
        try:
            n_news = self._poll(wait_time) if self._queue is not None else self._pause(wait_time)
            if not n_news and self._clock.monotonic() >= self._look_time:
                n_news = self._look_into_s3()
                self._look_interval = min(self._look_interval * 2, self._longest_interval())
                self._look_time = self._clock.monotonic() + self._look_interval
        except (QueueError, StoreError) as error:
            # no outcome is lost by it: the network may come back, credentials may be renewed
            self._hints.trouble(error, now=self._clock.monotonic())
            self._pause(1.0)
            return
        if n_news:
            self._start_afresh()
        elif self._jobs.pending():
            now = self._clock.monotonic()
            self._hints.consider(quiet_time=now - self._news_time, now=now)

    def _start_afresh(self) -> None:
        self._news_time = self._clock.monotonic()
        self._look_interval = STALL_TIME if self._queue is not None else LISTING_INTERVAL
        self._look_time = self._news_time + self._look_interval

    def _longest_interval(self) -> float:
        return LONGEST_STALL_TIME if self._queue is not None else LONGEST_LISTING_INTERVAL

    def _pause(self, wait_time: float) -> int:
        self._stopping.wait(wait_time)
        return 0

    def _poll(self, wait_time: float) -> int:
        assert self._queue is not None  # noqa: S101 - the caller looked
        try:
            messages = self._queue.receive(wait_time=wait_time)
        except QueueError as error:
            if not getattr(error, "gone", False):
                raise
            self._queue = None
            self._look_interval, self._look_time = LISTING_INTERVAL, self._clock.monotonic()
            return 0
        notices: dict[str, bytes] = {}
        for message in messages:
            try:
                for key, data in decode_notices(message.body):
                    notices[key] = notices.get(key) or data
            except WireError:
                continue  # anybody's message; it is deleted below and changes nothing
        n_news = self._take(notices)
        if messages:
            self._queue.delete([message.receipt_handle for message in messages])
        return n_news

    def _take(self, notices: dict[str, bytes]) -> int:
        n_news, to_fetch = 0, []
        for key, data in notices.items():
            job = self._job_awaiting(key)
            if job is None:
                continue  # known already, or none of ours
            settled = settle_if_ours(job, key, data, timestamp=self._clock.timestamp()) if data else None
            if settled is None:
                to_fetch.append(key)
            else:
                n_news += settled
        return n_news + self._fetch(to_fetch)

    def _job_awaiting(self, key: str) -> Job | None:
        place = parse_result_key(key)
        job = self._jobs.job(place[0]) if place else None
        if job is None:
            return None
        with job.condition:
            return job if job.ledger.awaits(key) else None

    def _fetch(self, keys: Iterable[str]) -> int:
        """Get objects side by side and apply them; return how many calls that resolved."""
        n_news, remaining = 0, iter(keys)
        while found := list(itertools.islice(remaining, _FETCHED_AT_ONCE)):
            for key, data in zip(found, self._get_all(found), strict=True):
                job = self._job_awaiting(key)
                if data is None or job is None:
                    continue
                n_news += settle(job, key, data, timestamp=self._clock.timestamp())
        return n_news

    def _get_all(self, keys: list[str]) -> Iterable[bytes | None]:
        if len(keys) == 1:
            return [self._store.get(keys[0])]
        if self._fetchers is None:
            self._fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="wren-fetcher")
        return self._fetchers.map(self._store.get, keys)

    def _look_into_s3(self) -> int:
        return sum(self.look_for(job) for job in self._jobs.pending())

    def look_for(self, job: Job) -> int:
        """Take what S3 has of a job's missing outcomes; return how many calls that resolved."""
        with job.condition:
            keys = job.ledger.missing_keys(_ASKED_SINGLY + 1)
        if len(keys) <= _ASKED_SINGLY:
            return self._fetch(keys)
        place = parse_result_key(keys[0])
        lowest = place[1] if place else 0
        # "~" sorts after "/": the own keys of the chunk before are passed over too
        after = result_key(job.job_id, new_chunk_id(lowest - 1)) + "~" if lowest else ""
        return self._fetch(self._listed(job, after))

    def _listed(self, job: Job, after: str) -> Iterator[str]:
        for info in self._store.list(result_prefix(job.job_id), start_after=after):
            if self._job_awaiting(info.key) is not None:
                yield info.key
