"""Rest for the garbage collector while a great many objects are made that all stay."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["collector_at_rest"]


@contextlib.contextmanager
def collector_at_rest() -> Iterator[None]:
    """Keep cyclic garbage for a while.

    A million futures are no garbage, and to look at all of them each time that their number has grown by a quarter
    takes longer than to make them. For code of ours that runs none of the user's but what pickling needs.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
