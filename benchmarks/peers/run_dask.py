"""Dask distributed: a scheduler and workers of one thread each, on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import dask
import harness
import tasks
from distributed import Client, LocalCluster


class Dask(harness.System):
    """``options["group"]``: calls that are put into one task by hand; 1 is the natural one task a call."""

    def start(self) -> None:
        dask.config.set({"distributed.comm.timeouts.connect": "60s"})
        self._cluster = LocalCluster(
            n_workers=self.n_workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=40
        )
        self._client = Client(self._cluster)

    def close(self) -> None:
        self._client.close()
        self._cluster.close()

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        group = int(self.options.get("group", 1))
        items = list(items)
        if group == 1:
            return list(self._client.gather(self._client.map(function, items, pure=False)))
        groups = [items[start : start + group] for start in range(0, len(items), group)]
        parts = self._client.gather(self._client.map(partial(tasks.each, function), groups, pure=False))
        return [result for part in parts for result in part]

    def submits(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        futures = [self._client.submit(function, item, pure=False) for item in items]
        return list(self._client.gather(futures))

    def shared(self, array: Any, indexes: Sequence[int]) -> list[Any]:
        there = self._client.scatter(array, broadcast=True)
        futures = [self._client.submit(tasks.element, there, index, pure=False) for index in indexes]
        return list(self._client.gather(futures))


if __name__ == "__main__":
    sys.exit(harness.main(Dask))
