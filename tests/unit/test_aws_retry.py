"""Waits between tries."""

from __future__ import annotations

import pytest

from wren_worker.aws.retry import Backoff
from wren_worker.testing import FakeClock


def test_waits_double_to_a_cap_and_end_with_the_time():
    clock = FakeClock()
    tries = Backoff(clock, timeout=10, base_time=1, cap_time=4, draw=lambda: 1.0)
    began, waited = clock.monotonic(), []
    while tries.wait():
        waited.append(clock.monotonic() - began)
    assert waited == pytest.approx([1, 3, 7, 10])


def test_no_time_is_no_wait():
    assert Backoff(FakeClock(), timeout=0).wait() is False


def test_the_wait_is_drawn_from_the_whole_range():
    clock = FakeClock()
    draws = iter([0.0, 0.5])
    tries = Backoff(clock, timeout=10, base_time=2, draw=lambda: next(draws))
    began = clock.monotonic()
    tries.wait()
    assert clock.monotonic() == began
    tries.wait()
    assert clock.monotonic() == pytest.approx(began + 2)
