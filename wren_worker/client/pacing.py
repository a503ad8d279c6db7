"""How many calls travel together: by the time they take, learnt from the first that come back. Pure: no clock, no lock.

A job starts with chunks of one call. What comes back tells how long a call takes and how many slots there are; then
the rest is cut into chunks of about a second, smaller towards the end so that all slots finish together. When nothing
comes back in time the rest is cut blind: what was submitted must not depend on this process for long.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["HOLD_TIME", "NEVER", "WIDEN_TIME", "Pacer"]

#: Seconds for which calls may wait here for outcomes, and after which more chunks go out meanwhile (then doubled).
HOLD_TIME, WIDEN_TIME = 2.0, 0.2
#: No chunk is to be cut, however many calls there are.
NEVER = 2**62

#: What a chunk should take, the least that is worth its requests, and what it may take before enough is known.
_CHUNK_TIME, _LEAST_TIME, _EARLY_TIME = 1.0, 0.03, 0.1
#: Calls of one chunk: what a daemon holds of one stays within a few megabytes, however short they are.
_MOST_CALLS = 10_000
#: What a call costs its slot besides running, in seconds.
_CALL_OVERHEAD_TIME = 15e-6
#: Chunks out at once before the number of slots is known, and per slot once it is guessed.
_FIRST_CHUNKS, _CHUNKS_PER_SLOT = 16, 4
#: The slots of a fleet are known once each of them has brought so many chunks back, on average.
_TURNS = 2
#: Cut blind: so many slots are expected at least, and so many chunks made for each.
_EXPECTED_SLOTS, _BLIND_CHUNKS_PER_SLOT = 16, 64
#: A chunk is at most this part of its slot's share of what is left.
_SHARES = 2


class Pacer:
    """Sizes of one job's chunks.

    Args:
        n_expected: How many calls the job will have, None when that is not known.
        chunksize: What the user asked for, None for "auto".
    """

    def __init__(self, *, n_expected: int | None, chunksize: int | None) -> None:
        self._n_expected = n_expected
        self._chunksize = chunksize
        self._n_cut = 0
        self._n_out = 0
        self._n_back = 0
        self._slots: set[tuple[str, int]] = set()
        # calls that were their slot's first may have imported half the world
        self._first_time, self._n_first = 0.0, 0
        self._later_time, self._n_later = 0.0, 0
        self._committed = False
        self._n_first_chunks = _FIRST_CHUNKS

    @property
    def learning(self) -> bool:
        """Return whether outcomes still change what is cut."""
        return self._chunksize is None and (self._n_expected is None or self._n_cut < self._n_expected)

    @property
    def settled(self) -> bool:
        """Return whether enough is known to cut everything there is."""
        return self._chunksize is not None or self._committed

    @property
    def call_time(self) -> float | None:
        """Return seconds per call in a slot, None before the first outcome."""
        if self._n_later:
            return self._later_time / self._n_later + _CALL_OVERHEAD_TIME
        return self._first_time / self._n_first + _CALL_OVERHEAD_TIME if self._n_first else None

    def back(self, instance_id: str, calls: Iterable[tuple[int, float]]) -> None:
        """Learn from a chunk that came back: ``(slot, run time in seconds)`` of its calls."""
        self._n_back += 1
        self._n_out = max(0, self._n_out - 1)
        for slot, run_time in calls:
            place = instance_id, slot
            if place in self._slots:
                self._later_time += run_time
                self._n_later += 1
            else:
                self._slots.add(place)
                self._first_time += run_time
                self._n_first += 1

    def widen(self) -> None:
        """Let more chunks out: nothing came back for a while, so calls are long or slots are many."""
        self._n_first_chunks *= 2

    def cut(self, n_calls: int) -> None:
        """Take note of a chunk of so many calls."""
        self._n_cut += n_calls
        self._n_out += 1

    def size(self, n_waiting: int, *, complete: bool, hurry: bool) -> int:
        """Return how many calls the next chunk should hold, ``NEVER`` while none should be cut.

        More than are waiting: as soon as so many are there, or now if ``complete`` or ``hurry``.

        Args:
            n_waiting: Calls that are there and in no chunk.
            complete: Whether no more calls will come.
            hurry: Whether nothing may be held back any more.
        """
        if self._chunksize is not None:
            return self._chunksize
        call_time = self.call_time
        n_slots = max(len(self._slots), 1)
        self._committed = self._committed or (call_time is not None and self._n_back >= max(_TURNS * n_slots, 4))
        n_left = n_waiting if self._n_expected is None else max(n_waiting, self._n_expected - self._n_cut)
        if not (self._committed or hurry):
            n_most = max(self._n_first_chunks, _CHUNKS_PER_SLOT * n_slots)
            if self._n_out >= n_most:
                return NEVER
            # each slot may be one of many that have not answered yet
            share = n_left // (_SHARES * n_most)
            return 1 if call_time is None else _between(1, min(_EARLY_TIME / call_time, share))
        if call_time is None:
            n_chunks = _BLIND_CHUNKS_PER_SLOT * max(n_slots, _EXPECTED_SLOTS)
            return _between(1, math.ceil((self._n_cut + n_left) / n_chunks))
        open_end = self._n_expected is None and not complete
        if open_end and not hurry and self._n_out >= _CHUNKS_PER_SLOT * n_slots:
            return NEVER  # enough is out: what comes now travels together once something is back
        share = math.ceil(n_left / (_SHARES * n_slots))
        size = _between(math.ceil(_LEAST_TIME / call_time), min(_CHUNK_TIME / call_time, share))
        return min(size, n_waiting) if open_end else size


def _between(least: int, wanted: float) -> int:
    return max(1, min(int(max(least, wanted)), _MOST_CALLS))
