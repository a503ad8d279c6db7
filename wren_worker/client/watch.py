"""Follows a set of futures of any jobs: one step per future that gets its outcome, whatever their number."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from wren_worker.client import interrupts
from wren_worker.client.future import Future
from wren_worker.client.job import Job

__all__ = ["Watch"]


class Watch:
    """Collects futures as they are done. A context manager: outside of it nothing is followed.

    Attributes:
        n_done: How many of the futures have an outcome.
    """

    def __init__(self, futures: Iterable[Future[Any]]) -> None:
        self._condition = threading.Condition()
        self._pending: set[Future[Any]] = set(futures)
        self._done: deque[Future[object]] = deque()
        self._jobs: set[Job] = {future._job for future in self._pending}
        self.n_done = 0

    def __enter__(self) -> Watch:
        futures = list(self._pending)  # from the first watcher on, the collector's thread takes from the set
        for job in self._jobs:
            with job.condition:
                job.watchers.append(self)
        # futures that were done before, or while the watchers were put up
        self.resolved([future for future in futures if future._state == "FINISHED"])
        for job in {future._job for future in futures if future._state != "FINISHED"}:
            job.source.listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt:
            interrupts.waiting(self._jobs)
        for job in self._jobs:
            with job.condition:
                job.watchers.remove(self)

    def resolved(self, futures: list[Future[object]]) -> None:
        """Take futures that are done; those not followed are passed over."""
        with self._condition:
            news = [future for future in futures if future in self._pending]
            self._pending.difference_update(news)
            self._done.extend(news)
            self.n_done += len(news)
            if news:
                self._condition.notify_all()

    @property
    def n_pending(self) -> int:
        """Return how many of the futures have no outcome yet."""
        return len(self._pending)

    def take(self) -> Future[object] | None:
        """Return a future that was done and not taken yet."""
        with self._condition:
            return self._done.popleft() if self._done else None

    def wait(self, timeout: float | None) -> bool:
        """Block until a future is done that was not taken yet; False when none is in that many seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._condition:
            while not self._done and self._pending:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._condition.wait(left)
            return bool(self._done)

    def wait_for_all(self, timeout: float | None) -> bool:
        """Block until all futures are done; False when they are not in that many seconds."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._pending, timeout)
