"""Instances that are asked to leave, by a spot notice or by a drain: what runs ends, the rest is given back."""

from __future__ import annotations

import time

from world import World

import wren_worker as wren
from wren_worker.sandbox import control


def busy(world: World, one: str):
    """Start an instance's six calls of 3 s, two at once, and wait until the first two run."""
    executor = wren.executor(backend="sqs", progress=False)

    def work(number):
        began = time.time()
        time.sleep(3.0)
        return number, began

    futures = executor.map(work, range(6), chunksize=1)
    world.until(lambda: world.row(one).doing.startswith("running"))
    log = world.machine_folder(one) / "log" / "daemon.log"
    world.until(lambda: log.read_text().count('"chunk_received"') >= 2)
    return executor, futures


def told_of(world: World, one: str):
    folder = world.machine_folder(one)
    return lambda: "leave_asked" in (folder / "log" / "daemon.log").read_text()


def check(world: World, one: str, executor, futures, asked_timestamp: float):
    """The two running calls were finished there; the others ran elsewhere, once, and after they were given back."""
    with executor:
        results = wren.get_all_results(futures)
    assert [number for number, _ in results] == list(range(6))
    where = [future.run_status["instance_id"] for future in futures]
    there = [began for (_, began), instance_id in zip(results, where, strict=True) if instance_id == one]
    elsewhere = [instance_id for instance_id in where if instance_id != one]
    assert len(there) >= 2
    assert elsewhere
    # its daemon looks every five seconds, and starts nothing once it knows
    assert max(there) < asked_timestamp + 5.0 + 3.0
    (caller,) = world.systemctl_callers(one)
    assert caller.endswith("-m wren_worker daemon")
    assert world.row(one).reason == "Client.InstanceInitiatedShutdown"


def test_a_spot_notice_is_obeyed_before_its_deadline(world: World):
    (one,) = world.launch(1, slots="2", spot=True, lease_time=60.0)
    executor, futures = busy(world, one)
    asked = time.time()
    control.interrupt(world.info, one, notice_time=30.0)
    world.until(told_of(world, one))
    world.launch(1, slots="2", lease_time=60.0, ready=False)
    world.until(lambda: world.row(one).state == "terminated", timeout=35.0)
    assert time.time() < asked + 30.0
    check(world, one, executor, futures, asked)


def test_drain_lets_calls_end_and_gives_the_rest_back(world: World):
    (one,) = world.launch(1, slots="2", lease_time=60.0)
    executor, futures = busy(world, one)
    asked = time.time()
    done = world.command("terminate", "--drain", "--yes", one)
    assert done.returncode == 0, done.stderr
    world.until(told_of(world, one))
    world.launch(1, slots="2", lease_time=60.0, ready=False)
    world.until(lambda: world.row(one).state == "terminated")
    check(world, one, executor, futures, asked)
