"""Bytes of the bucket into a file of the instance: in ranges side by side, hashed as they come."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from wren_worker.errors import WrenError
from wren_worker.protocol.ports import ObjectStore

__all__ = ["Mismatch", "fetch_file"]


#: What is fetched at a time, in ranges side by side, and so the memory that a fetch takes.
_WINDOW_BYTES = 32 * 1024 * 1024


class Mismatch(WrenError):
    """The object is not there, is shorter, or is not what its sha256 says."""


def fetch_file(store: ObjectStore, key: str, path: Path, *, length: int, sha256: str, offset: int = 0) -> None:
    """Get ``length`` bytes, above 0, into a file, which appears whole and checked, read-only, or not at all.

    Args:
        store: The fleet's bucket.
        key: The object's.
        path: Where the file goes; its folder exists.
        length: How many bytes.
        sha256: Their hex sha256.
        offset: Where in the object they start.

    Raises:
        Mismatch: The bytes are not there, or are others.
        StoreError: The bucket does not answer or refuses.
        OSError: The disk has no room for them.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".fetching-")
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            digest = hashlib.sha256()
            # through memory of this process: filling a map of the file costs a fault a page, three times the CPU
            window = memoryview(bytearray(min(length, _WINDOW_BYTES)))

            def keep(piece: memoryview) -> None:
                digest.update(piece)
                while piece:
                    piece = piece[file.write(piece) :]

            for at in range(0, length, _WINDOW_BYTES):
                if not store.fill(key, window[: length - at], offset=offset + at, seen=keep):
                    raise Mismatch(f"the object {key} does not exist (any more)", key=key, missing=True)
            if digest.hexdigest() != sha256:
                raise Mismatch(f"the object {key} does not match its sha256", key=key, missing=False)
            os.fchmod(descriptor, 0o400)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
