"""joblib over loky: batches calls by their measured duration, memory-maps large arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import harness
import tasks
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor


class Joblib(harness.System):
    """Batches by itself ("auto")."""

    def start(self) -> None:
        self._parallel = Parallel(n_jobs=self.n_workers).__enter__()

    def close(self) -> None:
        self._parallel.__exit__(None, None, None)
        get_reusable_executor().shutdown(wait=True, kill_workers=True)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(self._parallel(delayed(function)(item) for item in items))

    def submits(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        executor = get_reusable_executor(max_workers=self.n_workers)
        futures = [executor.submit(function, item) for item in items]
        return [future.result() for future in futures]

    def shared(self, array: Any, indexes: Sequence[int]) -> list[Any]:
        return list(self._parallel(delayed(tasks.element)(array, index) for index in indexes))


if __name__ == "__main__":
    sys.exit(harness.main(Joblib))
