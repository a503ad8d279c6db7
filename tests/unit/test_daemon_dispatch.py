"""Which calls go to which slot: by pace, by share, and one at a time where a chunk's deliveries keep vanishing."""

from __future__ import annotations

import time
from typing import Any

import pytest
from test_daemon_holding import empty_object, holding

from wren_worker.clock import SystemClock
from wren_worker.daemon.calls import Run
from wren_worker.daemon.dispatch import Dispatch, Paces
from wren_worker.protocol import records


class FakeSlot:
    def __init__(self, number: int) -> None:
        self.number = number
        self.job: Any = None
        self.given: list[int] = []
        self.since = time.monotonic()

    @property
    def free(self) -> bool:
        return not self.given

    @property
    def n_given(self) -> int:
        return len(self.given)

    def running(self) -> tuple[None, float] | None:
        return (None, self.since) if self.given else None

    def give(self, job: Any, run: Run, frame: Any, handle: str) -> None:
        self.job = job.identity
        self.given = list(run.calls)


@pytest.fixture
def rig() -> tuple[list[FakeSlot], Paces, Dispatch]:
    slots, paces = [FakeSlot(0), FakeSlot(1)], Paces()
    return slots, paces, Dispatch(slots=slots, paces=paces, clock=SystemClock())  # type: ignore[arg-type]


def given(slots: list[FakeSlot]) -> list[list[int]]:
    return [slot.given for slot in slots]


def test_one_call_a_slot_while_nothing_is_known_then_a_share_by_pace(rig):
    slots, paces, dispatch = rig
    held = holding(n_calls=40)
    dispatch.hand_out([held])
    assert given(slots) == [[10], [11]]
    paces.note("j", 0.001)
    slots[0].given = []
    dispatch.hand_out([held])
    assert len(slots[0].given) == 19  # half of what waits: the other slot shall have the rest
    slots[0].given = []
    paces.note("j", 10.0)
    dispatch.hand_out([held])
    assert len(slots[0].given) == 1


def test_a_chunk_whose_deliveries_keep_vanishing_runs_one_call_at_a_time_each_stored_before_the_next(rig):
    slots, paces, dispatch = rig
    paces.note("j", 0.001)
    held = holding(delivery=3, known=empty_object())
    dispatch.hand_out([held])
    assert given(slots) == [[13], []]
    slots[0].given = []
    held.outcome(13, records.pack_record(13, records.SUCCESS, b""))
    dispatch.hand_out([held])
    assert given(slots) == [[], []]  # done, but not stored yet
    held.puts(split=False, timestamp=0.0)
    held.stored(13, None)
    dispatch.hand_out([held])
    assert given(slots) == [[12], []]


def test_it_runs_beside_nothing_else_and_nothing_more_is_received(rig):
    slots, _, dispatch = rig
    suspect, ordinary = holding(delivery=4, known=empty_object()), holding(n_calls=1)
    dispatch.hand_out([suspect, ordinary])
    assert given(slots) == [[10], []]
    assert suspect.n_running == 0
    assert dispatch.wanted([suspect]) == 0


def test_as_many_chunks_are_wanted_as_free_slots_have_nothing_to_start(rig):
    slots, _, dispatch = rig
    assert dispatch.wanted([]) == 2
    assert dispatch.wanted([holding(n_calls=1)]) == 1
    slots[0].given = [1]
    assert dispatch.wanted([]) == 1


def test_the_next_chunk_is_fetched_shortly_before_the_slots_run_dry(rig):
    slots, paces, dispatch = rig
    held = holding(n_calls=40)
    dispatch.hand_out([held])
    assert dispatch.wanted([held]) == 0  # nobody knows how long its calls take
    paces.note("j", 1.0)
    assert dispatch.wanted([held]) == 0
    assert dispatch.wanted_in([held]) == 1.0
    held.give_up_waiting()
    for slot in slots:
        slot.since = SystemClock().monotonic() - 0.6
    assert dispatch.wanted([held]) == 0
    assert 0.2 < dispatch.wanted_in([held]) < 0.31
    for slot in slots:
        slot.since -= 0.35
    assert dispatch.wanted([held]) == 1  # one of its calls alone will keep a slot busy for a second


def test_nothing_is_fetched_ahead_of_a_call_that_takes_longer_than_its_kind(rig):
    slots, paces, dispatch = rig
    paces.note("j", 0.1)
    held = holding(n_calls=2)
    dispatch.hand_out([held])
    assert dispatch.wanted([held]) > 0
    slots[1].since -= 3.0
    assert dispatch.wanted([held]) == 0


def test_short_chunks_are_fetched_several_at_once_but_never_into_an_idle_instance(rig):
    slots, paces, dispatch = rig
    paces.note("j", 1e-6)
    held = holding(n_calls=1)
    dispatch.hand_out([held])
    assert dispatch.wanted([held]) == 8
    slots[0].given = []
    assert dispatch.wanted([]) == 2  # what comes next may be of another job, and long
