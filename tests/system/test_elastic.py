"""Instances that a client's calls start, lose, and start again."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from world import World

import wren_worker as wren
from wren_worker.sandbox import control


def spec(**changes) -> wren.Launch:
    values = {"type": ["c5.large"], "max_count": 3, "slots": "1", "idle_timeout": 60.0, "lease_time": 3.0}
    return wren.Launch(**{**values, "deadman_interval": 1.0, **changes})


def places(futures) -> set[str]:
    return {future.run_status["instance_id"] for future in futures}


def nap(x: float) -> float:
    time.sleep(0.2)
    return x


nap.__module__ = "__main__"


def test_a_job_starts_what_it_deserves_they_leave_and_the_next_job_starts_others(world: World, capfd):
    with wren.executor(backend="sqs", launch=spec(idle_timeout=3.0), progress=False) as executor:
        assert world.rows() == []
        first = executor.map(nap, range(90), chunksize=1)
        assert wren.get_all_results(first) == list(range(90))
        assert len(places(first)) == 3
        world.until(lambda: world.rows() == [])
        reasons = {row.reason for row in world.rows(alive_only=False)}
        assert reasons == {"Client.InstanceInitiatedShutdown"}  # by their own hand
        second = executor.map(nap, range(2), chunksize=1)
        assert wren.get_all_results(second) == [0, 1]
        assert not places(first) & places(second)
        assert len(world.rows(alive_only=False)) <= 5  # two calls deserve two instances
    told = capfd.readouterr().err
    # the bound is said before anything is started
    assert told.index("3 × c5.large: at most $0.26 an hour") < told.index("started 3 of 3")
    assert "again: none lives" in told


def test_calls_outlive_all_their_instances(world: World):
    with wren.executor(backend="sqs", launch=spec(max_count=2), progress=False) as executor:
        futures = executor.map(nap, range(60), chunksize=1)
        world.until(lambda: sum(future.done() for future in futures) > 5)
        killed = [row.instance_id for row in world.rows()]
        began = time.monotonic()
        for instance_id in killed:
            control.crash(world.info, instance_id)
        assert wren.get_all_results(futures, timeout=90) == list(range(60))
        assert time.monotonic() - began < 80
    everything = [row.instance_id for row in world.rows(alive_only=False)]
    assert len(everything) == 4  # two launches of two: lost ones are replaced, once
    assert places(futures) & (set(everything) - set(killed))


def test_leaving_drains_what_was_started_and_nothing_else(world: World):
    (other,) = world.launch(1, ready=False)
    with wren.executor(backend="sqs", launch=spec(max_count=2), terminate_on_exit=True, progress=False) as executor:
        # enough that the one which is there already cannot have done it before a second is worth its while
        wren.get_all_results(executor.map(nap, range(140), chunksize=1))
    found = {info.instance_id: info.tags for info in world.operator.machines.instances(world.fleet)}
    ours = set(found) - {other}
    assert len(ours) == 1  # one lived already, and two is the bound
    assert all("wren:drain" in found[one] for one in ours)
    assert "wren:drain" not in found[other]


def test_a_fleet_that_was_never_set_up_fails_the_calls_with_the_mend(world: World):
    ec2 = world.operator.aws.ec2()
    ec2.delete_launch_template(LaunchTemplateName=world.operator.names.launch_template)
    with wren.executor(backend="sqs", launch=spec(), progress=False) as executor:
        future = executor.call_async(nap, 1)
        with pytest.raises(wren.FleetError, match="wren-standalone setup"):
            future.result(timeout=30)


def test_an_image_that_never_comes_up_is_not_bought_again(tmp_path: Path, monkeypatch):
    from wren_worker.config import shared_file

    text = shared_file("supervisord.conf").read_text()
    broken = tmp_path / "supervisord.conf"
    lines = [
        "command=sh -c 'echo no module named wren_worker; exit 1'" if "wren_worker daemon" in line else line
        for line in text.splitlines()
    ]
    broken.write_text("\n".join(lines))
    assert broken.read_text() != text
    with control.private(tmp_path / "sandbox", supervisord_conf=broken) as sandbox:
        world = World(sandbox.info, "broken", tmp_path)
        for name, value in world.exports.items():
            monkeypatch.setenv(name, value)
        with wren.executor(backend="sqs", launch=spec(), progress=False) as executor:
            futures = executor.map(nap, range(10), chunksize=1)
            with pytest.raises(wren.FleetError, match="ended before their daemon reported") as caught:
                futures[0].result(timeout=60)
        assert "Client.InstanceInitiatedShutdown" in str(caught.value)
        assert "attach" in str(caught.value)
        n_started = len(world.rows(alive_only=False))
        assert 3 <= n_started <= 6  # whoever had died by the second launch was replaced once
        # the command line refuses likewise, unless told otherwise; another configuration gets its chance
        same = ["launch", "--type", "c5.large", "--slots", "1", "--idle-timeout", "60", "--lease-time", "3"]
        same += ["--deadman-interval", "1"]
        refused = world.command(*same)
        assert refused.returncode == 1
        assert "launch --anyway" in refused.stderr
        assert len(world.rows(alive_only=False)) == n_started
        assert world.command(*same, "--anyway").returncode == 0
        assert world.command(*same, "--stale-timeout", "30").returncode == 0
        examined = world.command("doctor")
        assert examined.returncode == 1
        assert "instances ended before their daemon reported" in examined.stdout


def test_every_command_ends_what_is_overdue_on_its_second_sight(world: World):
    old, young = world.launch(2)
    machines = world.operator.machines
    machines.set_tags([old], {"wren:max-lifetime": "-1000"})  # as if it had been launched long ago
    seen = world.command("status")
    assert f"overdue: {old}" in seen.stderr
    assert "first strike" in seen.stderr
    assert "waiting for the second" in world.command("reap").stdout
    assert world.row(old).state == "running"
    strike = {info.instance_id: info.tags.get("wren:strike") for info in machines.instances(world.fleet)}
    assert strike[young] is None
    machines.set_tags([old], {"wren:strike": str(int(strike[old]) - 301)})  # and the first look five minutes ago
    assert "ended" in world.command("ls").stderr
    world.until(lambda: world.row(old).state == "terminated")
    assert world.row(young).state == "running"
    assert "nothing overdue" in world.command("reap").stdout


def test_drain_and_doctor_as_typed(world: World):
    examined = world.command("--json", "doctor")
    assert examined.returncode == 0, examined.stdout
    verdicts = {one["check"]: one["verdict"] for one in json.loads(examined.stdout)}
    assert verdicts["setup"] == verdicts["network"] == verdicts["image"] == "ok"
    (one,) = world.launch(1)
    drained = world.command("terminate", one, "--drain", "--yes")
    assert drained.returncode == 0
    [info] = world.operator.machines.instances(world.fleet)
    assert "wren:drain" in info.tags
    world.operator.aws.ec2().delete_launch_template(LaunchTemplateName=world.operator.names.launch_template)
    spoilt = world.command("doctor")
    assert spoilt.returncode == 1
    assert "missing: launch template" in spoilt.stdout
    assert "setup" in spoilt.stdout


def test_doctor_without_credentials_or_region_says_so(world: World, monkeypatch):
    for name in world.exports:
        monkeypatch.delenv(name, raising=False)
    world.exports = {"WREN_FLEET": world.fleet}
    examined = world.command("doctor")
    assert examined.returncode == 1
    assert "No AWS region is set" in examined.stdout
    assert "Traceback" not in examined.stderr
