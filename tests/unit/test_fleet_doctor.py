"""Why nothing runs: each cause has its line and its mend."""

from __future__ import annotations

import json

import pytest

from wren_worker.config import Names
from wren_worker.errors import FleetError, QueueError
from wren_worker.fleet.doctor import Doctor, Verdict
from wren_worker.protocol.ports import FoundImage, InstanceInfo, QueueDepth
from wren_worker.testing import MemoryStore

NAMES = Names(fleet="night", account="123456789012", region="us-east-1")
NOW = 1_700_000_000.0


class World:
    """A fleet in which everything is well, until a test spoils it."""

    def __init__(self):
        self.store = MemoryStore()
        self.infos = []
        self.missing = set()
        self.image, self.stock = "ami-own", None
        self.roles = {"spot", "ec2fleet"}
        self.quotas = {False: 64.0, True: 64.0}
        self.n_roles = 1
        self.depths = {}
        self.stumbles = {}

    def examine(self):
        doctor = Doctor(
            names=NAMES,
            python="3.11",
            machines=self,
            store=self.store,
            provisioner=self,
            probes=self,
            depth=self.depth,
            timestamp=NOW,
        )
        return list(doctor.examine())

    def found(self, verdict, check=None):
        return [one for one in self.examine() if one.verdict is verdict and check in (None, one.check)]

    def _stumble(self, name):
        if name in self.stumbles:
            raise self.stumbles[name]

    def exists(self, resource):
        self._stumble("exists")
        return resource.kind.value not in self.missing

    def identity(self):
        self._stumble("identity")
        return "arn:aws:iam::123456789012:user/ada"

    def network(self):
        self._stumble("network")
        return "default VPC vpc-1"

    def profile_roles(self, name):
        return self.n_roles

    def service_role(self, service):
        return service in self.roles

    def vcpu_quota(self, *, spot):
        self._stumble("quota")
        return self.quotas[spot]

    def depth(self, name):
        self._stumble("depth")
        return self.depths.get(name, QueueDepth(visible=0, in_flight=0))

    def find_image(self, python):
        return self.image and FoundImage(image_id=self.image)

    def find_stock_image(self, owner, name_pattern):
        return self.stock

    def instances(self, fleet, *, alive_only=True):
        return [info for info in self.infos if not alive_only or info.state != "terminated"]

    def console_output(self, instance_id):
        return "Kernel panic - not syncing\n"

    def add(self, instance_id, *, age=100.0, state="running", python="3.11", heard=None, code="", **facts):
        self.infos.append(
            InstanceInfo(
                instance_id=instance_id,
                instance_type="c5.large",
                state=state,
                launch_timestamp=NOW - age,
                state_reason_code=code,
                tags={"wren:python": python, "wren:max-lifetime": "28800", "wren:boot-timeout": "900"},
            )
        )
        if heard is not None:
            written = {"state": "running", "timestamp": NOW - heard, "slots": 2, "busy": 0, "held": [], **facts}
            self.store.put(f"state/{instance_id}", json.dumps(written).encode())


@pytest.fixture
def world(monkeypatch):
    from wren_worker.fleet import doctor

    world = World()
    # a store in memory stamps objects with the real time; their content says what this test means
    monkeypatch.setattr(
        doctor,
        "reported",
        lambda store: {
            key.removeprefix("state/"): json.loads(store.get(key))["timestamp"]
            for key in [one.key for one in store.list("state/")]
        },
    )
    return world


def waiting(world, n=5):
    world.depths[NAMES.task_queue("3.11")] = QueueDepth(visible=n, in_flight=0)


def test_all_is_well(world):
    world.add("i-1", heard=10)
    assert {one.verdict for one in world.examine()} == {Verdict.OK}
    assert len({one.check for one in world.examine()}) == 10


def problem(world, check):
    [finding] = world.found(Verdict.PROBLEM)
    assert finding.check == check
    assert "\n" not in finding.text + finding.mend
    return finding


def test_nothing_runs_because_nothing_was_launched(world):
    waiting(world)
    assert "wren-standalone --fleet night launch" in problem(world, "instances").mend


def test_no_instances_and_no_work_is_no_problem(world):
    assert world.found(Verdict.PROBLEM) == []
    assert world.found(Verdict.NOTE, "instances")


def test_instances_of_another_python(world):
    waiting(world)
    world.add("i-1", python="3.12", heard=10)
    assert "3.12" in problem(world, "instances").text


def test_setup_was_not_run_or_was_undone(world):
    world.missing = {"SQS queue"}
    finding = problem(world, "setup")
    assert "wren-night-tasks-v1-py311" in finding.text
    assert finding.mend == "wren-standalone --fleet night setup"


def test_a_profile_without_its_role(world):
    world.n_roles = 0
    assert "setup" in problem(world, "profile").mend


def test_no_image(world):
    world.image = None
    assert "image build" in problem(world, "image").text
    world.stock = "ami-debian"
    assert "Debian 12" in world.found(Verdict.NOTE, "image")[0].text


def test_no_network(world):
    world.stumbles["network"] = FleetError("There is no default VPC in us-east-1.")
    assert "no default VPC" in problem(world, "network").text


def test_a_quota_that_starts_nothing(world):
    world.quotas = {False: 1.0, True: 0.0}
    assert "L-1216C47A" in problem(world, "quota").mend
    assert "L-34B43A08" in world.found(Verdict.NOTE, "quota")[0].mend
    world.quotas = {False: 8.0, True: 64.0}
    assert world.found(Verdict.PROBLEM) == []
    assert "2 c5.xlarge" in world.found(Verdict.NOTE, "quota")[0].text


def test_service_linked_roles_that_are_missing(world):
    world.roles = set()
    notes = world.found(Verdict.NOTE, "service roles")
    assert [note.mend.rpartition(" ")[2] for note in notes] == ["ec2fleet.amazonaws.com", "spot.amazonaws.com"]


def test_dead_letters_and_messages_for_another_python(world):
    world.depths[NAMES.dead_letter_queue("3.11")] = QueueDepth(visible=3, in_flight=0)
    world.depths[NAMES.task_queue("3.13")] = QueueDepth(visible=9, in_flight=0)
    assert "3 messages were never accepted" in problem(world, "queue").text
    assert "9 messages wait for Python 3.13" in world.found(Verdict.NOTE, "queue")[0].text


def test_a_boot_that_takes_too_long_shows_its_console(world):
    world.add("i-1", age=400)
    finding = problem(world, "instances")
    assert "booting for 400 s" in finding.text
    assert "Kernel panic" in finding.detail


def test_a_silent_instance(world):
    world.add("i-1", age=5000, heard=2000)
    finding = problem(world, "instances")
    assert "silent" in finding.text
    assert "terminate i-1" in finding.mend


def test_what_a_daemon_complains_of(world):
    world.add("i-1", heard=10, last_error="s3: AccessDenied")
    assert "AccessDenied" in problem(world, "instances").text


def test_boots_that_failed(world):
    world.add("i-1", state="terminated", code="Client.InstanceInitiatedShutdown")
    world.add("i-2", state="terminated", code="Client.UserInitiatedShutdown")
    world.add("i-3", state="terminated", code="Client.InstanceInitiatedShutdown", heard=50)
    finding = problem(world, "boots")
    assert finding.text.startswith("1 instances ended")
    assert "Kernel panic" in finding.detail


def test_what_may_not_be_looked_at_stops_no_other_look(world):
    world.stumbles = {
        "exists": FleetError("AWS denied s3:ListBucket.", denied=True),
        "quota": FleetError("not in this region"),
        "depth": QueueError("no such queue", gone=True),
    }
    findings = {one.check: one.verdict for one in world.examine()}
    assert len(findings) == 10
    assert (findings["setup"], findings["quota"]) == (Verdict.NOTE, Verdict.NOTE)
    assert (findings["queue"], findings["boots"]) == (Verdict.PROBLEM, Verdict.OK)
