"""Pickles large objects without copying what is large in them. Writes and never reads."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle

from wren_worker.protocol import culprit, oob

__all__ = ["Bulk", "dump_bulk"]

PROTOCOL = 5
#: Smaller buffers stay within the pickle: a section of their own costs more than the copy.
_OWN_SECTION_BYTES = 16 * 1024
#: How pickle spells the string "__main__" where a global of it is named.
_MAIN = b"\x8c\x08__main__"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """An object as bytes in pieces; the large ones are the object's own memory, so it must not change meanwhile.

    ``in_band`` is what was pickled in band, large bytes left out: whoever looks for names finds them there.
    """

    pieces: tuple[bytes | memoryview, ...]
    in_band: tuple[bytes, ...]

    @property
    def n_bytes(self) -> int:
        """Return how many bytes the pieces are together."""
        return sum(map(len, self.pieces))

    def sha256(self) -> str:
        """Return the hex sha256 of the pieces in a row."""
        digest = hashlib.sha256()
        for piece in self.pieces:
            digest.update(piece)
        return digest.hexdigest()


class _Sink:
    """A file to pickle into that keeps large writes as they are."""

    def __init__(self) -> None:
        self.pieces: list[bytes | memoryview] = []
        self.small: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> int:
        if isinstance(data, bytes):
            self.pieces.append(data)
        else:
            self.pieces.append(memoryview(data).cast("B"))
        # what is larger than two of the pickler's frames is the payload of one large object
        if isinstance(data, bytes) and len(data) < 2 * 64 * 1024:
            self.small.append(data)
        return len(data)


def dump_bulk(obj: object, *, what: str) -> Bulk:
    """Return an object as bytes: by plain pickle where that is right, by cloudpickle where it is needed.

    Args:
        obj: The object.
        what: What an error calls it.

    Raises:
        SerializationError: It cannot be pickled; names the part at fault.
    """
    try:
        bulk = _dump(pickle.Pickler, obj)
        if any(b"\x93" in piece for piece in bulk.in_band) and any(_MAIN in piece for piece in bulk.in_band):
            bulk = _dump(cloudpickle.Pickler, obj)
    except Exception:  # noqa: BLE001 - a __reduce__ may raise anything; cloudpickle has the last word
        try:
            bulk = _dump(cloudpickle.Pickler, obj)
        except Exception as error:
            raise culprit.explain(what, obj, error) from error
    return bulk


def _dump(kind: Any, obj: object) -> Bulk:
    sink, buffers = _Sink(), list[memoryview]()

    def keep_out(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not in one run: the pickler copies it in band
            return True
        if view.nbytes < _OWN_SECTION_BYTES:
            return True
        buffers.append(view)
        return False

    kind(sink, protocol=PROTOCOL, buffer_callback=keep_out).dump(obj)
    pieces: Sequence[bytes | memoryview] = oob.lay_out(sink.pieces, buffers)
    return Bulk(pieces=tuple(pieces), in_band=tuple(sink.small))
