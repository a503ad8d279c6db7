"""Call durations that are drawn once and for all, and the best that any schedule could make of them."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence

__all__ = ["best_makespan_bound", "in_order_makespan", "longest_first_makespan", "pareto_times"]


def pareto_times(n: int, *, ideal_time: float, n_slots: int, shape: float = 1.3, seed: int = 5) -> list[float]:
    """Return ``n`` Pareto-distributed durations whose sum is ``ideal_time`` seconds on each of the slots."""
    draw = random.Random(seed)
    weights = [draw.paretovariate(shape) for _ in range(n)]
    scale = ideal_time * n_slots / sum(weights)
    return [weight * scale for weight in weights]


def best_makespan_bound(times: Sequence[float], n_slots: int) -> float:
    """Return the seconds below which no schedule can finish: the fair share, or the longest call."""
    return max(sum(times) / n_slots, *times)


def longest_first_makespan(times: Sequence[float], n_slots: int) -> float:
    """Return the seconds of the schedule that deals the longest calls first: one that exists, at most 4/3 of the best.

    Source: R. L. Graham, "Bounds on multiprocessing timing anomalies", 1969.
    """
    return in_order_makespan(sorted(times, reverse=True), n_slots)


def in_order_makespan(times: Sequence[float], n_slots: int) -> float:
    """Return the seconds when each slot takes the next call as soon as it is free: the best without foresight."""
    ends = [0.0] * n_slots
    for duration in times:
        heapq.heappush(ends, heapq.heappop(ends) + duration)
    return max(ends)
