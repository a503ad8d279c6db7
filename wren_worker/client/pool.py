"""The standard library's face: whatever takes an executor takes a fleet."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar

from wren_worker.client.cancel import cancel_futures as cancel
from wren_worker.client.executor import Executor
from wren_worker.client.future import Future
from wren_worker.client.waiting import wait

__all__ = ["Pool"]

T = TypeVar("T")


class Pool(concurrent.futures.Executor):
    """A ``concurrent.futures.Executor``; documented there, what differs is said here. Safe from any thread.

    Args:
        executor: Sends the calls; the pool's own from now on.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._lock = threading.Lock()
        self._is_shut = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run ``fn(*args, **kwargs)``; submits of one function that follow closely share a job."""
        self._check()
        return self._executor.submit(fn, *args, **kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | Literal["auto"] = "auto",
    ) -> Iterator[T]:
        """Return an iterator of ``fn`` over the items of iterables that are consumed now, as one job.

        Calls whose results are not taken any more, by an error or because the iterator is closed, are cancelled.

        Args:
            fn: Takes as many arguments as there are iterables.
            iterables: The shortest ends it.
            timeout: Seconds from now after which taking a result raises TimeoutError.
            chunksize: How many calls travel together; the standard library's 1 would be slow.
        """
        self._check()
        end = None if timeout is None else time.monotonic() + timeout
        futures = self._executor.starmap(fn, zip(*iterables, strict=False), chunksize=chunksize)
        return _results(futures, end)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. Jobs outlive a pool: without ``wait`` they go on, and so do their futures.

        Args:
            wait: Whether to return only when every call has its outcome.
            cancel_futures: Whether to cancel what has none, calls that run included.

        Raises:
            StoreError: Not all of it could be cancelled.
        """
        with self._lock:
            was_shut, self._is_shut = self._is_shut, True
        try:
            if cancel_futures:
                cancel(self._executor.unresolved())
            if wait:
                _wait(self._executor.unresolved())
        finally:
            if not was_shut and not wait:
                # it waits until everything is sent; the interpreter waits for it
                threading.Thread(target=self._executor.close, name="wren-pool-closer").start()
            elif wait:
                self._executor.close()

    def _check(self) -> None:
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")


def _wait(futures: list[Future[Any]]) -> None:
    wait(futures)


def _results(futures: list[Future[T]], end: float | None) -> Iterator[T]:
    futures.reverse()
    try:
        while futures:
            left = None if end is None else end - time.monotonic()
            result = futures[-1].result(left)
            futures.pop()
            yield result
    finally:
        pending = [future for future in futures if not future.done_already]
        if pending:
            cancel(pending)
