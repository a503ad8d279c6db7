"""Chunks that vanish are sent again, by whoever reads the job, and given up in the end."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import replace

import pytest
from client_world import World, Worlds, until

from wren_worker.client.attach import attach, reading_session
from wren_worker.client.collector import Collector
from wren_worker.client.transport import Patience
from wren_worker.errors import ChunkLost, QueueError, StoreError
from wren_worker.protocol import wire
from wren_worker.protocol.model import Chunk, args_key, manifest_key, result_key, sealed_key, state_key
from wren_worker.protocol.ports import ObjectInfo, OutgoingMessage
from wren_worker.testing import FakeClock, MemoryTaskQueue

LOST_TIME = 180.0


@pytest.fixture
def world() -> Iterator[World]:
    world = Worlds.current = World()
    yield world
    Worlds.current = None
    world.close()


class Reader:
    """Somebody attached to a job, whose collector is ticked by hand on a clock of its own."""

    def __init__(
        self, world: World, job_id: str, *, queue: MemoryTaskQueue | None = None, clock: FakeClock | None = None
    ):
        self.world, self.job_id = world, job_id
        self.clock = clock or FakeClock(start_timestamp=time.time() + 3600.0)
        self.queue = queue or MemoryTaskQueue("wren-unit-tasks", clock=self.clock)
        transport = replace(
            world.transport(),
            clock=self.clock,
            task_queue=self.queue,
            patience=Patience(lost_time=LOST_TIME, most_resends=2),
        )
        self.session = reading_session(transport)
        self.futures = attach(transport, job_id, session=self.session, partial=True)
        self.collector: Collector = self.session._new_collector()
        self.collector._hints._why = lambda: ""  # type: ignore[method-assign]
        self.collector._stopping.wait = self.clock.sleep  # type: ignore[method-assign,assignment]
        self.session._reply_known.set()
        self.said = io.StringIO()

    def tick(self) -> None:
        with redirect_stderr(self.said):
            self.collector.tick()

    def pass_time(self, seconds: float, *, often: Callable[[], object] = lambda: None) -> None:
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end and self.session.pending():
            self.tick()
            often()

    def take(self) -> list[str]:
        """Take every message off the queue, as daemons or a purge do."""
        found: list[str] = []
        while messages := self.queue.receive(max_messages=10, wait_time=0, lease_time=1000):
            self.queue.delete([message.receipt_handle for message in messages])
            found += [message.body for message in messages]
        return found

    @property
    def n_done(self) -> int:
        return sum(future.done_already for future in self.futures)


def chunks_of(world: World, job_id: str) -> list[Chunk]:
    return [chunk for batch in list(world.tasks.batches) for chunk in batch if chunk.job_id == job_id]


def send(world: World, n_calls: int, chunksize: int, size: int = 0) -> str:
    """Send a job whose messages nobody will ever see; return its id."""
    futures = world.executor().map(len, [b"x" * size] * n_calls, chunksize=chunksize)
    job_id = futures[0].job_id
    until(lambda: sum(chunk.n_calls for chunk in chunks_of(world, job_id)) == n_calls)

    def whole() -> bool:
        found = wire.unwrap(b"WRNJ", world.store.objects.get(manifest_key(job_id), b"") or wire.wrap(b"WRNJ", {}))[0]
        return found.get("n_calls") == n_calls or sealed_key(job_id) in world.store.objects

    until(whole)
    while not world.tasks.messages.empty():
        world.tasks.messages.get()
    return job_id


@pytest.mark.parametrize("size", [0, 60_000])
def test_what_was_purged_is_sent_again_from_s3(world, size):
    job_id = send(world, 60, 2, size)
    reader = Reader(world, job_id)
    reader.pass_time(LOST_TIME)
    assert reader.take() == []  # not too soon
    reader.pass_time(2 * LOST_TIME / 3 + 20)
    bodies = reader.take()
    chunks = [wire.decode_chunk(body)[0] for body in bodies]
    assert sorted(chunk.chunk_id for chunk in chunks) == [wire.new_chunk_id(number) for number in range(30)]
    assert {chunk.resent for chunk in chunks} == {1}
    assert "30 chunks of job" in reader.said.getvalue()
    assert {chunk.reply_queue for chunk in chunks} == {world.replies[0].url}  # it has none of its own
    for body in bodies:
        world.run_chunk(body)
    reader.pass_time(10)
    assert [future.result(0) for future in reader.futures] == [size] * 60


def test_nothing_is_asked_while_news_come_and_little_while_it_waits(world):
    job_id = send(world, 40, 1)
    reader = Reader(world, job_id)
    reader.queue.send([OutgoingMessage(body="somebody's")])
    depths, lists = [], []
    depth, listed = reader.queue.depth, world.store.list
    reader.queue.depth = lambda: depths.append(1) or depth()
    world.store.list = lambda prefix, **at: lists.append(prefix) or listed(prefix, **at)
    chunks = iter(chunks_of(world, job_id))

    def one_more() -> None:
        if (chunk := next(chunks, None)) is not None:
            world.run_chunk(wire.encode_chunk(chunk, None))

    # the arguments of a small job lie in the manifest
    reader.pass_time(20 * LOST_TIME, often=lambda: reader.clock.advance(30) or (depths or one_more()))
    assert reader.n_done == 40
    assert depths == []
    assert "state/" not in lists
    waits = Reader(world, send(world, 1, 1))
    waits.queue.send([OutgoingMessage(body="it waits for an instance")])
    of_its_own = waits.queue.depth
    waits.queue.depth = lambda: depths.append(1) or of_its_own()
    waits.pass_time(3600)
    assert 55 <= len(depths) <= 62  # one a minute
    assert waits.take() == ["it waits for an instance"]


def test_what_an_instance_says_it_holds_is_not_lost_while_it_lives(world):
    job_id = send(world, 3, 1)
    reader = Reader(world, job_id)
    key = state_key("i-0123")
    listed = world.store.list
    written = [0.0]
    names = [f"{job_id}/{wire.new_chunk_id(number)}" for number in (0, 2)]
    world.store.objects[key] = json.dumps({"held": names}).encode()
    world.store.objects[state_key("i-0bad")] = b"\xff not json"

    def timed(prefix, **at):
        for info in listed(prefix, **at):
            yield ObjectInfo(key=info.key, n_bytes=1, modified_timestamp=written[0])

    world.store.list = timed

    def beat() -> None:
        written[0] = reader.clock.monotonic() // 60

    reader.pass_time(LOST_TIME * 2, often=beat)
    assert [wire.decode_chunk(body)[0].chunk_id for body in reader.take()] == [wire.new_chunk_id(1)]
    reader.pass_time(2 * LOST_TIME)  # it is not written any more: the instance is gone
    assert {wire.decode_chunk(body)[0].chunk_id for body in reader.take()} >= {name[-8:] for name in names}


def test_an_instance_that_shows_no_life_holds_nothing(world):
    job_id = send(world, 1, 1)
    reader = Reader(world, job_id)
    world.store.objects[state_key("i-dead")] = json.dumps({"held": [f"{job_id}/00000000"]}).encode()
    reader.pass_time(LOST_TIME * 2)
    assert len(reader.take()) == 1


def test_what_others_have_passed_over_is_sent_again_though_the_queue_is_full(world):
    job_id = send(world, 10, 1)
    reader = Reader(world, job_id)
    reader.queue.send([OutgoingMessage(body="somebody's")] * 30)
    for batch in list(world.tasks.batches):
        for chunk in batch:
            if chunk.chunk_id in ("00000001", "00000007", "00000008"):
                world.run_chunk(wire.encode_chunk(chunk, None))
    reader.pass_time(LOST_TIME * 2)
    found = [body for body in reader.take() if body != "somebody's"]
    assert sorted(int(wire.decode_chunk(body)[0].chunk_id) for body in found) == [0, 2, 3, 4, 5, 6]  # 9 may just wait


def test_it_is_sent_ever_more_seldom_and_given_up_with_a_verdict_for_all(world):
    job_id = send(world, 4, 4)
    reader = Reader(world, job_id)
    sent: list[float] = []
    bodies: list[str] = []

    def watch() -> None:
        taken = reader.take()
        bodies.extend(taken)
        sent.extend(reader.clock.monotonic() for _ in taken)

    reader.pass_time(100 * LOST_TIME, often=watch)
    assert [wire.decode_chunk(body)[0].resent for body in bodies] == [1, 2]
    assert 2 * LOST_TIME <= sent[1] - sent[0] <= 3 * LOST_TIME
    assert reader.clock.monotonic() - sent[1] >= 4 * LOST_TIME
    for future in reader.futures:
        with pytest.raises(ChunkLost, match=rf"call {future.call_index} .*sent 3 times"):
            future.result(0)
    world.run_chunk(bodies[0])  # an instance that comes too late
    other = Reader(world, job_id)
    other.pass_time(10)
    assert all(isinstance(future.exception(0), ChunkLost) for future in other.futures)


def test_an_outcome_that_is_found_at_the_end_is_what_holds(world):
    job_id = send(world, 2, 1)
    reader = Reader(world, job_id)
    chunks = chunks_of(world, job_id)
    whole = world.store.put_once

    def put_once(key, data):
        if key == result_key(job_id, chunks[1].chunk_id) and key not in world.store.objects:
            world.store.put_once = whole
            world.run_chunk(wire.encode_chunk(chunks[1], None))  # a moment before the verdict
        return whole(key, data)

    world.store.put_once = put_once
    reader.pass_time(100 * LOST_TIME, often=reader.take)
    assert isinstance(reader.futures[0].exception(0), ChunkLost)
    assert reader.futures[1].result(0) == 0


@pytest.mark.parametrize("what", ["manifest", "args", "everything in time"])
def test_what_cannot_be_sent_again_is_given_up(world, what):
    """Results that are gone by the bucket's lifecycle rule are an error, too, and not run again."""
    job_id = send(world, 6, 1, 100_000)
    reader = Reader(world, job_id)
    if what == "everything in time":
        reader.clock.advance(15 * 86400)
    segments = [key for key in world.store.objects if "/args-" in key]
    keys = {"manifest": [manifest_key(job_id)], "args": segments}.get(what, [])
    assert args_key(job_id, 1) in world.store.objects
    world.store.delete(keys)
    reader.pass_time(LOST_TIME * 3)
    for future in reader.futures:
        with pytest.raises(ChunkLost, match="cannot be sent again"):
            future.result(0)


def test_two_readers_that_send_again_do_no_harm(world):
    job_id = send(world, 8, 2)
    first = Reader(world, job_id)
    second = Reader(world, job_id, queue=first.queue, clock=first.clock)
    until(lambda: first.pass_time(20) or second.tick() or first.queue.depth().visible)
    first.tick()
    second.pass_time(30)
    bodies = first.take()
    assert len(bodies) >= 4
    for body in bodies * 2:
        world.run_chunk(body)
    for reader in (first, second):
        reader.pass_time(10)
        assert [future.result(0) for future in reader.futures] == [0] * 8


def test_a_deleted_queue_is_named_and_its_messages_sent_when_there_is_one_again(world):
    job_id = send(world, 2, 1)
    reader = Reader(world, job_id)
    reader.queue._box.remove()
    reader.pass_time(3 * LOST_TIME)
    assert "task queue wren-unit-tasks does not exist" in reader.said.getvalue()
    assert reader.n_done == 0
    reader.queue._box = MemoryTaskQueue("wren-unit-tasks", clock=reader.clock)._box
    reader.pass_time(LOST_TIME)
    assert len(reader.take()) == 2


def test_a_job_of_another_queue_is_left_alone(world):
    job_id = send(world, 2, 1)
    reader = Reader(world, job_id)
    reader.session.transport.task_queue._name = "another"
    reader.collector = reader.session._new_collector()
    reader.collector._hints._why = lambda: ""
    reader.collector._stopping.wait = reader.clock.sleep
    reader.pass_time(10 * LOST_TIME)
    assert reader.take() == []
    assert reader.n_done == 0


@pytest.mark.parametrize("finished", [0, 1])
def test_a_machine_that_slept_looks_at_once_and_presumes_nothing(world, finished):
    job_id = send(world, 2, 1)
    reader = Reader(world, job_id)
    reader.pass_time(100)
    for chunk in chunks_of(world, job_id)[:finished]:
        world.run_chunk(wire.encode_chunk(chunk, None))
    slept = [False]

    def sleep(seconds: float) -> None:
        reader.clock.advance(seconds + (0 if slept[0] else 3600))
        slept[0] = True

    reader.collector._stopping.wait = sleep
    reader.tick()
    assert reader.n_done == finished  # at the first tick after the nap
    reader.pass_time(LOST_TIME / 2)
    assert reader.take() == []
    reader.pass_time(2 * LOST_TIME)
    assert len(reader.take()) >= 2 - finished


def test_a_lost_notice_is_found_though_another_job_is_full_of_news(world):
    quiet, busy = send(world, 1, 1), send(world, 30, 1)
    reader = Reader(world, quiet)
    more = attach(reader.session.transport, busy, session=reader.session)
    world.run_chunk(wire.encode_chunk(chunks_of(world, quiet)[0], None))
    rest = iter(chunks_of(world, busy))
    began = reader.clock.monotonic()
    while not reader.n_done:
        world.run_chunk(wire.encode_chunk(next(rest), None))
        reader.tick()
    assert reader.clock.monotonic() - began < 10
    assert not all(future.done_already for future in more)


def test_one_lost_notice_of_a_job_that_goes_on_is_found_within_a_minute_or_so(world):
    job_id = send(world, 30, 1)
    reader = Reader(world, job_id)
    chunks = chunks_of(world, job_id)

    class Queue:
        """Brings a notice every three seconds, but the first."""

        def __init__(self) -> None:
            self.chunks = iter(chunks)

        def receive(self, *, wait_time):
            reader.clock.advance(3.0)
            world.run_chunk(wire.encode_chunk(next(self.chunks), None))
            return []

    reader.collector._queue = Queue()
    reader.session._reply_known.set()
    began = reader.clock.monotonic()
    job = reader.session.job(job_id)
    while not reader.futures[0].done_already:
        job.n_news += 1  # other notices came
        reader.tick()
    assert reader.clock.monotonic() - began < 70


def test_outcomes_come_though_sqs_refuses(world):
    job_id = send(world, 1, 1)
    reader = Reader(world, job_id)

    class Refusing:
        def receive(self, *, wait_time):
            reader.clock.advance(1.0)
            raise QueueError("The AWS credentials have expired.", gone=False)

    reader.collector._queue = Refusing()
    world.run_chunk(wire.encode_chunk(world.tasks.batches[0][0], None))
    reader.pass_time(30)
    assert reader.n_done == 1
    assert reader.said.getvalue().count("expired") == 1


def test_expired_credentials_are_said_and_renewed_ones_used(world):
    job_id = send(world, 1, 1)
    reader = Reader(world, job_id)
    get = world.store.get

    def refuse(key, **at):
        raise StoreError("The AWS credentials have expired. Sign in again (`aws sso login`).", denied=True)

    world.store.get = refuse
    reader.pass_time(600)
    said = reader.said.getvalue()
    assert 2 <= said.count("have expired. Sign in again") <= 21
    assert reader.n_done == 0
    world.store.get = get
    world.run_chunk(wire.encode_chunk(world.tasks.batches[0][0], None))
    reader.pass_time(10)
    assert reader.futures[0].result(0) == 0
