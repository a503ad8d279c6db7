"""kill -9 at every step of a chunk's life: receive, run, PUT, notify, delete; and of a client's: store, send, seal."""

from __future__ import annotations

import subprocess

import pytest
from world import World

import wren_worker as wren
from wren_worker.errors import JobIncomplete, StoreError

STEPS = {
    "receive": ("sqs.ReceiveMessage", "*-tasks-*"),
    "put": ("s3.PutObject", "results/*"),
    "notify": ("sqs.SendMessage*", "*-reply-*"),
    "delete": ("sqs.DeleteMessage*", "*-tasks-*"),
}


def token(x: int) -> tuple[int, str]:
    """Return something that no second run of the call returns."""
    import os
    import time

    time.sleep(0.05)
    return x, os.urandom(8).hex()


def submit(executor: wren.Executor, n_calls: int = 6) -> list[wren.Future]:
    return executor.map(token, range(n_calls), chunksize=3)


def settled(world: World, futures: list[wren.Future]) -> None:
    """Every call has its outcome, a second reader gets the same, and in the end no message is left."""
    found = wren.get_all_results(futures, timeout=60)
    assert [x for x, _ in found] == list(range(len(futures)))
    again = wren.attach(futures[0].job_id, backend="sqs", progress=False)
    assert wren.get_all_results(again, timeout=30) == found
    world.until(lambda: (depth := world.operator.depth()).visible + depth.in_flight == 0, timeout=20)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_daemon_is_killed(world: World, step, after):
    (one,) = world.launch(1, lease_time=2.0)
    operation, key = STEPS[step]
    # a poll that is answered with work, not the one that waits already
    barrier = world.proxy.barrier(operation, key, caller="i-*", nth=2 if step == "receive" else 1, after=after)
    with wren.executor(backend="sqs", progress=False) as executor, barrier:
        futures = submit(executor)
        barrier.wait()
        assert world.place.kill_daemon(one)
        barrier.go()
        settled(world, futures)


@pytest.mark.parametrize("step", ["put", "delete"])
def test_an_instance_dies_without_a_word(world: World, step):
    one, _ = world.launch(2, lease_time=2.0)
    operation, key = STEPS[step]
    with (
        wren.executor(backend="sqs", progress=False) as executor,
        world.proxy.barrier(operation, key, caller=one, after=True) as barrier,
    ):
        futures = submit(executor, 30)
        barrier.wait()
        assert world.place.crash(one)
        world.until(lambda: one not in world.place.instances())
        barrier.go()
        settled(world, futures)
    assert {future.run_status["instance_id"] for future in futures} != {one}


@pytest.mark.parametrize("whom", ["daemon", "supervisord", "instance"])
def test_whoever_is_killed_while_a_call_runs_it_comes_back(world: World, whom, tmp_path):
    (one,) = world.launch(1, lease_time=2.0)
    marks = tmp_path / "marks"
    marks.mkdir()

    def call(x: int) -> int:
        import os
        import time

        (marks / f"{x}-{os.getpid()}").touch()
        while x == 1 and len(list(marks.glob("1-*"))) == 1:
            time.sleep(0.05)  # the first attempt at this call never ends by itself
        return x * 7

    with wren.executor(backend="sqs", progress=False) as executor:
        futures = executor.map(call, range(3), chunksize=3)
        world.until(lambda: len(list(marks.glob("1-*"))) == 1)
        if whom == "daemon":
            assert world.place.kill_daemon(one)
        elif whom == "supervisord":
            assert world.place.kill_supervisord(one)
        else:
            assert world.place.crash(one)
            world.launch(1, lease_time=2.0, ready=False)
        settled_values(world, futures, [0, 7, 14])
    # what a machine's death costs is no attempt of the call's
    assert all(len(future.attempts) == 1 for future in futures)


def settled_values(world: World, futures: list[wren.Future], values: list[int]) -> None:
    assert wren.get_all_results(futures, timeout=60) == values
    assert wren.get_all_results(wren.attach(futures[0].job_id, backend="sqs", progress=False), timeout=30) == values
    world.until(lambda: (depth := world.operator.depth()).visible + depth.in_flight == 0, timeout=20)


@pytest.mark.parametrize("whom", ["child", "keeper"])
def test_a_slot_is_killed_while_its_call_runs(world: World, whom, tmp_path):
    (one,) = world.launch(1)
    marks = tmp_path / "marks"
    marks.mkdir()

    def call(x: int) -> int:
        import os
        import time

        (marks / f"{x}-{os.getpid()}").touch()
        while x == 1 and len(list(marks.glob("1-*"))) == 1:
            time.sleep(0.05)
        return x * 7

    with wren.executor(backend="sqs", progress=False) as executor:
        futures = executor.map(call, range(4), chunksize=4)
        world.until(lambda: len(list(marks.glob("1-*"))) == 1)
        assert world.place.kill_child(one) if whom == "child" else world.place.kill_keeper(one)
        settled_values(world, futures, [0, 7, 14, 21])
    assert [len(future.attempts) for future in futures] == [1, 2, 1, 1]  # its own crash, and nobody else's


def test_a_slot_is_killed_after_its_call_was_done(world: World):
    (one,) = world.launch(1)
    with (
        wren.executor(backend="sqs", progress=False) as executor,
        world.proxy.barrier("s3.PutObject", "results/*") as barrier,
    ):
        futures = executor.map(token, range(3), chunksize=3)
        barrier.wait()
        assert world.place.kill_child(one)
        barrier.go()
        settled(world, futures)
    assert all(len(future.attempts) == 1 for future in futures)


CLIENT = """
    import time, wren_worker as wren

    def call(x):
        time.sleep(0.02)
        return x * 3

    futures = wren.executor(backend="sqs", progress=False).map(call, iter(range(40)), chunksize=2)
    wren.get_all_results(futures)
    time.sleep(60)
"""
STAGES = {
    "manifest": ("s3.PutObject", "jobs/*/manifest"),
    "send": ("sqs.SendMessage*", "*-tasks-*"),
    "seal": ("s3.PutObject", "jobs/*/sealed"),
    "collect": ("sqs.DeleteMessage*", "*-reply-*"),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_client_is_killed(world: World, stage, after):
    operation, key = STAGES[stage]
    world.launch(1, lease_time=2.0, ready=False)
    with world.proxy.barrier(operation, key, caller="client", after=after) as barrier:
        user = subprocess.Popen(
            world.script(CLIENT), env=world.environment(), cwd=world.folder, stderr=subprocess.DEVNULL
        )
        try:
            barrier.wait()
            user.kill()
        finally:
            user.kill()
            user.wait()
        world.proxy.record.note("killed", "client")
    manifests = world.proxy.record.of("s3.PutObject", "jobs/*/manifest")
    if not any(entry.status == 200 for entry in manifests):
        # what a message carries is stored beside sending it: nobody was told that it is sent
        assert stage != "seal"
        assert (stage, after) != ("manifest", True)
        for entry in manifests:
            with pytest.raises(StoreError, match="There is no job"):
                wren.attach(entry.key.split("/")[1], backend="sqs", progress=False)
        return
    job_id = manifests[0].key.split("/")[1]
    if any(entry.status == 200 for entry in world.proxy.record.of("s3.PutObject", "jobs/*/sealed")):
        futures = wren.attach(job_id, backend="sqs", progress=False)
        assert len(futures) == 40
    else:
        with pytest.raises(JobIncomplete):
            wren.attach(job_id, backend="sqs", progress=False)
        futures = wren.attach(job_id, backend="sqs", progress=False, partial=True)
        assert stage != "collect"
    assert wren.get_all_results(futures, timeout=60) == [3 * future.call_index for future in futures]
