"""EC2's view joined with the daemons' own; and the sentence for whoever waits."""

from __future__ import annotations

import json

import pytest

from wren_worker.errors import StoreError
from wren_worker.fleet.roster import Row, roster, why_nothing_runs
from wren_worker.protocol.ports import InstanceInfo, QueueDepth
from wren_worker.testing import MemoryStore

NOW = 1_700_000_000.0
PLACE = "account 123456789012, region us-east-1"
DEPTH = QueueDepth(visible=7, in_flight=2)


class Machines:
    def __init__(self, *infos):
        self.infos = list(infos)

    def instances(self, fleet, *, alive_only=True):
        return [info for info in self.infos if not alive_only or info.state != "terminated"]


def info(number=1, **changes):
    values = {
        "instance_id": f"i-{number}",
        "instance_type": "c5.xlarge",
        "state": "running",
        "launch_timestamp": NOW - 100,
        "tags": {"wren:python": "3.11"},
    }
    return InstanceInfo(**{**values, **changes})


STATE = {
    "instance_id": "i-1",
    "slots": 4,
    "busy": 2,
    "held": ["65000000-aa/00000001", "65000000-aa/00000002", "65000000-bb/00000000"],
    "state": "running",
    "timestamp": NOW - 5,
    "idle_timeout": 300.0,
    "idle_since_timestamp": NOW - 30,
    "last_error": "",
}


def rows(store, *infos, **options):
    return roster(Machines(*infos), store, "default", timestamp=NOW, **options)


def test_an_instance_that_reported():
    store = MemoryStore()
    store.put("state/i-1", json.dumps(STATE).encode())
    [row] = rows(store, info())
    assert (row.slots, row.busy, row.doing, row.python) == (4, 2, "running", "3.11")
    assert row.jobs == ("65000000-aa", "65000000-bb")
    assert (row.age, row.report_age, row.idle_time, row.idle_timeout) == (100, 5, 30, 300)


def test_an_instance_that_has_not_reported_yet_boots():
    [row] = rows(MemoryStore(), info())
    assert (row.doing, row.slots, row.report_age, row.idle_time) == ("booting", None, None, None)


@pytest.mark.parametrize("state", ["pending", "shutting-down", "stopping"])
def test_what_does_not_run_is_what_ec2_says(state):
    store = MemoryStore()
    store.put("state/i-1", json.dumps(STATE).encode())
    [row] = rows(store, info(state=state))
    assert row.doing == state


def test_why_an_instance_ended():
    gone = info(state="terminated", state_reason_code="Client.InstanceInitiatedShutdown")
    [row] = rows(MemoryStore(), gone, alive_only=False)
    assert row.reason == "Client.InstanceInitiatedShutdown"
    assert rows(MemoryStore(), gone) == []


@pytest.mark.parametrize(
    "data", [b"", b"no json", b"[]", b"null", b'{"slots": "four", "held": 7, "timestamp": true, "idle_timeout": null}']
)
def test_a_state_that_is_not_ours_hides_nothing(data):
    store = MemoryStore()
    store.put("state/i-1", data)
    [row] = rows(store, info())
    assert (row.instance_id, row.slots, row.jobs, row.report_age) == ("i-1", None, (), None)


def test_a_bucket_out_of_reach_hides_no_instance():
    class Denied(MemoryStore):
        def get(self, key, *, offset=0, length=None):
            raise StoreError("denied")

    assert [row.instance_id for row in rows(Denied(), info())] == ["i-1"]


def test_many_instances_keep_their_order_and_states():
    store = MemoryStore()
    for number in range(50):
        store.put(f"state/i-{number}", json.dumps({**STATE, "slots": number}).encode())
    found = rows(store, *(info(number) for number in range(50)))
    assert [(row.instance_id, row.slots) for row in found] == [(f"i-{number}", number) for number in range(50)]


# --- why nothing runs -------------------------------------------------------------------------------------------------


def row(**changes):
    values = {
        "instance_id": "i-1",
        "instance_type": "c5.xlarge",
        "state": "running",
        "doing": "running",
        "python": "3.11",
        "age": 34.0,
    }
    return Row(**{**values, **changes})


def why(*found, fleet="default"):
    return why_nothing_runs(found, DEPTH, fleet=fleet, python="3.11", place=PLACE)


def test_no_instance_says_where_it_looked_and_what_to_type():
    text = why(fleet="night")
    assert "no instance in fleet 'night'" in text
    assert PLACE in text
    assert "wren-standalone --fleet night launch" in text
    assert "7 messages wait" in text


def test_who_starts_instances_by_itself_is_not_told_to():
    text = why_nothing_runs([], DEPTH, fleet="night", python="3.11", place=PLACE, starts_own=True)
    assert "no instance in fleet 'night'" in text
    assert "launch" not in text


def test_instances_of_another_python_are_of_no_use():
    text = why(row(python="3.12"), row(python="3.13"))
    assert "3.12, 3.13" in text
    assert "3.11" in text


def test_what_boots_and_what_is_busy():
    busy = row(busy=4, jobs=("65000000-aa",))
    text = why(row(doing="booting"), row(doing="pending", age=12.0), busy, busy, row())
    assert "2 booting (34 s)" in text
    assert "2 busy with job 65000000-aa" in text
    assert "1 ready" in text
    assert "\n" not in text


def test_the_last_error_is_told():
    assert "bucket denied" in why(row(last_error="bucket denied"))
