"""The lives of instances: how they end, who ended them, and what the commands say of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import psutil
import pytest
from world import World, gone

import wren_worker as wren
from wren_worker.sandbox import control


def test_idle_instances_end_by_their_own_hand(world: World):
    ids = world.launch(2, idle_timeout=3.0)
    with wren.executor(backend="sqs", progress=False) as executor:
        assert wren.get_all_results(executor.map(abs, range(-10, 0))) == list(range(10, 0, -1))
    world.until(lambda: all(world.row(one).state == "terminated" for one in ids))
    for one in ids:
        assert world.row(one).reason == "Client.InstanceInitiatedShutdown"
        (caller,) = world.systemctl_callers(one)
        assert caller.endswith("-m wren_worker daemon")
        assert world.processes(one) == []


def test_a_hung_daemon_is_ended_by_the_dead_man(world: World):
    (one,) = world.launch(1, stale_timeout=3.0)
    daemon = world.daemon(one)
    daemon.send_signal(signal.SIGSTOP)
    world.until(lambda: world.row(one).state == "terminated")
    assert world.row(one).reason == "Client.InstanceInitiatedShutdown"
    assert all("deadman" in caller for caller in world.systemctl_callers(one))
    assert gone([daemon])
    assert world.processes(one) == []


def test_a_daemon_that_crashes_again_and_again_is_ended_by_the_listener(world: World):
    (one,) = world.launch(1)
    seen = set()

    def crash() -> bool:
        for process in world.processes(one):
            try:
                if process.cmdline()[-2:] == ["wren_worker", "daemon"] and process.pid not in seen:
                    seen.add(process.pid)
                    process.kill()
            except psutil.Error:
                pass
        return world.row(one).state == "terminated"

    world.until(crash, timeout=60.0)
    assert any("listener.py" in caller for caller in world.systemctl_callers(one))
    assert world.processes(one) == []


def test_maximum_lifetime_ends_an_instance_whatever_it_does(world: World):
    (one,) = world.launch(1, max_lifetime=12.0, idle_timeout=12.0)
    with wren.executor(backend="sqs", progress=False) as executor:
        executor.map(lambda x: __import__("time").sleep(0.5), range(200), chunksize=1)
        world.until(lambda: world.row(one).state == "terminated", timeout=40.0)
    (caller,) = world.systemctl_callers(one)
    assert caller.endswith("-m wren_worker daemon")


def test_the_commands_tell_the_story(world: World):
    done = world.command("launch", "--count", "2", "--type", "c5.xlarge", "--slots", "1", "--wait")
    assert done.returncode == 0, done.stderr
    assert "started 2 of 2" in done.stdout
    listed = json.loads(world.command("--json", "ls").stdout)
    assert [(row["type"], row["state"], row["slots"]) for row in listed] == [("c5.xlarge", "running", 1)] * 2
    with wren.executor(backend="sqs", progress=False) as executor:
        futures = executor.map(lambda x: print("printed by", x), range(6))
        wren.get_all_results(futures)
    job_id = futures[0].job_id

    def lines() -> list[str]:
        return world.command("logs", job_id, "--call", "4").stdout.splitlines()

    world.until(lambda: len(lines()) == 1)
    assert lines()[0].endswith(f"{job_id}[4] | printed by 4")
    one = listed[0]["instance"]
    daemon_lines = world.command("logs", "--instance", one, "--stream", "daemon").stdout
    assert "started" in daemon_lines
    assert "printed by" not in daemon_lines
    assert f"fleet '{world.fleet}'" in world.command("status").stdout
    assert world.command("terminate", one, "--yes").returncode == 0
    world.until(lambda: world.row(one).state == "terminated")
    assert world.row(one).reason == "Client.UserInitiatedShutdown"
    assert world.processes(one) == []
    assert world.command("terminate", "--all", "--yes").returncode == 0
    world.until(lambda: not world.processes())
    torn = world.command("teardown", "--yes")
    assert torn.returncode == 0, torn.stderr
    assert "no instances" in world.command("ls").stdout


def new_enough(aws: str) -> bool:
    """Return whether this AWS CLI honours AWS_ENDPOINT_URL: 1.29 and 2.13 were the first."""
    text = subprocess.run([aws, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = map(int, text.split()[0].removeprefix("aws-cli/").split(".")[:2])
    return (major, minor) >= (2, 13) or (major == 1 and minor >= 29)


def test_the_plain_aws_command_reads_the_lines(world: World, require_tool):
    aws = require_tool("aws")
    if not new_enough(aws):
        pytest.fail("aws is too old") if os.environ.get("CI") == "true" else pytest.skip("aws is too old")
    world.launch(1)
    with wren.executor(backend="sqs", progress=False) as executor:
        executor.call_async(lambda x: print(f"for the plain command {x}"), world.fleet).result()

    def found() -> bool:
        done = subprocess.run(
            [aws, "logs", "filter-log-events", "--log-group-name", "pywren-standalone", "--output", "json"],
            env={"PATH": os.environ["PATH"], "HOME": str(world.folder), **world.info.exports},
            capture_output=True,
            text=True,
            check=True,
        )
        messages = [json.loads(event["message"]) for event in json.loads(done.stdout)["events"]]
        return any(line.get("message") == f"for the plain command {world.fleet}" for line in messages)

    world.until(found, timeout=20.0)


def test_capacity_that_is_not_there_is_told_and_what_is_there_starts(world: World):
    control.set_capacity(world.info, {"c5.4xlarge": 1})
    try:
        done = world.command("launch", "--count", "3", "--type", "c5.4xlarge", "--slots", "1")
        assert done.returncode == 3
        assert "started 1 of 3" in done.stdout
        assert "InsufficientInstanceCapacity" in done.stderr
        nothing = world.command("launch", "--count", "1", "--type", "c5.4xlarge")
        assert nothing.returncode == 1
        assert nothing.stderr.startswith("error: No instance was started")
        assert "Traceback" not in nothing.stderr
    finally:
        control.set_capacity(world.info, {"c5.4xlarge": None})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["launch", "--type", "c9.huge"], "c9.huge"),
        (["launch", "--idle-timeout", "soon"], "'soon' is no time"),
        (["launch", "--count", "0"], "out of range"),
        (["terminate", "i-0123"], "Not in fleet"),
        (["--fleet", "No Good", "ls"], "cannot be a fleet name"),
        (["--fleet", "unmade", "launch"], "wren-standalone setup"),
    ],
)
def test_bad_input_gets_a_sentence(world: World, arguments, text):
    done = world.command(*arguments)
    assert done.returncode != 0
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_sandbox_down_leaves_no_process(world: World, tmp_path):
    with control.private(tmp_path / "other") as sandbox:
        other = World(sandbox.info, "other", tmp_path)
        (one,) = other.launch(1)
        with_everything = other.processes(one)
        assert len(with_everything) >= 4
        marked = f"IN_WREN_SANDBOX={sandbox.info.directory}"
    assert gone(with_everything)
    from wren_worker.sandbox import processes

    assert processes.marked(marked) == []
