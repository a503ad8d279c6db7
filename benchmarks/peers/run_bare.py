"""numpy with nothing around it: a process per slot, one thread each, all at once. What dgemm is compared with."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import harness


class Bare(harness.System):
    """Every process gets its share of the calls beforehand: no queue, no scheduling."""

    def start(self) -> None:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(max(1, (os.cpu_count() or 1) // self.n_workers))

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        items = list(items)
        context = multiprocessing.get_context("spawn")
        shares = [items[number :: self.n_workers] for number in range(self.n_workers)]
        pipes, processes = [], []
        for share in shares:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(function, share, theirs))
            process.start()
            pipes.append(ours)
            processes.append(process)
        results: list[Any] = [None] * len(items)
        for number, pipe in enumerate(pipes):
            results[number :: self.n_workers] = pipe.recv()
        for process in processes:
            process.join()
        return results


def _run(function: Callable[[Any], Any], share: list[Any], pipe: Any) -> None:
    pipe.send([function(item) for item in share])


if __name__ == "__main__":
    sys.exit(harness.main(Bare))
