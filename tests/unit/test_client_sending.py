"""How jobs are cut, stored and sent."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator

import pytest
from client_world import World, Worlds, until

from wren_worker.client.sender import Sender
from wren_worker.client.waiting import get_all_results
from wren_worker.errors import WrenError
from wren_worker.protocol.jobs import decode_manifest, decode_seal
from wren_worker.protocol.model import manifest_key, sealed_key
from wren_worker.protocol.wire import decode_chunk, new_chunk_id


@pytest.fixture
def world() -> Iterator[World]:
    world = Worlds.current = World()
    yield world
    Worlds.current = None
    world.close()


def test_everything_is_stored_before_it_is_sent(world):
    world.run()
    ex = world.executor()
    big = [bytes([n]) * 1_500_000 for n in range(20)]
    assert get_all_results(ex.map(len, big)) == [1_500_000] * 20  # the world's daemon looks into S3 at each chunk
    job_id = world.chunks[0].job_id
    ex.close()
    log = world.store.log
    first_send = next(position for position, (kind, _) in enumerate(log) if kind == "send")
    assert ("put", manifest_key(job_id)) in log[:first_send]
    segments = {chunk.args.key for chunk in world.chunks}
    assert len(segments) >= 3
    for chunk in world.chunks:
        assert log.index(("put", chunk.args.key)) < log.index(("send", f"{job_id}/{chunk.chunk_id}"))
    seal = decode_seal(world.store.objects[sealed_key(job_id)])
    assert (seal.n_calls, seal.n_chunks, seal.n_segments) == (20, 20, len(segments))
    assert max(log.index(("put", key)) for key in segments) < log.index(("put", sealed_key(job_id)))
    assert {chunk.chunk_id for chunk in world.chunks} == {new_chunk_id(number) for number in range(20)}


def test_the_first_chunks_leave_before_the_last_item_is_pickled(world):
    world.run()
    seen = threading.Event()

    def items():
        for n in range(30):
            yield b"x" * 1_000_000
            if n == 20:
                until(lambda: world.chunks)
                seen.set()

    futures = world.executor().map(len, items())
    assert seen.is_set()
    assert get_all_results(futures) == [1_000_000] * 30


def test_a_single_call_is_one_object_and_one_message(world):
    world.run()
    ex = world.executor()
    assert ex.call_async(abs, -1).result(20) == 1
    ex.close()
    job_id = world.chunks[0].job_id
    assert [key for key in world.store.objects if key.startswith("jobs/")] == [manifest_key(job_id)]
    manifest, _, _, tail = decode_manifest(manifest_key(job_id), world.store.objects[manifest_key(job_id)])
    assert (manifest.n_calls, tail.n_calls, manifest.name) == (1, 1, "abs")
    assert manifest.reply_queue == world.replies[0].url


def test_a_small_job_is_sent_before_anything_is_stored_and_brings_its_manifest(world):
    stored = threading.Event()
    world.store.before_put = lambda key: stored.wait(20)
    ex = world.executor()
    future = ex.call_async(abs, -1)
    until(lambda: world.tasks.batches)
    assert world.store.objects == {}
    body = world.tasks.messages.get(timeout=20)
    world.tasks.messages.put(body)
    chunk, inline, manifest = decode_chunk(body)
    assert inline is not None
    assert decode_manifest(chunk.manifest_key, manifest)[0].n_calls == 1
    stored.set()
    world.run()
    assert future.result(20) == 1
    assert world.store.objects[chunk.manifest_key] == manifest  # anybody can send it again


def test_what_needs_s3_is_sent_when_it_is_there(world):
    stored = threading.Event()
    world.store.before_put = lambda key: stored.wait(20)
    ex = world.executor()
    heavy = bytes(20_000)
    futures = ex.map(lambda x: len(heavy) + len(x), [b"x" * 60_000] * 3)
    time.sleep(0.1)
    assert world.tasks.batches == []
    stored.set()
    world.run()
    assert get_all_results(futures) == [80_000] * 3


def test_whoever_pickles_a_future_gets_its_chunk_cut(world):
    futures = world.executor().map(abs, range(100))
    assert not futures[-1].running()
    again = pickle.loads(pickle.dumps(futures[-1]))
    world.run()
    assert (again.result(20), futures[-1].result(20)) == (99, 99)


def test_what_nothing_is_known_of_is_sent_all_the_same(world):
    futures = world.executor().map(abs, range(3000))
    until(lambda: sum(chunk.n_calls for batch in world.tasks.batches for chunk in batch) == 3000)
    until(lambda: sealed_key(futures[0].job_id) in world.store.objects)
    sizes = {chunk.n_calls for batch in world.tasks.batches for chunk in batch}
    assert sizes <= {1, 2, 3}


def test_work_for_later_is_done_later_and_before_the_sender_is_idle():
    sender = Sender(on_death=lambda error: None, n_threads=1)
    done: list[str] = []
    sender.post_later(lambda: done.append("later"), delay=0.2)
    sender.post_later(lambda: done.append("soon"), delay=0.0)
    sender.post(lambda: done.append("now"))
    sender.wait_until_idle()
    assert done[-1] == "later"
    assert sorted(done) == ["later", "now", "soon"]


def test_submits_gather_while_a_send_is_in_the_air(world):
    world.tasks.gate.clear()
    ex = world.executor()
    futures = [ex.submit(pow, 2, 0)]
    until(lambda: len(world.tasks.batches) == 1)
    futures += [ex.submit(pow, 2, n) for n in range(1, 16)]
    assert len(world.tasks.batches) == 1
    world.tasks.gate.set()
    world.run()
    assert get_all_results(futures) == [2**n for n in range(16)]
    assert [len(batch) for batch in world.tasks.batches] == [1, 15]
    assert {chunk.n_calls for chunk in world.chunks} == {1}
    assert len({future.job_id for future in futures}) == 1
    assert ex.submit(divmod, 1, 1).job_id != futures[0].job_id
    ex.close()
    assert decode_seal(world.store.objects[sealed_key(futures[0].job_id)]).n_calls == 16


def test_many_threads_may_submit(world):
    world.run()
    ex = world.executor()
    results: list[object] = []

    def submit(base):
        futures = [ex.submit(divmod, base + n, 7) for n in range(50)]
        results.append([future.result(20) for future in futures] == [divmod(base + n, 7) for n in range(50)])

    threads = [threading.Thread(target=submit, args=[n * 100]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [True] * 4
    assert sorted(call for chunk in world.chunks for call in [chunk.first_call]) == list(range(200))


def test_a_closed_executor_refuses_but_its_futures_are_good(world):
    with world.executor() as ex:
        futures = ex.map(abs, [-1, -2])
    assert world.replies[0].gone
    for use in (lambda: ex.map(abs, [1]), lambda: ex.submit(abs, 1)):
        with pytest.raises(WrenError, match="closed"):
            use()
    ex.close()
    world.run()
    called = threading.Event()
    futures[1].add_done_callback(lambda _: called.set())
    assert called.wait(20)
    assert get_all_results(futures) == [1, 2]


def test_messages_of_a_segment_go_out_side_by_side(world):
    world.run()
    assert get_all_results(world.executor().map(abs, range(200), chunksize=1)) == list(range(200))
    assert sorted(len(batch) for batch in world.tasks.batches) == [40] * 5


def test_the_sender_bounds_what_waits():
    deaths: list[BaseException] = []
    sender, gate, done = Sender(on_death=deaths.append, n_threads=1, room_bytes=10), threading.Event(), []
    sender.post(lambda: gate.wait(20), n_bytes=11)
    waiting = threading.Thread(target=lambda: (sender.wait_for_room(), done.append(1)))
    waiting.start()
    waiting.join(0.05)
    assert not done
    gate.set()
    waiting.join(20)
    assert done
    sender.post(lambda: 1 / 0)
    sender.wait_until_idle()
    assert [type(death) for death in deaths] == [ZeroDivisionError]
