"""The standard library's executor over a fleet."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator

import pytest
from client_world import World, Worlds, until

from wren_worker.client.executor import Executor
from wren_worker.client.inline import Inline
from wren_worker.client.pool import Pool
from wren_worker.clock import SystemClock
from wren_worker.errors import CallCancelled


@pytest.fixture
def world() -> Iterator[World]:
    world = Worlds.current = World()
    yield world
    Worlds.current = None
    world.close()


def test_it_is_an_executor(world):
    world.run()
    with Pool(world.executor()) as pool:
        assert isinstance(pool, concurrent.futures.Executor)
        future = pool.submit(pow, 2, exp=5)
        assert isinstance(future, concurrent.futures.Future)
        assert list(pool.map(pow, [1, 2, 3], [2, 2, 2, 2])) == [1, 4, 9]

        async def main():
            return await asyncio.get_running_loop().run_in_executor(pool, abs, -4)

        assert asyncio.run(main()) == 4
    assert future.done()  # leaving waits
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(abs, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.map(abs, [1])


def test_shutdown_cancels_what_has_no_outcome(world):
    pool = Pool(world.executor())
    futures = [pool.submit(abs, -number) for number in range(5)]
    waiting = pool.map(abs, range(20))
    pool.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    with pytest.raises(concurrent.futures.CancelledError):
        next(waiting)
    pool.shutdown()  # again is no error


def test_shutdown_without_waiting_lets_calls_go_on(world):
    pool = Pool(world.executor())
    future = pool.submit(abs, -1)
    pool.shutdown(wait=False)
    assert not future.done_already
    world.run()
    assert future.result(20) == 1


def test_results_that_nobody_takes_are_cancelled(world):
    pool = Pool(world.executor())
    results = pool.map(abs, range(6), timeout=0.05, chunksize=2)
    with pytest.raises(TimeoutError):
        next(results)
    assert not pool._executor.unresolved()
    taken = pool.map(abs, range(4), chunksize=1)
    until(lambda: any(chunk.n_calls == 1 for batch in list(world.tasks.batches) for chunk in batch))
    world.run()
    assert next(taken) == 0
    taken.close()
    until(lambda: not pool._executor.unresolved())


def test_an_error_ends_the_iterator(world):
    world.run()
    pool = Pool(world.executor())
    results = pool.map(lambda x: 1 // x, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_inline_too():
    with Pool(Executor(Inline(SystemClock()))) as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 2]
        assert not pool.submit(abs, 1).cancel()
    assert issubclass(CallCancelled, concurrent.futures.CancelledError)
