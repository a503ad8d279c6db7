"""A client that ends at the wrong moment, and whoever comes after it."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest
from world import World

import wren_worker as wren
from wren_worker.protocol.model import args_key, manifest_key

READ = """
    import json, sys, wren_worker as wren
    print(json.dumps(wren.get_all_results(wren.attach(sys.argv[1], backend="sqs", partial=True), timeout=60)))
"""


def start(world: World, text: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        world.script(text),
        env=world.environment(),
        cwd=world.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_kill_9_of_a_client_that_is_sending(world: World):
    """What it stored is served, sent or not; what it did not is said to be missing."""
    user = start(
        world,
        """
        import time, wren_worker as wren

        def items():
            for number in range(300):
                yield bytes([number % 250]) * 60_000  # too large to travel in messages
            time.sleep(300)
            yield b""

        wren.executor(backend="sqs").map(len, items(), chunksize=1)
        """,
    )

    def job_id() -> str:
        found = [info.key.split("/")[1] for info in world.operator.store.list("jobs/")]
        return found[0] if found else ""

    world.until(lambda: bool(job_id()) and world.operator.store.exists(args_key(job_id(), 2)))
    user.kill()
    user.communicate()
    with pytest.raises(wren.JobIncomplete) as caught:
        wren.attach(job_id(), backend="sqs", progress=False)
    n_calls = caught.value.n_calls
    assert 10 < n_calls < 300
    world.launch(1)
    done = subprocess.run(
        world.script(READ, job_id(), name="read.py"),
        env=world.environment(WREN_LOST_TIME="2"),
        cwd=world.folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [60_000] * n_calls


def test_ctrl_c_while_waiting_says_how_to_come_back(world: World):
    user = start(
        world,
        """
        import wren_worker as wren
        with wren.executor(backend="sqs") as ex:
            futures = ex.map(abs, range(-20, 0), chunksize=2)
            print(futures[0].job_id, flush=True)
            wren.get_all_results(futures)
        """,
    )
    assert user.stdout is not None
    job_id = user.stdout.readline().strip()
    world.until(lambda: world.operator.depth().visible == 10 and world.operator.store.exists(manifest_key(job_id)))
    user.send_signal(signal.SIGINT)
    _, said = user.communicate(timeout=20)
    assert user.returncode != 0
    assert f"the calls of job {job_id} go on: wren.attach('{job_id}') reads them from anywhere" in said
    world.launch(1)
    assert world.run(READ, job_id, name="read.py") == list(range(20, 0, -1))
    assert not [name for name in world.operator.provisioner.queues("wren-") if f"-{world.fleet}-reply-" in name]
