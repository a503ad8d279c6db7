"""Waiting for futures of any jobs and executors, mixed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from wren_worker.client.future import Future
from wren_worker.client.garbage import collector_at_rest
from wren_worker.client.prefetch import Prefetch
from wren_worker.client.progress import Progress
from wren_worker.client.watch import Watch

__all__ = ["ALL_COMPLETED", "ALWAYS", "ANY_COMPLETED", "as_completed", "get_all_results", "wait"]

T = TypeVar("T")

#: PyWren's: wait for all; wait for at least one; do not wait.
ALL_COMPLETED, ANY_COMPLETED, ALWAYS = 1, 2, 3

#: How often progress is drawn, in seconds.
_DRAW_INTERVAL = 0.2


def wait(
    fs: Iterable[Future[T]],
    return_when: int = ALL_COMPLETED,
    *,
    timeout: float | None = None,
    THREADPOOL_SIZE: int | None = None,  # noqa: ARG001, N803 - PyWren's
    WAIT_DUR_SEC: float | None = None,  # noqa: ARG001, N803 - PyWren's
) -> tuple[list[Future[T]], list[Future[T]]]:
    """Wait for futures, which may be of several jobs and executors.

    Args:
        fs: The futures.
        return_when: ALL_COMPLETED, ANY_COMPLETED (at least one) or ALWAYS (do not wait).
        timeout: Seconds after which what is there is returned; None waits for as long as it takes.
        THREADPOOL_SIZE: PyWren's; one thread serves all futures here, so it changes nothing.
        WAIT_DUR_SEC: PyWren's; nothing is polled here, so it changes nothing.

    Returns:
        ``(done, not_done)``, both in the order of ``fs``.
    """
    if return_when not in (ALL_COMPLETED, ANY_COMPLETED, ALWAYS):
        raise ValueError(f"return_when={return_when!r} is none of ALL_COMPLETED, ANY_COMPLETED, ALWAYS.")
    futures = list(fs)
    with Watch(futures) as watch:
        if return_when == ANY_COMPLETED and futures:
            watch.wait(timeout)
        elif return_when == ALL_COMPLETED:
            _wait_for_all(watch, futures, timeout)
    done: list[Future[T]] = []
    not_done: list[Future[T]] = []
    for future in futures:
        if future.done():
            future._seen = True
            done.append(future)
        else:
            not_done.append(future)
    return done, not_done


def as_completed(fs: Iterable[Future[T]], timeout: float | None = None) -> Iterator[Future[T]]:
    """Yield futures as they are done, each once.

    Raises:
        TimeoutError: Not all are done in ``timeout`` seconds.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    futures = set(fs)
    with Watch(futures) as watch:
        for _ in range(len(futures)):
            while (future := watch.take()) is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"{watch.n_pending} of {len(futures)} futures are not done")
                watch.wait(left)
            yield future  # type: ignore[misc]  # a Watch does not know the type of the values


def get_all_results(fs: Iterable[Future[T]], timeout: float | None = None) -> list[T]:
    """Return the values of all futures, in order; shows progress on a terminal or in a notebook.

    Raises:
        TimeoutError: Not all are done in ``timeout`` seconds.
        BaseException: The failure with the lowest index among ``fs``, once all are done.
    """
    futures = list(fs)
    with Prefetch(futures) as prefetch:
        with Watch(futures) as watch:
            if not _wait_for_all(watch, futures, timeout):
                raise TimeoutError(f"{watch.n_pending} of {len(futures)} futures are not done")
        prefetch.finish()
    with collector_at_rest():
        return [future.result() for future in futures]


def _wait_for_all(watch: Watch, futures: list[Future[T]], timeout: float | None) -> bool:
    if not watch.n_pending:
        return True
    deadline = None if timeout is None else time.monotonic() + timeout
    with Progress(len(set(futures)), wanted=_wanted(futures)) as progress:
        while watch.n_pending:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            progress.update(watch.n_done)
            interval = _DRAW_INTERVAL if progress.draws else left
            watch.wait_for_all(interval if left is None or interval is None else min(interval, left))
        progress.update(watch.n_done)
    return True


def _wanted(futures: list[Future[T]]) -> bool | None:
    wishes = {future._job.source.progress for future in futures}
    return False if False in wishes else (True if True in wishes else None)
