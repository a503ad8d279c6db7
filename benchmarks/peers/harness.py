"""What the runners share: one request on standard input, one JSON line of measurements per workload.

A runner is a program in its system's own virtual environment. It gives the system's verbs; what is measured, and how,
is the same for all and stands here. Imports nothing but the standard library and psutil (and numpy for arrays).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psutil
import tasks

#: In the environment of a runner and of whatever it starts.
MARK = "BENCH_RUN"
_WARM_UP_CALLS = 8
#: Seconds between calls whose latency is measured, so that what the last one left behind is over.
_PAUSE = 0.02


class System:
    """The verbs of one system. A runner overrides what its system has; None of them may return before all is done."""

    #: Processes or slots that run calls.
    n_workers: int
    #: What the request says about the system.
    options: dict[str, Any]

    def __init__(self, n_workers: int, options: dict[str, Any]) -> None:
        self.n_workers, self.options = n_workers, options

    def start(self) -> None:
        """Start whatever runs calls."""

    def close(self) -> None:
        """End it."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Run the function over all items by the system's natural call, one future a call; return results in order."""
        raise NotImplementedError

    def submits(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Submit one call after the other from a loop, then gather."""
        raise NotImplementedError

    def call(self, function: Callable[[Any], Any], item: Any) -> Any:
        """Run one call and return its result."""
        return self.submits(function, [item])[0]

    def shared(self, array: Any, indexes: Sequence[int]) -> list[Any]:
        """Run ``tasks.element(array, index)`` for all indexes, the array shared by whatever means the system has."""
        raise NotImplementedError

    def snapshot(self) -> dict[str, float]:
        """Return counters that only grow; what they grew by is reported beside a workload's own figures."""
        return {"cpu_s": tree_cpu_time()}

    def probe(self) -> float | None:
        """Return the seconds that one call cannot be faster than, measured now; None where nothing is known."""
        return None

    def settle(self) -> None:
        """Wait until what a workload started and nobody waits for (deletes, log lines) is done."""

    def facts(self) -> dict[str, float]:
        """Return further figures of the workload that ran last."""
        return {}


def tree_cpu_time() -> float:
    """Return the CPU seconds of this process and everything that it started, those that ended included.

    A process that ends goes on counting in the parent that reaped it, so the sum never falls. What looking costs (some
    milliseconds, many processes have to be asked) is left out.
    """
    began = own_cpu_time()
    total = began + resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    total += resource.getrusage(resource.RUSAGE_CHILDREN).ru_stime
    found = {process.pid: process for process in psutil.Process().children(recursive=True)}
    mark = os.environ.get(MARK)
    for process in psutil.process_iter() if mark else ():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found[process.pid] = process
        except psutil.Error:
            pass
    for process in found.values():
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    _looking.append(own_cpu_time() - began)
    return total - sum(_looking[:-1])


_looking: list[float] = []  # seconds that each look took


def own_cpu_time() -> float:
    """Return this process's CPU seconds, without its children."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class _PeakRss:
    """Samples this process's resident memory while a workload runs."""

    def __init__(self) -> None:
        self._process, self._stop = psutil.Process(), threading.Event()
        self.peak_bytes = self.start_bytes = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _PeakRss:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            self._look()

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)


# --- workloads: kind -> what runs. Each returns the timed action, its number of calls and a check of what came back ---

Work = tuple[Callable[[], Any], int, Callable[[Any], bool]]


def _noop_map(system: System, params: dict[str, Any]) -> Work:
    # one map of a very fast system is over before the clock of CPU time has ticked ten times
    n, n_maps = params["n"], params.get("n_maps", 1)
    return (
        lambda: [system.map(tasks.noop, range(n)) for _ in range(n_maps)],
        n * n_maps,
        lambda got: all(one == list(range(n)) for one in got),
    )


def _submits(system: System, params: dict[str, Any]) -> Work:
    n = params["n"]
    return lambda: system.submits(tasks.noop, range(n)), n, lambda got: got == list(range(n))


def _sleeps(system: System, params: dict[str, Any]) -> Work:
    times = params["times"]
    return lambda: system.map(tasks.sleep, times), len(times), lambda got: got == times


def _blobs(system: System, params: dict[str, Any]) -> Work:
    n, n_bytes = params["n"], params["bytes"]
    block = os.urandom(n_bytes - 8)
    items = (number.to_bytes(8, "big") + block for number in range(n))
    return lambda: system.map(tasks.length, items), n, lambda got: got == [(n_bytes, number) for number in range(n)]


def _shared_array(system: System, params: dict[str, Any]) -> Work:
    import numpy as np

    n, n_bytes = params["n"], params["bytes"]
    array = np.random.default_rng(7).random(n_bytes // 8)
    right = [tasks.element(array, index) for index in range(n)]
    return lambda: system.shared(array, range(n)), n, lambda got: got == right


def _regressions(system: System, params: dict[str, Any]) -> Work:
    series = [tuple(one) for one in params["series"]]
    right = [tasks.regression(one) for one in series]
    return (
        lambda: system.map(tasks.regression, series),
        len(series),
        lambda got: all(abs(a[1] - b[1]) < 1e-9 and a[0] == b[0] for a, b in zip(got, right, strict=True)),
    )


_WORK: dict[str, Callable[[System, dict[str, Any]], Work]] = {
    "noop_map": _noop_map,
    "submits": _submits,
    "sleeps": _sleeps,
    "blobs": _blobs,
    "shared_array": _shared_array,
    "regressions": _regressions,
}


def _measure(system: System, kind: str, params: dict[str, Any]) -> dict[str, float]:
    action, n_calls, is_right = _WORK[kind](system, params)
    system.settle()
    before = system.snapshot()
    with _PeakRss() as memory:
        began = time.perf_counter()
        got = action()
        took = time.perf_counter() - began
    system.settle()
    after = system.snapshot()
    if not is_right(got):
        raise AssertionError(f"{kind} returned something else than it should")
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    figures = {"wall_s": took, "n_calls": n_calls, "calls_per_s": n_calls / took}
    figures |= {"client_peak_rss_mb": memory.peak_bytes / 1e6, "client_rss_before_mb": memory.start_bytes / 1e6}
    if kind == "shared_array":
        figures["client_rss_over_array"] = memory.peak_bytes / params["bytes"]
    return figures | {f"grown:{name}": value for name, value in grown.items()} | system.facts()


def _latency(system: System, params: dict[str, Any]) -> dict[str, float]:
    times, floors = [], []
    for number in range(params["n"]):
        began = time.perf_counter()
        if system.call(tasks.noop, number) != number:
            raise AssertionError("a call returned another's result")
        times.append(time.perf_counter() - began)
        time.sleep(_PAUSE)
        floor = system.probe()
        if floor is not None:
            floors.append(floor)
            time.sleep(_PAUSE)
    figures = {"n_calls": float(len(times)), "latency_min_s": min(times)}
    figures |= {"latency_p50_s": quantile(times, 0.5), "latency_p99_s": quantile(times, 0.99)}
    if floors:
        figures["emulator_path_p50_s"] = quantile(floors, 0.5)
        figures["p50_over_emulator_path"] = figures["latency_p50_s"] / figures["emulator_path_p50_s"]
    return figures


def _dgemm(system: System, params: dict[str, Any]) -> dict[str, float]:
    """Take turns with numpy in bare processes: a machine that others use has no two minutes alike."""
    from run_bare import Bare

    jobs = [(params["size"], params["n_products"])] * params["n"]
    bare = Bare(system.n_workers, {})
    speeds: dict[str, list[float]] = {"bare": [], "ours": []}
    walls, ratios = [], []
    for _ in range(params["n_turns"]):
        turn = {}
        for name, runner in (("bare", bare), ("ours", system)):
            began = time.perf_counter()
            got = runner.map(tasks.dgemm, jobs)
            walls += [time.perf_counter() - began] if runner is system else []
            if any(one[1] != params["size"] * 0.5 for one in got):
                raise AssertionError("a product is wrong")
            turn[name] = sum(one[0] for one in got) / len(got)
            speeds[name] += [one[0] for one in got]
        ratios.append(turn["ours"] / turn["bare"])
    return {
        "n_calls": float(len(speeds["ours"])),
        "wall_s": sum(walls),
        "gflops_per_slot": quantile(speeds["ours"], 0.5),
        "gflops_total": sum(speeds["ours"]) / len(speeds["ours"]) * system.n_workers,
        "bare_gflops_per_slot": quantile(speeds["bare"], 0.5),
        "gflops_over_bare": quantile(ratios, 0.5),
    }


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that ``share`` of them are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _run_all(system: System, request: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    system.start()
    if "first_result" in request:
        if system.call(tasks.noop, 7) != 7:
            raise AssertionError("the first call returned something else")
        # the clock is the machine's, so the one who started this process could read it first
        say({"workload": request["first_result"], "wall_s": time.monotonic() - request["started_at"], "n_calls": 1})
    else:
        system.map(tasks.noop, range(_WARM_UP_CALLS))
        with contextlib.suppress(NotImplementedError):
            system.submits(tasks.noop, range(_WARM_UP_CALLS))
    for work in request.get("workloads", []):
        measure = {"latency": _latency, "dgemm": _dgemm}.get(work["kind"])
        try:
            figures = measure(system, work) if measure else _measure(system, work["kind"], work)
            say({"workload": work["name"], **figures})
        except NotImplementedError:
            say({"workload": work["name"], "absent": True})
        except Exception as error:
            traceback.print_exc()
            say({"workload": work["name"], "error": f"{type(error).__name__}: {error}"})


def main(make: Callable[[int, dict[str, Any]], System]) -> None:
    """Read the request, run it, print measurements."""
    request = json.loads(sys.stdin.read())
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what systems and calls print is no measurement

    def say(line: dict[str, Any]) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    system = make(request["n_workers"], request.get("options", {}))
    try:
        _run_all(system, request, say)
    finally:
        system.close()
    answers.close()
