"""Ctrl-C at every stage: the first leaves everything in order and says how to come back, the second leaves at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

HERE = os.path.dirname(__file__)
HEAD = f"""
import sys, threading, time
sys.path[:0] = [{HERE!r}, {os.path.dirname(os.path.dirname(HERE))!r}]
from client_world import World, until
from wren_worker.client.waiting import as_completed, get_all_results, wait
world = World()

def ready():
    print("ready", flush=True)
"""


class Program:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()

    def press(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def ends(self, timeout: float = 20.0) -> str:
        """Return what it said, once it has ended."""
        _, said = self.process.communicate(timeout=timeout)
        return said

    def asleep(self) -> None:
        """Wait until it has taken the last Ctrl-C in."""
        time.sleep(0.3)
        assert self.process.poll() is None


@contextmanager
def running(text: str) -> Iterator[Program]:
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield Program(process)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "wanted",
    ["get_all_results(futures)", "wait(futures)", "list(as_completed(futures))", "futures[1].result()"],
)
def test_while_waiting_futures_remain_and_the_way_back_is_said(wanted):
    text = f"""
ex = world.executor()
futures = ex.map(abs, range(3), chunksize=1)
until(lambda: all(future.running() for future in futures))
threading.Timer(0.2, ready).start()
try:
    {wanted}
except KeyboardInterrupt:
    world.run()
    assert get_all_results(futures) == [0, 1, 2]
    world.close()
    print(futures[0].job_id)
"""
    with running(text) as program:
        program.press()
        out, said = program.process.communicate(timeout=20)
    job_id = out.strip()
    assert program.process.returncode == 0, said
    assert said.count(f"the calls of job {job_id} go on: wren.attach('{job_id}')") == 1
    assert f"`wren-standalone cancel {job_id}`" in said


def test_while_arguments_are_pickled_the_job_stays_unsealed_and_says_what_is_on_its_way():
    text = """
import atexit
atexit.register(lambda: print(sorted(key.split("/")[2] for key in world.store.objects), flush=True))

def items():
    for n in range(100):
        yield n
    until(lambda: world.tasks.batches and not world.tasks.messages.empty())
    time.sleep(0.3)
    ready()
    time.sleep(60)
    yield 1

world.executor().map(abs, items(), chunksize=10)
"""
    with running(text) as program:
        program.press()
        out, said = program.process.communicate(timeout=20)
    assert "KeyboardInterrupt" in said
    assert re.search(r"was given up while it was sent: \d+ of its calls are on their way and run", said)
    assert "partial=True" in said
    assert "manifest" in out
    assert "sealed" not in out


@pytest.mark.parametrize("place", ["in a with block", "at the program's end"])
def test_a_second_one_leaves_at_once_though_the_network_hangs(place):
    body = """
    futures = ex.map(abs, range(100), chunksize=1)
    until(lambda: world.tasks.batches)
    threading.Timer(0.2, ready).start()
    get_all_results(futures)
"""
    text = "world.tasks.gate.clear()\n"  # sending blocks until somebody gives up
    text += (
        f"with world.executor() as ex:{body}" if place == "in a with block" else f"ex = world.executor()\nif ex:{body}"
    )
    with running(text) as program:
        program.press()
        program.asleep()
        began = time.monotonic()
        program.press()
        said = program.ends()
    assert time.monotonic() - began < 5
    assert "go on: wren.attach(" in said
    assert "left before everything was sent" in said
    assert ("Press Ctrl-C again" in said) == (place == "in a with block")


def test_one_lets_what_was_submitted_leave():
    text = """
import atexit
atexit.register(lambda: print(world.tasks.messages.qsize(), flush=True))
world.tasks.gate.clear()
with world.executor() as ex:
    futures = ex.map(abs, range(100), chunksize=1)
    until(lambda: world.tasks.batches)
    threading.Timer(1.0, world.tasks.gate.set).start()
    threading.Timer(0.2, ready).start()
    get_all_results(futures)
"""
    with running(text) as program:
        program.press()
        out, said = program.process.communicate(timeout=20)
    assert "left before" not in said
    assert out.split() == ["100"]
