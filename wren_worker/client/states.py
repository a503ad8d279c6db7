"""What instances say they hold, as far as they show life."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from wren_worker.protocol.model import state_key
from wren_worker.protocol.ports import ObjectStore

__all__ = ["States"]


@dataclass(slots=True)
class _Seen:
    modified_timestamp: float
    changed_time: float
    held: frozenset[str] | None = None
    useful_time: float = 0.0


class States:
    """Follows the instances' state objects. For one thread.

    An instance lives if its object changes: that is seen on one clock, whatever S3's and the instance's say.

    Args:
        store: The fleet's bucket.
        stale_time: Seconds without a change after which an instance that held chunks is taken for dead.
    """

    def __init__(self, store: ObjectStore, *, stale_time: float) -> None:
        self._store = store
        self._stale_time = stale_time
        self._seen: dict[str, _Seen] = {}

    def look(self, now: float) -> None:
        """List the objects: a request for a thousand instances.

        Raises:
            StoreError: S3 did not say.
        """
        there: dict[str, _Seen] = {}
        for info in self._store.list(state_key("")):
            known = self._seen.get(info.key)
            if known is None or known.modified_timestamp != info.modified_timestamp:
                useful_time = known.useful_time if known else 0.0
                known = _Seen(info.modified_timestamp, now, useful_time=useful_time)
            there[info.key] = known
        self._seen = there

    def held(self, wanted: Collection[str], now: float) -> set[str]:
        """Return those of some chunks ("job/chunk") that instances which show life say they hold.

        Reads the objects that changed, those first that listed something the last time.

        Raises:
            StoreError: S3 did not say.
        """
        found: set[str] = set()
        live = [(key, seen) for key, seen in self._seen.items() if now - seen.changed_time < self._stale_time]
        for key, seen in sorted(live, key=lambda pair: -pair[1].useful_time):
            if len(found) == len(wanted):
                break
            if seen.held is None:
                seen.held = _held(self._store.get(key) or b"{}")
            if here := seen.held.intersection(wanted):
                seen.useful_time = now
                found |= here
        return found


def _held(data: bytes) -> frozenset[str]:
    try:
        state = json.loads(data)
    except (ValueError, RecursionError):
        return frozenset()
    held = state.get("held") if isinstance(state, dict) else None
    return frozenset(name for name in held if isinstance(name, str)) if isinstance(held, list) else frozenset()
