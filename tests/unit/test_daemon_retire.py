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
