"""Puts objects into the fleet's bucket, each content once."""

from __future__ import annotations

import threading

from wren_worker.clock import Clock
from wren_worker.protocol.bulk import Bulk, dump_bulk
from wren_worker.protocol.modules import LocalModules
from wren_worker.protocol.ports import ObjectStore
from wren_worker.protocol.refs import Ref, ref_key

__all__ = ["Putter", "ref_to"]

#: An object that was stored longer ago (seconds) is stored anew: a message waits for up to 14 days, and the bucket
#: keeps what lies under ``refs/`` for 15.
_FRESH_TIME = 43200.0


class Putter:
    """Stores objects by their content. Safe from any thread.

    Args:
        store: The fleet's bucket.
        bucket: Its name.
        modules: Tells which local modules an object needs.
        clock: Tells how old an object is.
    """

    def __init__(self, store: ObjectStore, *, bucket: str, modules: LocalModules, clock: Clock) -> None:
        self._store = store
        self._bucket = bucket
        self._modules = modules
        self._clock = clock
        self._lock = threading.Lock()
        #: When an object was last known to be stored, in unix seconds.
        self._known: dict[str, float] = {}

    def put(self, obj: object) -> Ref:
        """Store an object unless its content is there; return its reference.

        Raises:
            SerializationError: It cannot be pickled; names the part at fault.
            StoreError: S3 did not take it.
        """
        bulk = dump_bulk(obj, what=f"the {_kind(obj)} to put")
        ref = ref_to(obj, bulk, bucket=self._bucket, modules=self._modules)
        oldest = self._clock.timestamp() - _FRESH_TIME
        if self._known.get(ref.sha256, 0.0) < oldest:
            timestamp = self._upload(ref, bulk, oldest)
            with self._lock:
                self._known[ref.sha256] = timestamp
        return ref

    def _upload(self, ref: Ref, bulk: Bulk, oldest: float) -> float:
        """Store an object, and return since when it is there."""
        key = ref_key(ref.sha256)
        found = next(self._store.list(key), None)
        if found is not None and found.n_bytes == ref.n_bytes and found.modified_timestamp > oldest:
            return found.modified_timestamp
        now = self._clock.timestamp()
        if found is None:
            self._store.put_once(key, bulk.pieces)  # taken meanwhile: by the same bytes
        else:
            self._store.put(key, bulk.pieces)  # too old, or not what belongs there
        return now


def ref_to(obj: object, bulk: Bulk, *, bucket: str, modules: LocalModules) -> Ref:
    """Return the reference to an object that is, or will be, stored as ``bulk``."""
    names: set[str] = set()
    if any(b"\x93" in piece for piece in bulk.in_band):
        for piece in bulk.in_band:
            # the opcode that names something may stand in another piece than the name
            names |= modules.mentioned(b"\x93" + piece)
    return Ref(
        sha256=bulk.sha256(),
        n_bytes=bulk.n_bytes,
        bucket=bucket,
        kind=_kind(obj),
        modules=tuple(sorted(names)),
    )


def _kind(obj: object) -> str:
    kind = type(obj)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
