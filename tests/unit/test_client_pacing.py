"""Chunk sizes by time, tried on fleets that exist only here: slots, a latency, and calls of known lengths."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from wren_worker.client.pacing import HOLD_TIME, NEVER, WIDEN_TIME, Pacer

LATENCY = 0.02  # from a send to a slot, and back
OVERHEAD = 0.005  # of a slot, per chunk


@dataclass
class Run:
    """One map over one-slot instances that take chunks in the order in which they were sent."""

    times: Sequence[float]
    n_slots: int
    sizes: list[int] = field(default_factory=list)
    end: float = 0.0

    def __post_init__(self) -> None:
        self.pacer = Pacer(n_expected=len(self.times), chunksize=None)
        self.events: list[tuple[float, int, Callable[[float], None]]] = []
        self.n_cut = self.n_events = 0
        self.queue: list[Sequence[float]] = []
        self.idle = set(range(self.n_slots))
        self.cut(0.0)
        looks, delay = WIDEN_TIME, WIDEN_TIME
        while looks < HOLD_TIME:
            self.at(looks, lambda t: (self.pacer.widen(), self.cut(t)))
            delay *= 2
            looks += delay
        self.at(HOLD_TIME, lambda t: self.cut(t, hurry=True))
        while self.events:
            now, _, happen = heapq.heappop(self.events)
            happen(now)
        assert sum(self.sizes) == len(self.times)

    def at(self, when: float, happen: Callable[[float], object]) -> None:
        self.n_events += 1
        heapq.heappush(self.events, (when, self.n_events, happen))

    def cut(self, now: float, *, hurry: bool = False) -> None:
        while left := len(self.times) - self.n_cut:
            size = self.pacer.size(left, complete=True, hurry=hurry)
            if size >= NEVER:
                break
            size = min(size, left)
            self.pacer.cut(size)
            chunk = self.times[self.n_cut : self.n_cut + size]
            self.n_cut += size
            self.sizes.append(size)
            self.at(now + LATENCY, lambda t, chunk=chunk: (self.queue.append(chunk), self.start(t)))

    def start(self, now: float) -> None:
        while self.idle and self.queue:
            slot, chunk = self.idle.pop(), self.queue.pop(0)
            self.at(now + OVERHEAD + sum(chunk), lambda t, slot=slot, chunk=chunk: self.done(t, slot, chunk))

    def done(self, now: float, slot: int, chunk: Sequence[float]) -> None:
        self.end = now
        self.idle.add(slot)
        self.start(now)
        self.at(now + LATENCY, lambda t: self.back(t, slot, chunk))

    def back(self, now: float, slot: int, chunk: Sequence[float]) -> None:
        self.pacer.back(f"i-{slot}", [(0, time) for time in chunk])
        self.cut(now)

    @property
    def ratio(self) -> float:
        """Return the wall time over what no schedule could beat."""
        return self.end / max(sum(self.times) / self.n_slots, *self.times)


def pareto(n: int, *, ideal: float, n_slots: int, seed: int = 5) -> list[float]:
    drawn = [random.Random(seed + i).paretovariate(1.5) for i in range(n)]
    return [time * ideal * n_slots / sum(drawn) for time in drawn]


@pytest.mark.parametrize(
    ("times", "n_slots", "worst", "most_chunks"),
    [
        ([0.01] * 1000, 2, 1.06, 60),
        ([1.0] * 100, 2, 1.02, 100),
        ([1.0] * 64, 64, 1.7, 64),
        ([0.01] * 100_000, 64, 1.08, 2000),
        ([10.0] * 1000, 100, 1.03, 1000),
        (pareto(2000, ideal=10, n_slots=2), 2, 1.08, 80),
        (pareto(400, ideal=1.07, n_slots=2), 2, 1.35, 60),
    ],
    ids=["10ms", "1s", "a slot a call", "many slots", "long calls", "skewed", "short and skewed"],
)
def test_slots_are_busy_to_the_end_and_chunks_are_few(times, n_slots, worst, most_chunks):
    run = Run(times, n_slots)
    assert run.ratio < worst
    assert len(run.sizes) <= most_chunks


def test_a_million_short_calls_are_a_handful_of_chunks():
    run = Run([2e-6] * 1_000_000, 2)
    assert len(run.sizes) < 200
    assert max(run.sizes) <= 10_000
    assert run.sizes[0] == 1  # nothing was known then


def test_the_last_chunks_are_smaller_than_those_before():
    sizes = Run([0.01] * 2000, 2).sizes
    assert max(sizes) == pytest.approx(100, rel=0.1)  # a second of work
    assert sum(sizes[-4:]) < max(sizes) / 2


def test_a_call_that_imports_half_the_world_is_not_taken_for_the_measure():
    pacer = Pacer(n_expected=1000, chunksize=None)
    for instance in "ab":
        pacer.back(instance, [(0, 3.0)])
    pacer.back("a", [(0, 0.01)])
    assert pacer.call_time == pytest.approx(0.01, rel=0.01)


def test_nothing_back_in_time_is_cut_blind_into_equal_chunks():
    pacer = Pacer(n_expected=1_000_000, chunksize=None)
    assert [pacer.size(10, complete=False, hurry=False) for _ in range(3)] == [1, 1, 1]
    for _ in range(16):
        pacer.cut(1)
    assert pacer.size(999_984, complete=True, hurry=False) == NEVER
    pacer.widen()
    assert pacer.size(999_984, complete=True, hurry=False) == 1
    sizes, left = set(), 999_984
    while left:
        size = min(pacer.size(left, complete=True, hurry=True), left)
        pacer.cut(size)
        left -= size
        sizes.add(size)
    assert max(sizes) == 977  # 64 for each of 16 slots, as far as anybody knows
    assert len(sizes) == 2


def test_an_open_end_gathers_while_enough_is_out_and_never_waits_with_idle_slots():
    pacer = Pacer(n_expected=None, chunksize=None)
    for _ in range(16):
        assert pacer.size(1, complete=False, hurry=False) == 1
        pacer.cut(1)
    for _ in range(8):
        pacer.back("a", [(0, 1e-6)])
    # eight are out, one slot was seen: enough
    assert pacer.size(50, complete=False, hurry=False) == NEVER
    assert pacer.size(50, complete=False, hurry=True) == 50
    for _ in range(5):
        pacer.back("a", [(0, 1e-6)])
    assert pacer.size(50, complete=False, hurry=False) == 50


def test_a_chunksize_is_a_chunksize():
    pacer = Pacer(n_expected=9, chunksize=7)
    assert not pacer.learning
    assert pacer.size(9, complete=True, hurry=False) == 7
