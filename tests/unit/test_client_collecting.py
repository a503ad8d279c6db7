"""How outcomes come home when notices are lost, forged, split or doubled."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from contextlib import redirect_stderr

import pytest
from client_world import World, until

from wren_worker.client.collector import Collector
from wren_worker.client.hints import Hints
from wren_worker.client.job import Job
from wren_worker.client.resolve import Ledger, parse_result_key
from wren_worker.client.waiting import get_all_results, wait
from wren_worker.errors import CallTimeout, QueueError, ResultTampered, StoreError, WireError
from wren_worker.protocol import records, wire
from wren_worker.protocol.model import ResultObject, result_key
from wren_worker.slot.values import dump_value


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


class Clock:
    """Waiting makes it later."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def timestamp(self) -> float:
        return self.now

    def sleep(self, duration_time: float) -> None:
        self.now += duration_time


class SilentQueue:
    """A reply queue in which nothing arrives, on a clock of its own."""

    url = "memory://silent"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.bodies: list[str] = []
        self.gone = False
        self.polls: list[float] = []

    def receive(self, *, wait_time):
        from wren_worker.protocol.ports import ReceivedMessage

        if self.gone:
            raise QueueError("gone", gone=True)
        self.polls.append(wait_time)
        if not self.bodies:
            self.clock.now += wait_time
        found, self.bodies = self.bodies, []
        return [ReceivedMessage(body=body, receipt_handle="h", receive_count=1, sent_timestamp=0) for body in found]

    def delete(self, receipt_handles):
        pass

    def remove(self):
        pass


class Source:
    progress = False

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}

    def fetch(self, key):
        raise AssertionError(key)

    def listen(self):
        pass

    def expect(self):
        pass

    def finished(self, job):
        self.jobs.pop(job.job_id)

    def job(self, job_id):
        return self.jobs.get(job_id)

    def pending(self):
        return [job for job in self.jobs.values() if job.futures]

    def wait_for_pending(self, timeout):
        return bool(self.pending())


class Rig:
    """One job of ``n`` chunks of ``size`` calls, and a collector that is ticked by hand."""

    def __init__(self, world: World, *, n: int, size: int, why: str = "") -> None:
        self.world, self.clock, self.source = world, Clock(), Source()
        self.job = Job("5f-ab", name="f", source=self.source, host_submit_timestamp=1.0)
        self.source.jobs[self.job.job_id] = self.job
        for number in range(n):
            self.job.add_chunk(number, number * size, size)
        self.job.mark_sent(range(n), 5.0)
        self.futures = [self.job.new_future(index) for index in range(n * size)]
        self.job.close()
        self.size = size
        self.queue = SilentQueue(self.clock)
        self.collector = Collector(
            self.source,
            store=world.store,
            clock=self.clock,
            hints=Hints(lambda: why),
            reply_queue=lambda: self.queue,
        )
        self.collector._queue = self.queue
        self.collector._start_afresh()

    def record(self, index: int, value: object = None) -> bytes:
        return records.pack_record(index, records.SUCCESS, dump_value(index if value is None else value))

    def result(self, number: int, calls, left_out=(), call_index=None, value=None) -> bytes:
        head = ResultObject(
            job_id="5f-ab",
            chunk_id=wire.new_chunk_id(number),
            first_call=number * self.size,
            n_calls=self.size,
            left_out=left_out,
            call_index=call_index,
        )
        return wire.encode_result(head, [self.record(index, value) for index in calls])

    def key(self, number: int, call: int | None = None) -> str:
        return result_key("5f-ab", wire.new_chunk_id(number)) + ("" if call is None else f"/{call}")

    def write(self, number: int) -> None:
        calls = range(number * self.size, (number + 1) * self.size)
        self.world.store.objects[self.key(number)] = self.result(number, calls)

    def notice(self, *notices: tuple[str, bytes]) -> None:
        self.queue.bodies.append(wire.encode_notices(notices))


def done(rig: Rig) -> list[int]:
    return [future.call_index for future in rig.futures if future.done()]


def test_lost_notices_are_made_up_for_from_s3(world):
    rig = Rig(world, n=3, size=2)
    rig.write(0)
    rig.write(2)
    rig.collector.tick()
    assert rig.queue.polls == [5.0]
    assert done(rig) == [0, 1, 4, 5]
    assert [kind for kind, _ in world.store.log] == ["get"] * 3  # few are missing: asked for one by one
    for _ in range(4):
        rig.collector.tick()
    assert [sum(rig.queue.polls[1:][:n]) for n in (1, 2)] == [5.0, 15.0]  # ever more patient
    rig.write(1)
    until(lambda: rig.collector.tick() or len(done(rig)) == 6)
    assert rig.source.jobs == {}


def test_many_missing_are_listed_from_the_lowest_unresolved(world):
    rig = Rig(world, n=60, size=1)
    for number in itertools.chain(range(5), range(10, 60)):
        rig.write(number)
    rig.collector.tick()
    assert len(done(rig)) == 55
    assert [entry for entry in world.store.log if entry[0] == "list"] == [("list", "results/5f-ab/")]
    assert len(world.store.log) == 1 + 55


def test_a_vanished_queue_costs_only_latency(world):
    rig = Rig(world, n=2, size=1)
    rig.queue.gone = True
    rig.write(0)
    rig.collector.tick()
    assert rig.collector._queue is None
    rig.clock.now += 1
    rig.collector.tick()
    assert done(rig) == [0]


def test_notices_that_are_none_change_nothing(world):
    rig = Rig(world, n=2, size=2)
    rig.queue.bodies = ["not base64 !", wire.encode_notices([("jobs/5f-ab/manifest", b"")])]
    rig.notice(("results/other/00000000", b"x"), ("results/5f-ab/00000009", b""), ("results/5f-ab/x", b""))
    rig.notice((rig.key(0), rig.result(1, [2, 3])))  # another chunk's object under this key
    rig.notice((rig.key(1), b"garbage"))
    rig.notice(("results/5f-ab/" + "1" * 5000, b""), ("results/5f-ab/\u0660", b"x"), ("results/5f-ab/0", b""))
    rig.queue.bodies += ["\ud800", "=" * 99, ""]
    rig.collector.tick()
    assert done(rig) == []
    assert [key for _, key in world.store.log] == [rig.key(0), rig.key(1)]  # at most: go and look
    rig.write(0)
    rig.notice((rig.key(0), rig.result(0, [0, 1])[:-1]))
    rig.collector.tick()
    assert done(rig) == [0, 1]
    assert [future.result() for future in rig.futures[:2]] == [0, 1]


def test_a_second_object_is_passed_over(world):
    rig = Rig(world, n=2, size=1)
    rig.notice((rig.key(0), rig.result(0, [0], value="first")))
    rig.notice((rig.key(0), rig.result(0, [0], value="second")))
    rig.collector.tick()
    rig.notice((rig.key(0), rig.result(0, [0], value="third")))
    rig.collector.tick()
    assert rig.futures[0].result() == "first"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_calls_left_out_come_under_their_own_keys(world, order):
    rig = Rig(world, n=2, size=4)
    objects = [
        (rig.key(0), rig.result(0, [0, 3], left_out=((1, 3),))),
        (rig.key(0, 1), rig.result(0, [1], call_index=1)),
        (rig.key(0, 2), rig.result(0, [2], call_index=2)),
    ]
    for position in order:
        rig.notice(objects[position])
    rig.collector.tick()
    assert done(rig) == [0, 1, 2, 3]
    assert [future.result() for future in rig.futures[:4]] == [0, 1, 2, 3]
    assert rig.job.ledger.missing_keys(9) == [rig.key(1)]


def test_own_keys_are_looked_for_too(world):
    rig = Rig(world, n=1, size=3)
    world.store.objects[rig.key(0)] = rig.result(0, [], left_out=((0, 3),))
    rig.collector.tick()
    assert done(rig) == []
    assert rig.job.ledger.missing_keys(9) == [rig.key(0, index) for index in range(3)]
    world.store.objects[rig.key(0, 1)] = rig.result(0, [1], call_index=1)
    until(lambda: rig.collector.tick() or done(rig) == [1])


def test_an_object_in_s3_that_is_none_fails_its_calls(world):
    rig = Rig(world, n=2, size=2)
    world.store.objects[rig.key(0)] = b"somebody's"
    rig.notice((rig.key(0), b""))
    rig.collector.tick()
    for future in rig.futures[:2]:
        with pytest.raises(ResultTampered, match="00000000"):
            future.result()
    assert not rig.futures[2].done()


def test_s3_out_of_reach_is_survived_and_said(world, monkeypatch):
    rig = Rig(world, n=1, size=1)
    monkeypatch.setattr(rig.collector._stopping, "wait", rig.clock.sleep)
    get = world.store.get

    def refuse(key, **_):
        raise StoreError("no network")

    world.store.get = refuse
    with redirect_stderr(io.StringIO()) as said:
        for _ in range(4):
            rig.collector.tick()
    assert said.getvalue().count("no network") == 1
    world.store.get = get
    rig.write(0)
    until(lambda: rig.collector.tick() or done(rig) == [0])


def test_why_nothing_runs_is_said_after_five_seconds_and_not_too_often(world):
    rig = Rig(world, n=1, size=1, why="no instance in fleet unit")
    with redirect_stderr(io.StringIO()) as said:
        while rig.clock.now < 104.9:
            rig.collector.tick()
        assert rig.clock.now < 106
        first = said.getvalue()
        while rig.clock.now < 130:
            rig.collector.tick()
    assert first == said.getvalue().split("\n")[0] + "\n" == "wren: no instance in fleet unit\n"
    assert said.getvalue().count("no instance") <= 2


def test_a_reason_that_cannot_be_had_is_no_end():
    def why():
        raise StoreError("access denied")

    with redirect_stderr(io.StringIO()) as said:
        hints = Hints(why)
        hints.consider(quiet_time=4.0, now=10.0)
        assert said.getvalue() == ""
        hints.consider(quiet_time=6.0, now=12.0)
        hints.consider(quiet_time=7.0, now=13.0)
    assert said.getvalue().count("access denied") == 1
    assert Hints(why, enabled=False).due_in(quiet_time=99, now=99) is None


def test_through_the_whole_client_without_notices(world):
    world.notify = False
    world.run()
    ex = world.executor()
    futures = ex.map(lambda x: x, range(100))
    until(lambda: len(world.chunks) == 100)
    world.replies[0].remove()
    assert get_all_results(futures) == list(range(100))


def test_a_reply_queue_that_cannot_be_made(world):
    def refuse():
        raise QueueError("not allowed")

    world.new_reply_queue = refuse
    world.run()
    assert get_all_results(world.executor().map(abs, [-1, 2])) == [1, 2]
    assert {chunk.reply_queue for chunk in world.chunks} == {""}


def test_notices_without_bytes_are_fetched(world):
    ex = world.executor()
    futures = ex.map(lambda x: x, range(3), chunksize=1)
    for _ in range(3):
        chunk, inline, _ = wire.decode_chunk(world.tasks.messages.get(timeout=20))
        world.publish(chunk, world.records(chunk, inline), inline=False)
    assert get_all_results(futures) == [0, 1, 2]


def test_keys():
    assert parse_result_key("results/j/00000012") == ("j", 12, None)
    assert parse_result_key("results/j/00000012/7") == ("j", 12, 7)
    for key in ("results/j", "jobs/j/1", "results/j/x", "results/j/1/x", "results/j/1/2/3", ""):
        assert parse_result_key(key) is None


def test_the_ledger_takes_every_object_once(world):
    rig = Rig(world, n=1, size=2)
    result = wire.decode_result(rig.result(0, [0, 1]))
    assert [call for call, _ in rig.job.ledger.apply(*result)] == [0, 1]
    assert rig.job.ledger.apply(*result) == []
    assert list(rig.job.ledger.open_books()) == []


def test_the_ledger_refuses_objects_of_other_shapes(world):
    rig = Rig(world, n=1, size=2)
    ledger = Ledger("5f-ab")
    ledger.add_chunk(0, 0, 3)
    with pytest.raises(WireError):
        ledger.apply(*wire.decode_result(rig.result(0, [0, 1])))
    assert ledger.book_of_call(2) is ledger.book(0)
    assert ledger.book_of_call(3) is None


def test_an_errors_facts_survive(world):
    world.run()
    data = {"wren error": "CallTimeout", "text": "process ran out of time", "data": {"timeout": 3}}
    future = world.executor().call_async(lambda _: data, 0)
    wait([future])
    error = future.exception()
    assert isinstance(error, CallTimeout)
    assert (error.timeout, error.call_index) == (3, 0)
