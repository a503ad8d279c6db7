"""joblib over loky: batches calls by their measured duration, memory-maps large arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import harness
import tasks
from joblib import Parallel, delayed
from joblib.executor import get_memmapping_executor
from joblib.externals.loky import ProcessPoolExecutor


class Joblib(harness.System):
    """Batches by itself ("auto"), anew in each map; the worker processes stay, as joblib keeps them."""

    def start(self) -> None:
        self._pool = ProcessPoolExecutor(self.n_workers)  # loky's; joblib has no single calls of its own

    def close(self) -> None:
        self._pool.shutdown(kill_workers=True)
        get_memmapping_executor(self.n_workers).terminate(kill_workers=True)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(Parallel(n_jobs=self.n_workers)(delayed(function)(item) for item in items))

    def submits(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        futures = [self._pool.submit(function, item) for item in items]
        return [future.result() for future in futures]

    def shared(self, array: Any, indexes: Sequence[int]) -> list[Any]:
        return list(Parallel(n_jobs=self.n_workers)(delayed(tasks.element)(array, index) for index in indexes))


if __name__ == "__main__":
    sys.exit(harness.main(Joblib))
