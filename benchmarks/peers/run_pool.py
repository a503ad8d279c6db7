"""``concurrent.futures.ProcessPoolExecutor``: the floor without durability or distribution."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import harness
import tasks


class Pool(harness.System):
    """``options["chunksize"]``: 1 is the standard library's default; "best" deals every worker four chunks."""

    def start(self) -> None:
        self._pool = ProcessPoolExecutor(self.n_workers)

    def close(self) -> None:
        self._pool.shutdown()

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        size = 1
        if self.options.get("chunksize") == "best":
            items = list(items)
            size = max(1, len(items) // (4 * self.n_workers))
        return list(self._pool.map(function, items, chunksize=size))

    def submits(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        futures = [self._pool.submit(function, item) for item in items]
        return [future.result() for future in futures]

    def shared(self, array: Any, indexes: Sequence[int]) -> list[Any]:
        return self.map(partial(tasks.element, array), indexes)


if __name__ == "__main__":
    sys.exit(harness.main(Pool))
