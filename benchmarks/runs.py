"""Runs workloads: starts a system in its world, asks its runner, and takes the rounds by turns."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks import idle
from benchmarks.catalogue import SYSTEMS, Workload
from benchmarks.install import FOLDER, python_of
from benchmarks.world import World, world

__all__ = ["Measurement", "measure"]

_RUNNER_TIMEOUT = 900.0
#: Seconds that what a system left behind has to end by itself.
_STOP_TIMEOUT = 5.0
#: Calls a chunk of ours, until a round has told.
_GROUP = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one run of one workload on one system gave."""

    workload: str
    system: str
    figures: dict[str, float]


def measure(
    chosen: Sequence[Workload],
    systems: Sequence[str],
    *,
    n_rounds: int,
    say: Callable[[str], None],
    complain: Callable[[str], None],
) -> Iterator[Measurement]:
    """Run everything ``n_rounds`` times; within a round the systems take turns, so that noise hits all alike.

    Args:
        chosen: Rows.
        systems: Columns.
        n_rounds: How often; a workload that says so runs less often.
        say: Told what runs now.
        complain: Told what failed; the rest goes on.
    """
    group_size = _GROUP
    for number in range(n_rounds):
        for group in dict.fromkeys(one.group for one in chosen):
            members = [one for one in chosen if one.group == group and number < one.n_rounds]
            for system in systems:
                mine = [one for one in members if system in one.systems]
                if not mine:
                    continue
                say(f"round {number + 1}: {system}: {', '.join(one.name for one in mine)}")
                for measurement in _run(system, mine, group_size, complain):
                    per_chunk = measurement.figures.get("calls_per_chunk", 0.0)
                    if system == "wren" and measurement.workload == "noop_20000" and per_chunk:
                        group_size = max(1, round(per_chunk))
                    yield measurement


def _run(
    system: str, mine: Sequence[Workload], group_size: int, complain: Callable[[str], None]
) -> Iterator[Measurement]:
    first = mine[0]
    needs = str(first.params.get("needs", SYSTEMS[system].needs))
    with world(needs, n_instances=first.n_instances) as around:
        if first.kind == "idle" and around.sandbox is not None:
            figures = idle.watch(around.sandbox, seconds=float(first.params["seconds"]))
            yield Measurement(workload=first.name, system=system, figures=figures)
            return
        yield from _ask(system, mine, around, group_size, complain)


def _request(system: str, mine: Sequence[Workload], around: World, group_size: int) -> dict[str, Any]:
    options = {**SYSTEMS[system].options, **mine[0].params.get("options", {})}
    if SYSTEMS[system].grouped:
        options["group"] = group_size
    if around.sandbox is not None:
        options["sandbox"] = str(around.sandbox.directory)
    request: dict[str, Any] = {"n_workers": mine[0].n_instances, "options": options}
    if mine[0].kind == "first_result":
        return request | {"first_result": mine[0].name, "started_at": time.monotonic()}
    return request | {"workloads": [one.params_for(system) for one in mine]}


def _ask(
    system: str, mine: Sequence[Workload], around: World, group_size: int, complain: Callable[[str], None]
) -> Iterator[Measurement]:
    mark = secrets.token_hex(8)
    spec = SYSTEMS[system]
    errors = FOLDER / ".venvs" / f"{system}.log"
    with errors.open("w", encoding="utf-8") as log:
        request = json.dumps(_request(system, mine, around, group_size))
        runner = subprocess.Popen(
            [str(python_of(spec.venv)), str(FOLDER / "peers" / f"run_{spec.runner}.py")],
            env={**around.environment, "BENCH_RUN": mark},
            cwd=around.environment["HOME"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            told, _ = runner.communicate(request, timeout=_RUNNER_TIMEOUT)
        except subprocess.TimeoutExpired:
            _end(runner, mark)
            told, _ = runner.communicate()  # what it had measured before it hung
            complain(f"{system} did not end within {_RUNNER_TIMEOUT:.0f} s and was ended")
        finally:
            _end(runner, mark)
    told_of = set()
    for line in told.splitlines():
        answer = json.loads(line)
        name = answer.pop("workload")
        told_of.add(name)
        if "error" in answer:
            complain(f"{system}: {name} failed: {answer['error']} (see benchmarks/.venvs/{errors.name})")
        elif not answer.get("absent"):
            yield Measurement(workload=name, system=system, figures=answer)
    for one in mine:
        if one.name not in told_of:
            complain(f"{system}: {one.name} gave nothing (see benchmarks/.venvs/{errors.name})")


def _end(runner: subprocess.Popen[str], mark: str) -> None:
    """End the runner and whatever it started: some systems leave processes behind."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _left(runner, mark):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + _STOP_TIMEOUT
        while _left(runner, mark) and time.monotonic() < deadline:
            time.sleep(0.05)
    runner.wait()


def _left(runner: subprocess.Popen[str], mark: str) -> list[int]:
    left = [runner.pid] if runner.poll() is None else []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get("BENCH_RUN") == mark and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if marked and process.pid != os.getpid():
            left.append(process.pid)
    return left
