"""What was lost comes back: real queues that are purged and deleted under real jobs."""

from __future__ import annotations

import json
import subprocess

import boto3
import pytest
from world import World

import wren_worker as wren
from wren_worker.protocol.model import manifest_key


def task_queue(world: World) -> tuple[object, str]:
    client = boto3.client(
        "sqs", endpoint_url=world.exports["AWS_ENDPOINT_URL"], region_name=world.operator.names.region
    )
    return client, client.get_queue_url(QueueName=world.operator.task_queue.name)["QueueUrl"]


def counter(folder: str):
    """Return a call that leaves a mark each time it runs."""

    def run(item):
        import os
        from pathlib import Path

        Path(folder, f"{item}.{os.urandom(6).hex()}").touch()
        return item * item

    return run


def test_a_queue_that_is_purged_in_the_middle_of_a_job(world: World, monkeypatch):
    monkeypatch.setenv("WREN_LOST_TIME", "2")
    with wren.executor(backend="sqs", progress=False) as ex:
        futures = ex.map(counter(str(world.folder)), range(60), chunksize=3)
        world.until(lambda: world.operator.depth().visible == 20)
        client, url = task_queue(world)
        client.purge_queue(QueueUrl=url)
        assert world.operator.depth().visible == 0
        world.launch(1, slots="2")
        assert wren.get_all_results(futures, timeout=60) == [item * item for item in range(60)]
    for item in range(60):
        assert list(world.folder.glob(f"{item}.*"))
    world.until(lambda: (depth := world.operator.depth()).visible + depth.in_flight == 0)


def test_a_queue_that_is_deleted_and_made_again(world: World, monkeypatch, capfd):
    monkeypatch.setenv("WREN_LOST_TIME", "2")
    with wren.executor(backend="sqs", progress=True) as ex:
        futures = ex.map(abs, range(-10, 0), chunksize=2)
        world.until(lambda: world.operator.depth().visible == 5)
        client, url = task_queue(world)
        client.delete_queue(QueueUrl=url)
        name = world.operator.task_queue.name
        said: list[str] = []
        world.until(lambda: said.append(capfd.readouterr().err) or f"{name} does not exist" in "".join(said))
        done = world.command("setup")
        assert done.returncode == 0, done.stderr
        world.launch(1)
        assert wren.get_all_results(futures, timeout=60) == list(range(10, 0, -1))


@pytest.mark.parametrize("n_readers", [2])
def test_readers_of_a_job_whose_client_was_killed_send_again_what_was_purged(world: World, n_readers):
    script = """
        import sys, time, wren_worker as wren
        futures = wren.executor(backend="sqs").map(abs, range(40), chunksize=2)
        print(futures[0].job_id, flush=True)
        time.sleep(300)
    """
    user = subprocess.Popen(
        world.script(script), env=world.environment(), cwd=world.folder, stdout=subprocess.PIPE, text=True
    )
    assert user.stdout is not None
    job_id = user.stdout.readline().strip()
    world.until(lambda: world.operator.depth().visible == 20 and world.operator.store.exists(manifest_key(job_id)))
    user.kill()
    user.wait()
    user.stdout.close()
    client, url = task_queue(world)
    client.purge_queue(QueueUrl=url)
    reader = """
        import json, sys, wren_worker as wren
        print(json.dumps(wren.get_all_results(wren.attach(sys.argv[1], backend="sqs"), timeout=80)))
    """
    command = world.script(reader, job_id, name="reader.py")
    readers = [
        subprocess.Popen(
            command, env=world.environment(WREN_LOST_TIME="2"), cwd=world.folder, stdout=subprocess.PIPE, text=True
        )
        for _ in range(n_readers)
    ]
    world.launch(1)
    for one in readers:
        found, _ = one.communicate(timeout=90)
        assert json.loads(found.splitlines()[-1]) == list(range(40))
    world.until(lambda: (depth := world.operator.depth()).visible + depth.in_flight == 0)
