"""Cancelling real calls on real daemons."""

from __future__ import annotations

import json
import subprocess
import time

import psutil
import pytest
from world import World

import wren_worker as wren


def sleeper(folder: str):
    """Return a call that writes its process id and sleeps for as long as it is told."""

    def run(item):
        import os
        import time
        from pathlib import Path

        name, seconds = item
        Path(folder, name).write_text(str(os.getpid()))
        time.sleep(seconds)
        return name

    return run


def test_running_and_queued_calls_are_cancelled_within_seconds(world: World):
    world.launch(1)
    with wren.executor(backend="sqs", progress=False) as ex:
        items = [("running", 120.0), ("queued", 120.0), ("neighbour", 0.0)]
        futures = ex.map(sleeper(str(world.folder)), items, chunksize=1)
        world.until(lambda: (world.folder / "running").exists() and (world.folder / "running").read_text() != "")
        process = psutil.Process(int((world.folder / "running").read_text()))
        began = time.monotonic()
        assert futures[0].cancel()
        assert futures[1].cancel()
        assert time.monotonic() - began < 5
        assert futures[2].result(20) == "neighbour"  # the slot is free for it
        assert world.until(lambda: not process.is_running()) < 10
        for future in futures[:2]:
            with pytest.raises(wren.CallCancelled, match="cancelled"):
                future.result(0)
        assert not (world.folder / "queued").exists()
        other = wren.attach(futures[0].job_id, backend="sqs", progress=False)
        assert [future.exception(20) is not None for future in other] == [True, True, False]
        world.until(lambda: (depth := world.operator.depth()).visible + depth.in_flight == 0)


def test_the_command_cancels_a_job_with_nobody_there(world: World):
    script = """
        import time, wren_worker as wren
        futures = wren.executor(backend="sqs").map(abs, range(300))
        futures[-1].__reduce__()  # has all of it cut
        print(futures[0].job_id, flush=True)
        time.sleep(300)
    """
    user = subprocess.Popen(
        world.script(script), env=world.environment(), cwd=world.folder, stdout=subprocess.PIPE, text=True
    )
    assert user.stdout is not None
    job_id = user.stdout.readline().strip()
    world.until(lambda: world.operator.store.exists(f"jobs/{job_id}/sealed"))
    user.kill()  # no client, no instance
    user.wait()
    user.stdout.close()
    done = world.command("--json", "cancel", job_id)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"job_id": job_id, "n_calls": 300, "n_cancelled": 300}
    again = world.command("cancel", job_id)
    assert "0 of 300 calls" in again.stdout
    assert "had an outcome already" in again.stdout
    futures = wren.attach(job_id, backend="sqs", progress=False)
    assert all(isinstance(future.exception(30), wren.CallCancelled) for future in futures)
    world.launch(1)  # the messages are found done, and go
    world.until(lambda: (depth := world.operator.depth()).visible + depth.in_flight == 0)
    assert all(future.cancelled() for future in wren.wait(wren.attach(job_id, backend="sqs", progress=False))[0])
    wrong = world.command("cancel", "5f000000-abc")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: There is no job")
