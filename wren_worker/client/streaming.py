"""Results of a stream of calls, one after the other, in bounded memory."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from wren_worker.client.future import Future
from wren_worker.client.spec import Backend, JobSpec

__all__ = ["stream"]


def stream(backend: Backend, spec: JobSpec, items: Iterable[Any], *, window: int, ordered: bool) -> Iterator[Any]:
    """Yield the result of ``func(item)`` for each item, reading items only as results are taken.

    Args:
        backend: Runs the job.
        spec: The job.
        items: Any number of them.
        window: How many calls may be on their way or waiting to be taken.
        ordered: Whether results come in the order of the items, else as they are done.
    """
    remaining = ((item,) for item in items)
    first = list(islice(remaining, window))
    if not first:
        return
    job = backend.open(spec)
    try:
        futures = deque(job.calls(first))
        done: queue.SimpleQueue[Future[object]] = queue.SimpleQueue()
        n_open = len(futures)
        _watch(futures, done, ordered=ordered)
        while n_open:
            yield (futures.popleft() if ordered else done.get()).result()
            n_open -= 1
            if n_open <= window // 2:
                # by the half window, so that calls travel together
                more = job.calls(islice(remaining, window - n_open))
                n_open += len(more)
                _watch(more, done, ordered=ordered)
                if ordered:
                    futures.extend(more)
    except BaseException:
        # what is on its way runs on; nobody wants the rest
        job.abort()
        raise
    job.finish()


def _watch(futures: Iterable[Future[object]], done: queue.SimpleQueue[Future[object]], *, ordered: bool) -> None:
    if not ordered:
        for future in futures:
            future.add_done_callback(done.put)  # type: ignore[arg-type]  # the base's Future is meant
