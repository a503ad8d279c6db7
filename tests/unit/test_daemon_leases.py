"""Leases: a beat at a third, retried until one gets through, given up when certainly lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from wren_worker.daemon.events import Inbox, LeaseLost
from wren_worker.daemon.leases import LeaseKeeper
from wren_worker.log import NullLog
from wren_worker.protocol.ports import LeaseState


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def timestamp(self) -> float:
        return self.now

    def sleep(self, duration_time: float) -> None:
        self.now += duration_time


class Queue:
    def __init__(self) -> None:
        self.answer = LeaseState.EXTENDED
        self.asked: list[list[str]] = []

    def extend(self, receipt_handles: Sequence[str], *, lease_time: float) -> list[LeaseState]:
        self.asked.append(list(receipt_handles))
        return [self.answer] * len(receipt_handles)


@pytest.fixture
def rig():
    clock, queue, inbox = Clock(), Queue(), Inbox()
    keeper = LeaseKeeper(queue_=queue, inbox=inbox, lease_time=90.0, clock=clock, log=NullLog())  # type: ignore[arg-type]
    return clock, queue, inbox, keeper


def test_a_beat_comes_at_a_third_of_the_lease_and_again_a_third_later(rig):
    clock, queue, inbox, keeper = rig
    keeper.track("a", since=0.0)
    for moment, n_beats in ((29.0, 0), (30.0, 1), (59.0, 1), (60.0, 2), (90.0, 3)):
        clock.now = moment
        keeper.beat()
        assert len(queue.asked) == n_beats
    assert inbox.take() == []


def test_ten_leases_a_request(rig):
    clock, queue, _, keeper = rig
    for number in range(25):
        keeper.track(str(number), since=0.0)
    clock.now = 31.0
    keeper.beat()
    assert sorted(map(len, queue.asked)) == [5, 10, 10]


def test_a_beat_without_an_answer_is_retried_until_the_lease_is_certainly_lost(rig):
    clock, queue, inbox, keeper = rig
    queue.answer = LeaseState.UNKNOWN
    keeper.track("a", since=0.0)
    while clock.now < 89.0:
        clock.now += 1.0
        keeper.beat()
    assert len(queue.asked) >= 9
    assert inbox.take() == []
    assert keeper.held("a")
    clock.now = 90.0
    assert not keeper.held("a")
    keeper.beat()
    assert inbox.take() == [LeaseLost(receipt_handle="a")]


def test_what_sqs_calls_lost_is_lost_at_once_and_only_once(rig):
    clock, queue, inbox, keeper = rig
    queue.answer = LeaseState.LOST
    keeper.track("a", since=0.0)
    clock.now = 31.0
    keeper.beat()
    assert inbox.take() == [LeaseLost(receipt_handle="a")]
    clock.now = 95.0
    keeper.beat()
    assert inbox.take() == []


def test_an_untracked_lease_is_left_alone(rig):
    clock, queue, inbox, keeper = rig
    keeper.track("a", since=0.0)
    keeper.untrack("a")
    clock.now = 200.0
    keeper.beat()
    assert (queue.asked, inbox.take()) == ([], [])


def test_a_lease_that_was_asked_for_long_ago_is_asked_about_at_once_or_known_to_be_lost(rig):
    clock, queue, inbox, keeper = rig
    clock.now = 100.0
    keeper.track("stopped for a while", since=60.0)
    keeper.track("stopped for long", since=5.0)
    assert not keeper.held("stopped for long")
    keeper.beat()
    assert queue.asked == [["stopped for a while"]]
    assert inbox.take() == [LeaseLost(receipt_handle="stopped for long")]
