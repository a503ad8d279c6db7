"""What counts as evidence against an instance, and that it takes two sights of it."""

from __future__ import annotations

import pytest

from wren_worker.errors import FleetError, StoreError
from wren_worker.fleet.drain import drain
from wren_worker.fleet.reap import STRIKE_TAG, Action, judge, reap
from wren_worker.protocol.ports import InstanceInfo, ObjectInfo

NOW = 1_700_000_000.0
HOUR = 3600.0


def info(number=1, *, age=HOUR, state="running", lifetime=8 * HOUR, boot=900.0, **tags):
    known = {"wren:max-lifetime": f"{lifetime:.0f}", "wren:boot-timeout": f"{boot:.0f}"}
    return InstanceInfo(
        instance_id=f"i-{number}",
        instance_type="c5.large",
        state=state,
        launch_timestamp=NOW - age,
        tags={**known, **tags},
    )


@pytest.mark.parametrize(
    ("instance", "heard", "evidence"),
    [
        (info(), 60, ""),
        (info(), 1100, ""),
        (info(), 1300, "silent"),
        (info(age=600), None, ""),
        (info(age=1300), None, "no sign of life"),
        (info(age=2000, boot=3600), None, ""),  # its own launch gave it an hour to boot
        (info(age=600, state="pending"), None, ""),
        (info(age=8.2 * HOUR), 60, ""),
        (info(age=8.3 * HOUR), 60, "8.3 h old"),  # however alive it is
        (info(age=0.3 * HOUR, lifetime=60.0), 10, "old"),
        (info(age=9 * HOUR, state="terminated"), None, ""),
        (info(age=9 * HOUR, state="shutting-down"), None, ""),
        (info(state="stopped"), 60, "stopped"),
        (info(age=1300), 2000, "silent"),  # what was heard of an instance before its launch was another's
    ],
)
def test_evidence(instance, heard, evidence):
    seen = None if heard is None else NOW - heard
    found = judge(instance, seen, known=True, timestamp=NOW)
    assert evidence in found
    assert bool(found) == bool(evidence)


def test_a_launch_without_these_tags_is_not_ended_for_its_age():
    old = InstanceInfo(instance_id="i-1", instance_type="c5.large", state="running", launch_timestamp=NOW - 99 * HOUR)
    assert judge(old, NOW - 60, known=True, timestamp=NOW) == ""
    assert "no sign of life" in judge(old, None, known=True, timestamp=NOW)


def test_what_cannot_be_asked_is_no_evidence():
    assert judge(info(), None, known=False, timestamp=NOW) == ""
    assert "old" in judge(info(age=9 * HOUR), None, known=False, timestamp=NOW)


class Fleet:
    """EC2 and the bucket of one fleet."""

    def __init__(self, *infos, heard=None, broken=()):
        self.infos = {one.instance_id: one for one in infos}
        self.heard = heard or {}
        self.broken = set(broken)
        self.ended = []
        self.deaf = False

    def instances(self, fleet, *, alive_only=True):
        return list(self.infos.values())

    def list(self, prefix, *, start_after=""):
        if self.deaf:
            raise StoreError("denied")
        return iter([ObjectInfo(key=f"{prefix}{k}", n_bytes=1, modified_timestamp=v) for k, v in self.heard.items()])

    def set_tags(self, instance_ids, tags):
        for one in instance_ids:
            if one in self.broken:
                raise FleetError(f"{one} cannot be tagged")
            old = self.infos[one]
            values = {name: getattr(old, name) for name in InstanceInfo.__dataclass_fields__}
            self.infos[one] = InstanceInfo(**{**values, "tags": {**old.tags, **tags}})

    def terminate(self, instance_ids):
        failed = {one: "denied" for one in instance_ids if one in self.broken}
        self.ended += [one for one in instance_ids if one not in failed]
        return failed

    def look(self, after=0.0):
        return {one.instance_id: one.action for one in reap(self, self, "unit", timestamp=NOW + after)}


def test_the_first_sight_is_a_strike_the_second_ends_it():
    fleet = Fleet(info(1), info(2), heard={"i-2": NOW + 9 * HOUR})
    assert fleet.look() == {"i-1": Action.STRIKE}
    assert fleet.ended == []
    assert fleet.look(after=60) == {"i-1": Action.WAIT}
    assert fleet.ended == []
    assert fleet.look(after=301) == {"i-1": Action.END}
    assert fleet.ended == ["i-1"]


def test_a_sign_of_life_takes_the_strike_away():
    fleet = Fleet(info(1))
    fleet.look()
    fleet.heard["i-1"] = NOW + 100
    assert fleet.look(after=400) == {}
    assert fleet.look(after=2000) == {"i-1": Action.STRIKE}  # silent again, and the first strike was answered
    assert fleet.ended == []


def test_no_sign_of_life_excuses_age():
    fleet = Fleet(info(1, age=9 * HOUR), heard={"i-1": NOW - 10})
    assert fleet.look() == {"i-1": Action.STRIKE}
    fleet.heard["i-1"] = NOW + 290
    assert fleet.look(after=301) == {"i-1": Action.END}


def test_an_old_strike_and_one_from_the_future_are_worth_nothing():
    for strike in (NOW - 25 * HOUR, NOW + 9999):
        fleet = Fleet(info(1, **{STRIKE_TAG: f"{strike:.0f}"}))
        assert fleet.look() == {"i-1": Action.STRIKE}
    assert Fleet(info(1, **{STRIKE_TAG: "nonsense"})).look() == {"i-1": Action.STRIKE}


def test_one_that_cannot_be_struck_or_ended_does_not_save_the_others():
    struck = {STRIKE_TAG: f"{NOW - 600:.0f}"}
    fleet = Fleet(info(1), info(2), info(3, **struck), info(4, **struck), broken=["i-1", "i-3"])
    assert fleet.look() == {
        "i-1": Action.FAILED,
        "i-2": Action.STRIKE,
        "i-3": Action.FAILED,
        "i-4": Action.END,
    }
    assert fleet.ended == ["i-4"]


def test_a_bucket_that_does_not_answer_condemns_nobody_for_silence():
    fleet = Fleet(info(1), info(2, age=10 * HOUR))
    fleet.deaf = True
    assert fleet.look() == {"i-2": Action.STRIKE}


def test_draining_one_that_is_gone_does_not_spare_the_others():
    fleet = Fleet(info(1), info(2), info(3), broken=["i-2"])
    failed = drain(fleet, ["i-1", "i-2", "i-3"], timestamp=NOW)
    assert list(failed) == ["i-2"]
    assert fleet.infos["i-1"].tags["wren:drain"] == fleet.infos["i-3"].tags["wren:drain"] == f"{NOW:.0f}"
