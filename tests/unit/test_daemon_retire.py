"""When an instance stops receiving and when it goes off."""

from __future__ import annotations

import pytest

from wren_worker.daemon.retire import Retirement, Verdict


@pytest.fixture
def life() -> Retirement:
    return Retirement(booted=1000.0, idle_timeout=300.0, max_lifetime=28800.0)


@pytest.mark.parametrize(
    ("now", "idle_since", "expected"),
    [
        (1100.0, 1000.0, Verdict.STAY),
        (1299.9, 1000.0, Verdict.STAY),
        (1300.0, 1000.0, Verdict.LAST_LOOK),
        (9000.0, None, Verdict.STAY),
        (1000.0 + 28800 - 900, None, Verdict.DRAIN),
        (1000.0 + 28800 - 900, 1000.0, Verdict.DRAIN),
        (1000.0 + 28800, None, Verdict.OFF),
    ],
)
def test_verdict(life, now, idle_since, expected):
    assert life.verdict(now=now, idle_since=idle_since) is expected


def test_a_short_life_drains_for_a_quarter_of_it():
    life = Retirement(booted=0.0, idle_timeout=10.0, max_lifetime=100.0)
    assert life.verdict(now=74.9, idle_since=None) is Verdict.STAY
    assert life.verdict(now=75.0, idle_since=None) is Verdict.DRAIN


def test_a_poll_never_outlasts_the_next_decision(life):
    assert life.poll_time(now=1100.0, idle_since=1000.0) == 20.0
    assert life.poll_time(now=1290.0, idle_since=1000.0) == 10.0
    assert life.poll_time(now=1299.9, idle_since=1000.0) == 1.0
    assert life.poll_time(now=life.drain_from - 5, idle_since=None) == 5.0


def test_a_poll_begun_beside_work_ends_before_idleness_from_then_would():
    assert Retirement(booted=0.0, idle_timeout=4.0, max_lifetime=9999.0).poll_time(now=50.0, idle_since=None) == 4.0


def test_who_is_asked_to_leave_drains_at_once_and_goes_before_the_deadline(life):
    asked = life.asked_to_leave(now=2000.0, deadline=2120.0, why="spot interruption")
    assert asked.verdict(now=2000.0, idle_since=None) is Verdict.DRAIN
    assert asked.end < 2120.0
    assert asked.verdict(now=asked.end, idle_since=None) is Verdict.OFF
    assert asked.why == "spot interruption"


def test_a_drain_without_deadline_lasts_as_long_as_its_calls_and_a_notice_shortens_it(life):
    asked = life.asked_to_leave(now=2000.0, deadline=None, why="tag")
    assert asked.verdict(now=20000.0, idle_since=None) is Verdict.DRAIN
    assert asked.end == life.end
    both = asked.asked_to_leave(now=3000.0, deadline=3120.0, why="spot interruption")
    assert both.drain_from == 2000.0
    assert both.end < 3120.0
    # a notice whose deadline is over leaves no time, not a negative one
    assert (
        life.asked_to_leave(now=5000.0, deadline=4000.0, why="late").verdict(now=5000.0, idle_since=None) is Verdict.OFF
    )
