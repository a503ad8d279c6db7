"""References on their arrival: the object in place of each, mapped from a file that all slots of the instance share."""

from __future__ import annotations

import fcntl
import mmap
import os
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable

from ..protocol import oob

__all__ = ["MODULE", "Arrivals", "RefUnavailable"]

#: Where a pickled reference looks for what to call: see protocol/arrival.py.
MODULE = "wren_worker.protocol.arrival"
#: Objects of a child that are kept for its next calls; more are loaded again when they are needed again.
_KEPT_BYTES = 1024 * 1024 * 1024
_TRIES = 3

Ask = Callable[[dict[str, object]], dict[str, object]]


class RefUnavailable(Exception):
    """What a reference stands for cannot be had; ``facts`` are for whoever waits for the call."""

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.facts = facts


class Arrivals:
    """Loads objects, each once for as long as it is kept.

    Args:
        ask: Asks the daemon.
        kept_bytes: How much is kept for the next calls.
    """

    def __init__(self, ask: Ask, *, kept_bytes: int = _KEPT_BYTES) -> None:
        self._ask = ask
        self._kept_bytes = kept_bytes
        self._objects: OrderedDict[str, tuple[object, int]] = OrderedDict()

    def install(self) -> None:
        """Have references that are unpickled in this process from now on become their objects."""
        module = types.ModuleType(MODULE, __doc__)

        def arrive(sha256: str, n_bytes: int, bucket: str, kind: str, _modules: tuple[str, ...]) -> object:
            return self.fetch(sha256, n_bytes=n_bytes, bucket=bucket, kind=kind)

        # by this name it pickles too: a call may send calls of its own
        arrive.__module__, arrive.__qualname__ = MODULE, "arrive"
        module.arrive = arrive  # type: ignore[attr-defined]
        sys.modules[MODULE] = module

    def fetch(self, sha256: str, *, n_bytes: int, bucket: str, kind: str) -> object:
        """Return the object.

        Raises:
            RefUnavailable: It is gone, was changed, or cannot be fetched.
            Exception: What unpickling it raised.
        """
        found = self._objects.get(sha256)
        if found is None:
            found = self._load(sha256, n_bytes=n_bytes, bucket=bucket, kind=kind), n_bytes
            self._objects[sha256] = found
        self._objects.move_to_end(sha256)
        while len(self._objects) > 1 and sum(size for _, size in self._objects.values()) > self._kept_bytes:
            self._objects.popitem(last=False)
        return found[0]

    def _load(self, sha256: str, *, n_bytes: int, bucket: str, kind: str) -> object:
        question: dict[str, object] = {"ref": sha256, "n_bytes": n_bytes, "bucket": bucket, "kind": kind}
        for _ in range(_TRIES):
            answer = self._ask(question)
            if "path" not in answer:
                break
            try:
                data = _mapped(str(answer["path"]))
            except FileNotFoundError:
                continue  # it had to make room just then
            try:
                sections = oob.take_apart(memoryview(data))
            except oob.OobError as error:
                answer = {"error": f"What refs/{sha256} holds cannot be read here: {error}."}
                break
            found: object = pickle.loads(sections[0], buffers=sections[1:])
            return found
        raise RefUnavailable(
            str(answer.get("error", f"The instance has no room to keep the {kind} of {n_bytes} bytes.")),
            sha256=sha256,
            bucket=bucket,
        )


def _mapped(path: str) -> mmap.mmap:
    """Map a file, read-only. Its lock says that it is in use, and lasts as long as the map, whatever ends us."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink == 0:
            raise FileNotFoundError(path)
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
