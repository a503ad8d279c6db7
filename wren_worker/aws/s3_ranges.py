"""Much data out of one S3 object: in ranges, side by side, straight to where it is wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

__all__ = ["RANGE_BYTES", "Fetch", "fill"]

#: Source: S3 performance guidelines, "Use byte-range fetches", read 2026-11: 8 to 16 MiB a range.
RANGE_BYTES = 8 * 1024 * 1024
_THREADS = 4


class Fetch(Protocol):
    """Writes the object's bytes from ``offset`` on into ``target``."""

    def __call__(self, offset: int, target: memoryview, /) -> bool:
        """Return whether they are all there."""
        ...


def fill(fetch: Fetch, target: memoryview, *, offset: int, seen: Callable[[memoryview], object] | None = None) -> bool:
    """Fill ``target`` with an object's bytes from ``offset`` on; return whether they are all there.

    Args:
        fetch: Gets one range.
        target: Where the bytes go; its length says how many.
        offset: Where in the object they start.
        seen: Given the ranges in order, as soon as each and all before it are there; in the caller's thread.
    """
    ranges = [(at, target[at : at + RANGE_BYTES]) for at in range(0, len(target), RANGE_BYTES)]
    if len(ranges) <= 1:
        there = all(fetch(offset + at, view) for at, view in ranges)
        if there and seen is not None:
            seen(target)
        return there
    with ThreadPoolExecutor(min(_THREADS, len(ranges)), thread_name_prefix="wren-range") as threads:
        running: list[Future[bool]] = []
        with contextlib.ExitStack() as unwanted:
            for at, view in ranges:
                running.append(threads.submit(fetch, offset + at, view))
                unwanted.callback(running[-1].cancel)
            for future, (_, view) in zip(running, ranges, strict=True):
                if not future.result():
                    return False
                if seen is not None:
                    seen(view)
    return True
