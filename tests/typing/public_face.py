"""What a type checker says of users' code: checked by ``make lint``, never run.

A wrong use carries an ignore: should it pass one day, mypy reports the ignore as unused.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from typing import assert_type

import wren_worker as wren
from wren_worker.clock import Clock
from wren_worker.protocol.ports import LogSink, ObjectStore, ReplyQueue, ReplySender, TaskQueue
from wren_worker.testing import (
    FakeClock,
    MemoryLogSink,
    MemoryPostOffice,
    MemoryReplySender,
    MemoryStore,
    MemoryTaskQueue,
)


def half(x: int) -> float:
    return x / 2


def both(x: int, y: str) -> str:
    return f"{x}{y}"


def a_function_s_type_is_the_future_s() -> None:
    with wren.executor(backend="inline") as ex:
        assert_type(ex, wren.Executor)
        assert_type(ex.map(half, range(3)), list[wren.Future[float]])
        assert_type(
            ex.map(half, [1], {"A": "b"}, {"note": 1}, chunksize=4, timeout=9.5, retries=1), list[wren.Future[float]]
        )
        assert_type(ex.map(half, [1], retries=wren.Retry(3, on=OSError)), list[wren.Future[float]])
        assert_type(ex.map(half, [1])[0].attempts, list[wren.Attempt])
        assert_type(ex.starmap(both, [(1, "a")]), list[wren.Future[str]])
        assert_type(ex.call_async(half, 3), wren.Future[float])
        assert_type(ex.submit(both, 1, y="b"), wren.Future[str])
        assert_type(ex.map(lambda x: [str(x)], [1]), list[wren.Future[list[str]]])


def what_is_put_is_a_ref(ex: wren.Executor) -> None:
    ref = ex.put([1, 2, 3])
    assert_type(ref, wren.Ref)
    assert_type(ref.n_bytes, int)


def a_future_is_the_standard_library_s(future: wren.Future[float]) -> None:
    standard: concurrent.futures.Future[float] = future
    assert_type(standard.result(), float)
    assert_type(future.result(timeout=1.0), float)
    assert_type(future.exception(), BaseException | None)
    assert_type(asyncio.wrap_future(future), asyncio.Future[float])


def results_keep_their_type(futures: list[wren.Future[float]]) -> None:
    assert_type(wren.get_all_results(futures), list[float])
    assert_type(wren.as_completed(futures), Iterator[wren.Future[float]])
    done, pending = wren.wait(futures, wren.ANY_COMPLETED, timeout=1.0)
    assert_type(done, list[wren.Future[float]])
    assert_type(pending, list[wren.Future[float]])


def an_attached_job_s_values_are_unknown() -> None:
    assert_type(wren.attach("job"), list[wren.Future[object]])


def errors_are_caught_by_their_place_in_the_tree(future: wren.Future[float]) -> None:
    try:
        future.result()
    except wren.CallTimeout as error:
        call: wren.CallError = error
        root: wren.WrenError = call
        assert_type(root.message, str)
    except concurrent.futures.CancelledError:
        cancelled: type[concurrent.futures.CancelledError] = wren.CallCancelled
        assert_type(cancelled, type[concurrent.futures.CancelledError])


def wrong_uses_are_seen(ex: wren.Executor) -> None:
    ex.map(half, 3)  # type: ignore[arg-type]
    ex.map("half", [1])  # type: ignore[arg-type]
    ex.map(both, [1])  # type: ignore[arg-type]
    ex.map(half, [1], chunksize="all")  # type: ignore[arg-type]
    ex.map(half, [1], timeout=[1])  # type: ignore[arg-type]
    ex.map(half, [1], chunk_size=3)  # type: ignore[call-arg]
    wren.executor("inline", None)  # type: ignore[call-arg]
    wren.get_all_results([1])  # type: ignore[arg-type]


def memory_fills_the_ports(
    clock: FakeClock, office: MemoryPostOffice
) -> tuple[TaskQueue, ReplyQueue, ReplySender, ObjectStore, LogSink, Clock]:
    tasks, store = MemoryTaskQueue("tasks", clock=clock), MemoryStore(clock=clock)
    return tasks, office.open("r"), MemoryReplySender(office), store, MemoryLogSink(), clock
