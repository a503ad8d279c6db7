"""Who asks for instances, when, and what becomes of the calls when there will be none."""

from __future__ import annotations

import threading
import time

import pytest
from client_world import World, until

import wren_worker as wren
from wren_worker.client.executor import Executor
from wren_worker.client.remote import Remote


class Elastic:
    """Takes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.refusal: BaseException | None = None
        self.n_closed = 0

    def ensure(self, *, n_pending_calls: int, n_finished_calls: int) -> float:
        self.asked.append((n_pending_calls, n_finished_calls))
        if self.refusal is not None:
            raise self.refusal
        return 0.05

    def close(self) -> None:
        self.n_closed += 1


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()


@pytest.fixture
def elastic():
    return Elastic()


@pytest.fixture
def executor(world, elastic):
    import dataclasses

    transport = dataclasses.replace(world.transport(), elastic=elastic)
    executor = Executor(Remote(transport, progress=False))
    world.executors.append(executor)
    return executor


def test_nobody_asks_while_there_are_no_calls(executor, elastic):
    time.sleep(0.1)
    assert elastic.asked == []
    assert not [thread for thread in threading.enumerate() if thread.name == "wren-scaling"]


def test_calls_are_asked_for_until_they_are_done(world, executor, elastic):
    futures = executor.map(abs, range(-5, 0))
    until(lambda: (5, 0) in elastic.asked)
    world.run()
    assert wren.get_all_results(futures) == [5, 4, 3, 2, 1]
    time.sleep(0.2)
    n_asked = len(elastic.asked)
    time.sleep(0.3)
    assert len(elastic.asked) == n_asked  # nothing is pending
    executor.call_async(time.sleep, 1)
    until(lambda: elastic.asked[-1] == (1, 5))  # what was done counts on


def test_when_there_will_be_no_instances_the_calls_say_so(executor, elastic):
    elastic.refusal = wren.FleetError("none is started any more: quota", code="X")
    first = executor.map(abs, range(3))
    for future in first:
        with pytest.raises(wren.FleetError, match="quota") as caught:
            future.result(timeout=20)
        assert caught.value.code == "X"
    with pytest.raises(wren.FleetError):  # and those that come later
        executor.call_async(abs, 1).result(timeout=20)


def test_a_defect_of_it_is_told_too(executor, elastic):
    elastic.refusal = ZeroDivisionError("oops")
    with pytest.raises(wren.WrenError, match="wren-scaling ended by ZeroDivisionError"):
        executor.call_async(abs, 1).result(timeout=20)


def test_closing_ends_it_once(executor, elastic):
    executor.call_async(abs, 1)
    until(lambda: elastic.asked)
    executor.close()
    executor.close()
    assert elastic.n_closed == 1
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "wren-scaling"])
