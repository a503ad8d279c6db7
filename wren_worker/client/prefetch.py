"""Brings large values home while others still run, several at a time, for whoever wants them all."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from wren_worker.client.future import Future
from wren_worker.client.job import Job
from wren_worker.errors import WrenError

__all__ = ["Prefetch"]

_THREADS = 4


class Prefetch:
    """Loads the values that lie in objects of their own as soon as their futures are done. A context manager.

    It starts no thread for jobs whose values came along with their outcomes. What cannot be loaded now is left to
    whoever asks the future.
    """

    def __init__(self, futures: Iterable[Future[Any]]) -> None:
        self._wanted = set(futures)
        self._jobs: set[Job] = {future._job for future in self._wanted}
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> Prefetch:
        for job in self._jobs:
            with job.condition:
                job.watchers.append(self)
        self.resolved([future for future in self._wanted if future.lies_elsewhere])
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._jobs:
            with job.condition:
                job.watchers.remove(self)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def finish(self) -> None:
        """Wait until everything that is to be loaded is."""
        if self._threads is not None:
            self._threads.shutdown(wait=True)

    def resolved(self, futures: list[Future[object]]) -> None:
        """Take futures that are done."""
        for future in futures:
            if future.lies_elsewhere and future in self._wanted:
                if self._threads is None:
                    self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="wren-prefetch")
                self._threads.submit(_load, future)


def _load(future: Future[object]) -> None:
    try:
        future.exception()
    except WrenError:
        return
