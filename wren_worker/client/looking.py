"""Looks into S3 for outcomes: what a notice names, and what no notice came for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from wren_worker.client.job import Job
from wren_worker.client.resolve import parse_result_key
from wren_worker.client.settling import settle
from wren_worker.clock import Clock
from wren_worker.protocol.model import result_key, result_prefix
from wren_worker.protocol.ports import ObjectStore
from wren_worker.protocol.wire import new_chunk_id

__all__ = ["Looker"]

#: So many missing objects are asked for one by one; more are listed, a thousand a request.
_ASKED_SINGLY = 20
_FETCHERS, _FETCHED_AT_ONCE = 8, 64


class Looker:
    """Brings objects home and gives their outcomes to the futures. For one thread.

    Args:
        job: Returns a job by its id, None for one of no interest.
        store: The fleet's bucket.
        clock: Says when.
    """

    def __init__(self, job: Callable[[str], Job | None], *, store: ObjectStore, clock: Clock) -> None:
        self._job = job
        self._store = store
        self._clock = clock
        self._fetchers: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """End the threads."""
        if self._fetchers is not None:
            self._fetchers.shutdown(wait=False, cancel_futures=True)

    def awaiting(self, key: str) -> Job | None:
        """Return the job to which an object under ``key`` would be news."""
        place = parse_result_key(key)
        job = self._job(place[0]) if place else None
        if job is None:
            return None
        with job.condition:
            return job if job.ledger.awaits(key) else None

    def fetch(self, keys: Iterable[str]) -> int:
        """Get objects side by side and apply them; return how many calls that resolved.

        Raises:
            StoreError: S3 did not say.
        """
        n_news, remaining = 0, iter(keys)
        while found := list(itertools.islice(remaining, _FETCHED_AT_ONCE)):
            for key, data in zip(found, self._get_all(found), strict=True):
                job = self.awaiting(key)
                if data is not None and job is not None:
                    n_news += settle(job, key, data, timestamp=self._clock.timestamp())
        return n_news

    def _get_all(self, keys: list[str]) -> Iterable[bytes | None]:
        if len(keys) == 1:
            return [self._store.get(keys[0])]
        if self._fetchers is None:
            self._fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="wren-fetcher")
        return self._fetchers.map(self._store.get, keys)

    def look_for(self, job: Job) -> int:
        """Take what S3 has of a job's missing outcomes; return how many calls that resolved.

        Raises:
            StoreError: S3 did not say.
        """
        with job.condition:
            keys = job.ledger.missing_keys(_ASKED_SINGLY + 1)
        if len(keys) <= _ASKED_SINGLY:
            return self.fetch(keys)
        place = parse_result_key(keys[0])
        lowest = place[1] if place else 0
        # "~" sorts after "/": the own keys of the chunk before are passed over too
        after = result_key(job.job_id, new_chunk_id(lowest - 1)) + "~" if lowest else ""
        return self.fetch(self._listed(job, after))

    def _listed(self, job: Job, after: str) -> Iterator[str]:
        for info in self._store.list(result_prefix(job.job_id), start_after=after):
            if self.awaiting(info.key) is not None:
                yield info.key
