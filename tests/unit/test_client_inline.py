"""The inline backend, progress, and the size of things."""

from __future__ import annotations

import bdb
import io
import os
import pickle
import threading
import tracemalloc
from contextlib import redirect_stderr

import pytest
from client_world import World

from wren_worker.client.executor import Executor
from wren_worker.client.inline import Inline
from wren_worker.client.progress import Progress
from wren_worker.client.retry import Retry
from wren_worker.client.waiting import as_completed, get_all_results, wait
from wren_worker.clock import SystemClock


@pytest.fixture
def inline() -> Executor:
    return Executor(Inline(SystemClock()))


def test_calls_run_here_in_order(inline):
    seen = []
    futures = inline.map(lambda x: seen.append((x, threading.current_thread())) or x, range(5))
    assert seen == [(x, threading.main_thread()) for x in range(5)]
    assert all(future.done() for future in futures)
    assert get_all_results(futures) == list(range(5))
    assert wait(futures)[1] == []
    assert list(as_completed(futures[:1])) == futures[:1]
    assert inline.submit(pow, 2, 3).result() == 8
    assert inline.call_async(abs, -1).run_status["status"] == "success"


def test_a_failure_is_the_exception_itself(inline):
    error = ValueError("x")

    def f(_):
        raise error

    future = inline.call_async(f, 1)
    assert future.exception() is error
    assert future.errored()
    assert repr(pickle.loads(pickle.dumps(future)).exception()) == "ValueError('x')"
    assert pickle.loads(pickle.dumps(inline.submit(abs, -2))).result() == 2


def test_environment_retries_and_leaving_the_debugger(inline):
    tries = []

    def f(_):
        tries.append(os.environ["UNIT_X"])
        if len(tries) < 3:
            raise OSError
        return len(tries)

    future = inline.map(f, [0], {"UNIT_X": "1"}, retries=Retry(2, on=OSError, delay=0.01))[0]
    assert (future.result(), tries) == (3, ["1"] * 3)
    assert [(a.attempt, a.end) for a in future.attempts] == [(1, "OSError()"), (2, "OSError()"), (3, "success")]

    def missing(_):
        tries.append("missing")
        raise FileNotFoundError

    future = inline.map(missing, [0], retries=Retry(2, on=ValueError))[0]
    with pytest.raises(FileNotFoundError):
        future.result()
    assert tries.count("missing") == len(future.attempts) == 1
    assert "UNIT_X" not in os.environ

    def quits(_):
        raise bdb.BdbQuit

    with pytest.raises(bdb.BdbQuit):
        inline.map(quits, [0])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_shows_where_somebody_looks():
    with redirect_stderr(io.StringIO()) as plain, Progress(3, wanted=None) as progress:
        progress.update(3)
    assert plain.getvalue() == ""
    with redirect_stderr(io.StringIO()) as lines, Progress(3, wanted=True) as progress:
        progress.update(1)
        progress.update(3)
    assert lines.getvalue() == "wren: 3 of 3 calls done\n"
    with redirect_stderr(Terminal()) as terminal, Progress(3, wanted=None) as progress:
        progress.update(3)
    assert "3/3" in terminal.getvalue()
    with redirect_stderr(Terminal()) as silent, Progress(3, wanted=False) as progress:
        progress.update(3)
    assert silent.getvalue() == ""


def test_a_pending_future_is_slim():
    world = World()
    ex = world.executor()
    n = 20_000
    ex.map(abs, range(100))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        futures = ex.map(abs, range(n))
        ex._backend._session.sender.wait_until_idle()
        while not world.tasks.messages.empty():
            world.tasks.messages.get()
        world.store.objects.clear()
        assert (tracemalloc.get_traced_memory()[0] - before) / n < 700
    finally:
        tracemalloc.stop()
    del futures
    world.close()
