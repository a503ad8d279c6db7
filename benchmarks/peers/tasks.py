"""The functions that every system runs. They travel as any user's would; numpy is imported where it is needed."""

from __future__ import annotations

import os
import time
from typing import Any


def noop(x: int) -> int:
    """Return the argument."""
    return x


def sleep(duration_time: float) -> float:
    """Sleep for so many seconds, and return them: what a call costs beside its work shows in full."""
    time.sleep(duration_time)
    return duration_time


def length(blob: bytes) -> tuple[int, int]:
    """Return how long the bytes are, and the number that their first eight say."""
    return len(blob), int.from_bytes(blob[:8], "big")


def element(array: Any, index: int) -> tuple[int, float]:
    """Return the array's size in bytes and the sum of a hundred of its elements."""
    step = array.size // 100
    start = (index * 7919) % step
    return int(array.nbytes), float(array[start::step][:100].sum())


def dgemm(job: tuple[int, int]) -> tuple[float, float, str]:
    """Multiply two n × n matrices of doubles so many times; return GFLOPS, a checksum and the thread setting.

    The first product is not timed: it starts the threads and touches the memory.
    """
    import numpy as np

    size, n_products = job
    a = np.ones((size, size))
    b = np.full((size, size), 0.5)
    product = a @ b
    began = time.perf_counter()
    for _ in range(n_products):
        product = a @ b
    took = time.perf_counter() - began
    gflops = 2.0 * size**3 * n_products / took / 1e9
    return gflops, float(product[0, 0]), os.environ.get("OMP_NUM_THREADS", "")


def regression(series: tuple[str, list[float], list[float]]) -> tuple[str, float, float]:
    """Fit a straight line to one series by least squares; return its name, slope and intercept."""
    import numpy as np

    name, xs, ys = series
    design = np.column_stack([np.asarray(xs), np.ones(len(xs))])
    (slope, intercept), *_ = np.linalg.lstsq(design, np.asarray(ys), rcond=None)
    return name, float(slope), float(intercept)


def each(function: Any, arguments: list[Any]) -> list[Any]:
    """Run a group of calls: what users of systems without chunks of their own write by hand."""
    return [function(argument) for argument in arguments]
