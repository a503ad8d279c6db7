"""When the doorbell is asked for, and what is settled once it rang."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from wren_worker.daemon.doorbell import Doorbell
from wren_worker.daemon.events import Inbox, Settled
from wren_worker.errors import StoreError
from wren_worker.log import NullLog
from wren_worker.protocol import records, wire
from wren_worker.protocol.model import (
    ArgsLocation,
    Chunk,
    ChunkId,
    JobId,
    ResultObject,
    call_key,
    cancel_key,
    result_key,
)
from wren_worker.testing import FakeClock, MemoryStore


class Store(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.down = False

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes | None:
        self.asked.append(key)
        if self.down:
            raise StoreError("down")
        return super().get(key, offset=offset, length=length)


class Rig:
    def __init__(self) -> None:
        self.store, self.inbox, self.clock = Store(), Inbox(), FakeClock()
        self.bell = Doorbell(store=self.store, inbox=self.inbox, interval=4.0, clock=self.clock, log=NullLog())
        self.bell.start()

    def holding(self, number: int = 0, job: str = "j") -> Any:
        chunk = Chunk(
            job_id=JobId(job),
            chunk_id=ChunkId(f"{number:08d}"),
            first_call=2 * number,
            n_calls=2,
            python="3",
            manifest_key="",
            manifest_sha256="",
            args=ArgsLocation(key="", offset=0, length=0, sha256=""),
            reply_queue="",
            audience="",
            host_send_timestamp=0.0,
            expiry_timestamp=0.0,
        )
        return SimpleNamespace(chunk=chunk, receipt_handle=f"h{number}", leaving=False)

    def work(self, holdings: list[Any], seconds: float) -> None:
        for _ in range(int(seconds)):
            self.bell.show(holdings)
            self.clock.advance(1.0)
        self.bell.show(holdings)

    def until(self, done: Any) -> None:
        deadline = time.monotonic() + 10
        while not done():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def settled(self, n: int = 1) -> list[Settled]:
        found: list[Settled] = []

        def some() -> bool:
            found.extend(event for event in self.inbox.take() if isinstance(event, Settled))
            return len(found) >= n

        self.until(some)
        return found

    def verdict(self, number: int, left_out: tuple[tuple[int, int], ...], *calls: int) -> None:
        result = ResultObject(
            job_id=JobId("j"),
            chunk_id=ChunkId(f"{number:08d}"),
            first_call=2 * number,
            n_calls=2,
            left_out=left_out,
        )
        outcomes = [records.pack_record(call, records.ERROR, b"{}") for call in calls]
        self.store.put(result_key("j", f"{number:08d}"), wire.encode_result(result, outcomes))


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.bell.stop()


def test_a_short_job_is_never_asked_for_and_a_long_one_every_few_seconds(rig):
    rig.work([rig.holding()], 1)
    time.sleep(0.8)
    assert rig.store.asked == []
    rig.work([rig.holding()], 2)
    rig.until(lambda: rig.store.asked == [cancel_key("j")])
    time.sleep(0.8)
    assert len(rig.store.asked) == 1  # its time has not come again
    rig.work([rig.holding()], 4)
    rig.until(lambda: len(rig.store.asked) == 2)
    assert not rig.bell.rung("j")


def test_a_ring_settles_what_is_stored_of_each_chunk_that_is_held(rig):
    rig.verdict(0, (), 0, 1)
    rig.verdict(1, ((3, 4),), 2)
    rig.store.put(call_key("j", "00000001", 3), b"whatever")
    rig.store.put(cancel_key("j"), b"ring")
    rig.work([rig.holding(0), rig.holding(1), rig.holding(2)], 3)
    rig.until(lambda: rig.bell.rung("j"))
    first, second = rig.settled(2)
    assert (first.receipt_handle, first.resolved) == ("h0", frozenset())
    assert (second.receipt_handle, second.known.left_out, second.resolved) == ("h1", ((3, 4),), frozenset({3}))


def test_the_same_ring_is_heard_once_and_another_again(rig):
    rig.verdict(0, (), 0, 1)
    rig.store.put(cancel_key("j"), b"ring")
    rig.work([rig.holding()], 3)
    assert len(rig.settled()) == 1
    rig.work([rig.holding()], 4)
    rig.until(lambda: rig.store.asked.count(cancel_key("j")) >= 2)
    time.sleep(0.2)
    assert rig.inbox.take() == []
    rig.store.put(cancel_key("j"), b"again")
    rig.work([rig.holding()], 4)
    assert len(rig.settled()) == 1


def test_a_ring_that_could_not_be_followed_is_followed_later(rig):
    rig.verdict(0, (), 0, 1)
    rig.store.put(cancel_key("j"), b"ring")
    rig.store.down = True
    rig.work([rig.holding()], 3)
    rig.until(lambda: bool(rig.store.asked))
    rig.store.down = False
    rig.work([rig.holding()], 5)
    assert rig.settled()[0].receipt_handle == "h0"


def test_a_chunk_that_was_being_fetched_is_settled_on_demand(rig):
    rig.verdict(0, (), 0, 1)
    rig.bell.settle("late", rig.holding().chunk)
    assert rig.settled()[0].receipt_handle == "late"
