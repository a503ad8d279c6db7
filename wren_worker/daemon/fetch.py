"""Bytes of the bucket into a file of the instance: in ranges side by side, hashed as they come."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from pathlib import Path

from wren_worker.errors import WrenError
from wren_worker.protocol.ports import ObjectStore

__all__ = ["Mismatch", "fetch_file"]


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
        _reserve(descriptor, length)
        digest = hashlib.sha256()
        # no context manager: an error's traceback may hold views of the map a little longer
        mapped = mmap.mmap(descriptor, length)
        if not store.fill(key, memoryview(mapped), offset=offset, seen=digest.update):
            raise Mismatch(f"the object {key} does not exist (any more)", key=key, missing=True)
        if digest.hexdigest() != sha256:
            raise Mismatch(f"the object {key} does not match its sha256", key=key, missing=False)
        os.fchmod(descriptor, 0o400)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    finally:
        os.close(descriptor)


def _reserve(descriptor: int, length: int) -> None:
    """Take the room on the disk now: writing to a map for which there is none would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, length)
        return
    block = bytes(1024 * 1024)
    for start in range(0, length, len(block)):
        os.pwrite(descriptor, block[: length - start], start)
