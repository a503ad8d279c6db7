"""Ray, started on this machine for the run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import harness
import tasks

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray


@cache
def _remote(function: Any) -> Any:
    return ray.remote(function)


class Ray(harness.System):
    """``options["group"]``: calls that are put into one task by hand; 1 is the natural one task a call."""

    def start(self) -> None:
        ray.init(num_cpus=self.n_workers, include_dashboard=False, logging_level="ERROR", log_to_driver=False)

    def close(self) -> None:
        ray.shutdown()

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        group = int(self.options.get("group", 1))
        if group == 1:
            task = _remote(function)
            return list(ray.get([task.remote(item) for item in items]))
        items = list(items)
        task = _remote(_grouped(function))
        parts = ray.get([task.remote(items[start : start + group]) for start in range(0, len(items), group)])
        return [result for part in parts for result in part]

    def submits(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        task = _remote(function)
        return [ray.get(reference) for reference in [task.remote(item) for item in items]]

    def shared(self, array: Any, indexes: Sequence[int]) -> list[Any]:
        there = ray.put(array)
        task = _remote(tasks.element)
        return list(ray.get([task.remote(there, index) for index in indexes]))


@cache
def _grouped(function: Any) -> Any:
    def run(arguments: list[Any]) -> list[Any]:
        return tasks.each(function, arguments)

    return run


if __name__ == "__main__":
    sys.exit(harness.main(Ray))
