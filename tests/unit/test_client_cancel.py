"""Cancelling: one outcome for every reader, whoever is first."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterator

import pytest
from client_world import World, Worlds, until

from wren_worker.client.attach import attach
from wren_worker.client.cancel import cancel_job
from wren_worker.client.waiting import get_all_results, wait
from wren_worker.errors import CallCancelled, StoreError
from wren_worker.protocol import records, wire
from wren_worker.protocol.model import call_key, cancel_key, manifest_key, result_key, sealed_key


@pytest.fixture
def world() -> Iterator[World]:
    world = Worlds.current = World()
    yield world
    Worlds.current = None
    world.close()


def sent(world: World, n_calls: int) -> None:
    until(lambda: sum(chunk.n_calls for batch in world.tasks.batches for chunk in batch) == n_calls)


def test_a_queued_call_is_cancelled_for_every_reader(world):
    ex = world.executor()
    future = ex.call_async(abs, -1)
    sent(world, 1)
    until(lambda: manifest_key(future.job_id) in world.store.objects)
    assert not future.cancelled()
    assert future.cancel()
    assert future.cancelled()
    assert future.done()
    assert future.cancel()  # as the standard library's: cancelled already
    with pytest.raises(CallCancelled, match="cancelled") as caught:
        future.result(20)
    assert isinstance(caught.value, concurrent.futures.CancelledError)
    (other,) = attach(world.transport(), future.job_id, progress=False)
    with pytest.raises(CallCancelled, match=r"call 0 of job .* was cancelled"):
        other.result(20)
    assert other.cancelled()
    assert world.store.objects[cancel_key(future.job_id)]  # the doorbell
    world.run()  # too late: the key is taken
    until(lambda: world.chunks)
    assert isinstance(attach(world.transport(), future.job_id, progress=False)[0].exception(20), CallCancelled)


def test_an_outcome_that_was_first_stays(world):
    world.notify = False
    ex = world.executor()
    future = ex.call_async(abs, -7)
    sent(world, 1)
    world.run()
    until(lambda: result_key(future.job_id, "00000000") in world.store.objects)
    assert future.cancel() is False
    assert future.done()  # what was found is taken
    assert future.result(0) == 7
    assert not future.cancelled()


def test_some_calls_of_a_chunk_are_split_off(world):
    ex = world.executor()
    futures = ex.map(abs, range(10), chunksize=10)
    sent(world, 10)
    assert ex.cancel(futures[2:5]) == 3
    assert ex.cancel(futures[8]) == 1  # the object is there: a key of its own
    job_id = futures[0].job_id
    head, found = wire.decode_result(world.store.objects[result_key(job_id, "00000000")])
    assert head.left_out == ((0, 2), (5, 10))
    assert [index for index, _ in found] == [2, 3, 4]
    assert call_key(job_id, "00000000", 8) in world.store.objects
    chunk = world.tasks.batches[0][0]
    for index in (0, 1, 5, 6, 7, 9):
        record = records.pack_record(index, records.SUCCESS, wire.json.dumps(1).encode())
        world.publish(chunk, [record], call_index=index)
    done, not_done = wait(futures, timeout=20)
    assert not not_done
    assert [index for index, future in enumerate(done) if future.cancelled()] == [2, 3, 4, 8]


def test_what_was_not_sent_is_never_sent(world):
    world.tasks.gate.clear()
    ex = world.executor()
    futures = ex.map(abs, range(400))
    until(lambda: world.tasks.batches)
    n_out = sum(chunk.n_calls for batch in world.tasks.batches for chunk in batch)
    assert n_out < 100
    assert ex.cancel(futures[0].job_id) == 400
    world.tasks.gate.set()
    with pytest.raises(CallCancelled):
        get_all_results(futures)
    ex.close()
    assert sum(chunk.n_calls for batch in world.tasks.batches for chunk in batch) == n_out
    assert sealed_key(futures[0].job_id) in world.store.objects  # every call has its outcome, so the job is whole
    others = attach(world.transport(), futures[0].job_id, progress=False)
    assert all(isinstance(future.exception(20), CallCancelled) for future in others)
    assert len(others) == 400


def test_a_chunk_that_is_cancelled_in_part_is_sent_to_be_looked_at(world):
    held = threading.Event()
    world.store.before_put = lambda key: held.wait(20) if "/manifest" in key else None
    big = bytes(20_000)  # the manifest does not travel: nothing is sent before it is stored
    ex = world.executor()
    futures = ex.map(lambda x: len(big) + x, range(4), chunksize=4)
    assert ex.cancel([futures[0], futures[3]]) == 2
    held.set()
    sent(world, 4)
    assert [chunk.resent for batch in world.tasks.batches for chunk in batch] == [1]


def test_submits_that_gather_are_cancelled_in_place(world):
    world.tasks.gate.clear()
    ex = world.executor()
    futures = [ex.submit(abs, 0)]
    until(lambda: world.tasks.batches)
    futures += [ex.submit(abs, n) for n in range(1, 9)]
    assert futures[5].cancel()
    world.tasks.gate.set()
    world.run()
    assert [future.cancelled() for future in futures] == [index == 5 for index in range(9)]
    assert [future.result(20) for future in futures if not future.cancelled()] == [0, 1, 2, 3, 4, 6, 7, 8]


def test_a_job_of_another_process_is_cancelled_by_its_id(world):
    ex = world.executor()
    futures = ex.map(abs, range(6), chunksize=2)
    sent(world, 6)
    until(lambda: manifest_key(futures[0].job_id) in world.store.objects)
    world.run_chunk(world.tasks.messages.get(timeout=20))
    n_cancelled, n_calls = cancel_job(world.transport(), futures[0].job_id)
    assert (n_cancelled, n_calls) == (4, 6)
    assert cancel_job(world.transport(), futures[0].job_id) == (0, 6)
    wait(futures, timeout=20)
    assert [future.cancelled() for future in futures] == [False, False, True, True, True, True]
    with pytest.raises(StoreError, match="There is no job"):
        ex.cancel("5f000000-abcdef")


def test_a_verdict_that_cannot_be_recorded_is_said_and_the_call_goes_on(world, monkeypatch):
    ex = world.executor()
    futures = ex.map(abs, range(3), chunksize=1)
    sent(world, 3)
    whole = world.store.put_once

    def put_once(key, data):
        if key.endswith("1"):
            raise StoreError("S3 is out of reach", transient=True)
        return whole(key, data)

    monkeypatch.setattr(world.store, "put_once", put_once)
    with pytest.raises(StoreError, match="out of reach"):
        ex.cancel(futures)
    assert [future.cancelled() for future in futures] == [True, False, True]
    assert cancel_key(futures[0].job_id) in world.store.objects  # those that were are to be stopped all the same
    monkeypatch.undo()
    world.run()
    assert futures[1].result(20) == 1


def test_an_event_loop_waits_for_nothing(world, monkeypatch):
    ex = world.executor()
    futures = ex.map(abs, range(30), chunksize=10)
    sent(world, 30)
    threads = set()
    whole = world.store.put_once

    def put_once(key, data):
        threads.add(threading.current_thread())
        return whole(key, data)

    monkeypatch.setattr(world.store, "put_once", put_once)

    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*map(asyncio.wrap_future, futures)), 0.01)

    asyncio.run(main())
    until(lambda: all(future.done() for future in futures))
    assert all(future.cancelled() for future in futures)
    assert threading.main_thread() not in threads
    assert sum(key.startswith("results/") for key in world.store.objects) == 3  # gathered: an object a chunk


def test_the_standard_library_sees_cancelled_futures(world):
    ex = world.executor()
    futures = ex.map(abs, range(2), chunksize=1)
    sent(world, 2)
    seen = []
    futures[0].add_done_callback(lambda future: seen.append(future.cancelled()))
    waiting = threading.Thread(target=lambda: seen.append(concurrent.futures.wait(futures, 20).not_done))
    waiting.start()
    ex.cancel(futures)
    waiting.join(20)
    assert seen == [True, set()]
    for future in concurrent.futures.as_completed(futures, 5):
        with pytest.raises(concurrent.futures.CancelledError):
            future.result()
