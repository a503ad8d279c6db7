"""imap: results of a stream, in bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from client_world import World, until

from wren_worker.errors import SerializationError


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.run_time = 1e-5
    world.run()
    yield world
    world.close()


def test_an_endless_stream_is_read_as_results_are_taken(world):
    read: list[int] = []

    def endless():
        for n in itertools.count():
            read.append(n)
            yield n

    results = world.executor().imap(lambda x: 2 * x, endless(), window=100)
    assert read == []
    assert [next(results) for _ in range(500)] == [2 * n for n in range(500)]
    assert len(read) <= 600
    assert len(world.chunks) < 300  # what is gathered travels together
    results.close()


@pytest.mark.parametrize("window", [1, 7, 5000])
def test_every_result_comes_once_and_in_order(world, window):
    assert list(world.executor().imap(lambda x: x + 1, range(60), window=window)) == list(range(1, 61))


def test_unordered_results_come_as_they_are_done(world):
    found = list(world.executor().imap(lambda x: x, iter(range(300)), window=50, ordered=False))
    assert sorted(found) == list(range(300))


def test_a_failure_is_raised_at_its_turn(world):
    results = world.executor().imap(lambda x: 1 // (x - 3), range(10))
    assert [next(results) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_nothing_in_nothing_out_and_bad_input_is_told(world):
    ex = world.executor()
    assert list(ex.imap(abs, [])) == []
    assert world.store.objects == {}
    with pytest.raises(ValueError, match="window=0"):
        ex.imap(abs, [1], window=0)
    with pytest.raises(SerializationError):
        list(ex.imap(abs, [1, (x for x in ()), 2]))


def test_results_that_were_taken_are_let_go(world):
    ex = world.executor()
    results = ex.imap(lambda x: x, range(400), window=20)
    for _ in range(300):
        next(results)
    (job,) = ex._backend._session._jobs.values()
    until(lambda: len(job.futures) <= 20)
    results.close()
