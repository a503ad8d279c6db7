"""What a selftest plans and reports, without running it."""

from __future__ import annotations

import pytest

from wren_worker.chaos.plan import DEEDS, WIRE, plan
from wren_worker.chaos.report import Report
from wren_worker.chaos.violations import Violation
from wren_worker.chaos.wire import rules_for


def test_a_plan_is_its_seeds_and_no_others():
    assert plan(5, 60) == plan(5, 60)
    assert plan(5, 60) != plan(6, 60)
    times = [strike.at_time for strike in plan(5, 60)]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 60


def test_a_longer_run_begins_as_the_shorter_one_does():
    assert plan(5, 300)[:50] == plan(5, 120)[:50]


@pytest.mark.parametrize("seed", range(5))
def test_five_minutes_hold_more_than_a_hundred_strikes_of_every_kind(seed):
    kinds = [strike.kind for strike in plan(seed, 300)]
    assert len(kinds) > 300
    assert len(set(kinds)) > 0.8 * (len(DEEDS) + len(WIRE))


@pytest.mark.parametrize("kind", WIRE)
def test_every_kind_of_the_plan_has_rules_that_end(kind):
    for draw in (0.0, 0.5, 0.99):
        rules = rules_for(kind, draw)
        assert rules
        assert all(rule.limit is not None and rule.fault.name for rule in rules)


@pytest.mark.parametrize("what", ["lost", "hung", "duplicated", "wrong", "orphan_processes", "orphan_instances"])
def test_one_exception_and_it_does_not_hold(what):
    assert Report(seed=1, seconds=1).holds
    spoilt = Report(seed=1, seconds=1, **{what: 1})
    assert not spoilt.holds
    assert spoilt.as_json()["holds"] is False


def test_one_violation_and_it_does_not_hold():
    spoilt = Report(seed=1, seconds=1, violations=[Violation("leases kept", "text")], injected={"a": 2, "b": 3})
    assert not spoilt.holds
    told = spoilt.as_json()
    assert (told["n_injected"], told["violations"]) == (5, ["leases kept: text"])
