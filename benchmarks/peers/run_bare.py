"""numpy with nothing around it: a process per slot, its share of the cores as threads. What dgemm is compared with."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import harness

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Bare(harness.System):
    """Every process gets its share of the calls beforehand: no queue, no scheduling."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        items = list(items)
        n_threads = str(max(1, (os.cpu_count() or 1) // self.n_workers))
        environment = os.environ | dict.fromkeys(_THREADS, n_threads)
        processes = []
        for number in range(self.n_workers):
            process = subprocess.Popen(
                [sys.executable, __file__, "--share"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert process.stdin is not None
            process.stdin.write(pickle.dumps((function, items[number :: self.n_workers])))
            process.stdin.close()
            processes.append(process)
        results: list[Any] = [None] * len(items)
        for number, process in enumerate(processes):
            assert process.stdout is not None
            results[number :: self.n_workers] = pickle.loads(process.stdout.read())
            process.wait()
        return results


def _run_share() -> None:
    function, share = pickle.loads(sys.stdin.buffer.read())
    sys.stdout.buffer.write(pickle.dumps([function(item) for item in share]))


if __name__ == "__main__":
    sys.exit(_run_share() if "--share" in sys.argv else harness.main(Bare))
