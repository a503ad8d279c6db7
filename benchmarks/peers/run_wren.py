"""Ours, through the whole path: this process is the client; sandbox and instances were started by the suite."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import floor
import harness
import psutil
import tasks

import wren_worker as wren
from wren_worker.sandbox import control

#: Facts are read from this many futures at most.
_READ_CALLS = 20_000


class Wren(harness.System):
    """``options``: ``backend``, and ``sandbox``, the folder of the one that runs."""

    def __init__(self, n_workers: int, options: dict[str, Any]) -> None:
        super().__init__(n_workers, options)
        folder = options.get("sandbox")
        self._sandbox = control.status(Path(folder)) if folder else None
        self._executor: Any = None
        self._futures: Sequence[Any] = ()
        self._took = 0.0
        self._floor: floor.Floor | None = None

    def start(self) -> None:
        self._executor = wren.executor(backend=self.options.get("backend", "sqs"))

    def close(self) -> None:
        if self._floor is not None:
            self._floor.close()
        if self._executor is not None:
            self._executor.close()

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return self._gather(lambda: self._executor.map(function, items))

    def submits(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return self._gather(lambda: [self._executor.submit(function, item) for item in items])

    def call(self, function: Callable[[Any], Any], item: Any) -> Any:
        return self._executor.call_async(function, item).result()

    def shared(self, array: Any, indexes: Sequence[int]) -> list[Any]:
        if not hasattr(self._executor, "put"):  # a version without: the array travels with the function
            return self.map(partial(tasks.element, array), indexes)
        reference = self._executor.put(array)
        return self._gather(lambda: self._executor.starmap(tasks.element, [(reference, index) for index in indexes]))

    def _gather(self, send: Callable[[], Sequence[Any]]) -> list[Any]:
        self._futures = ()  # a million futures of the workload before are not this one's memory
        began = time.perf_counter()
        futures = send()
        results = list(wren.get_all_results(futures))
        self._took, self._futures = time.perf_counter() - began, futures
        return results

    def settle(self) -> None:
        """Wait until no request was made for a moment: deletes and log lines come after the results."""
        if self._sandbox is None:
            return
        deadline, last = time.monotonic() + 5.0, -1
        while time.monotonic() < deadline:
            total = sum(control.request_counts(self._sandbox).values())
            if total == last:
                return
            last = total
            time.sleep(0.2)

    def snapshot(self) -> dict[str, float]:
        """Return CPU seconds by place, and AWS requests and billed units by operation."""
        counters = {"cpu_client_s": harness.own_cpu_time()}
        if self._sandbox is None:
            return counters
        counters |= _cpu_by_place(self._sandbox.pid)
        for name, count in control.request_counts(self._sandbox).items():
            counters[f"requests:{name}"] = float(count)
        for name, count in control.billed_units(self._sandbox).items():
            counters[f"units:{name}"] = float(count)
        return counters

    def facts(self) -> dict[str, float]:
        """Return how the last job was cut, and which share of the slots' time was spent inside the function."""
        futures = self._futures
        if not futures or len(futures) > _READ_CALLS:
            return {}
        chunks = {(one.job_id, one.invoke_status["chunk_id"]) for one in futures}
        run_time = sum(float(str(one.run_status["remote_run_time"])) for one in futures)
        return {
            "n_chunks": float(len(chunks)),
            "calls_per_chunk": len(futures) / len(chunks),
            "in_function_share": run_time / (self._took * self.n_workers),
        }

    def probe(self) -> float | None:
        """Walk the path of a call through the emulator with nothing of ours around it."""
        if self._sandbox is None:
            return None
        if self._floor is None:
            self._floor = floor.Floor(self._sandbox.endpoint)
        return self._floor.walk()


def _cpu_by_place(sandbox_pid: int) -> dict[str, float]:
    """Return CPU seconds of the emulator, of daemons, of slots, and of what else makes an instance."""
    server = psutil.Process(sandbox_pid)
    own = server.cpu_times()
    seconds = {"cpu_emulator_s": own.user + own.system, "cpu_daemon_s": 0.0, "cpu_slot_s": 0.0, "cpu_other_s": 0.0}
    daemons, rest = [], []
    for process in server.children(recursive=True):
        try:
            is_daemon = process.cmdline()[-2:] == ["wren_worker", "daemon"]
        except psutil.Error:
            continue
        (daemons if is_daemon else rest).append(process)
    slots = {child.pid for daemon in daemons for child in daemon.children(recursive=True)}
    for process in daemons + rest:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        spent = times.user + times.system
        if process in daemons:
            seconds["cpu_daemon_s"] += spent
        elif process.pid in slots:
            # a keeper has reaped the children of earlier jobs
            seconds["cpu_slot_s"] += spent + times.children_user + times.children_system
        else:
            seconds["cpu_other_s"] += spent
    return seconds


if __name__ == "__main__":
    sys.exit(harness.main(Wren))
