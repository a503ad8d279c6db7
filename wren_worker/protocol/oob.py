"""A pickle and its out-of-band buffers as one run of bytes, which is used where it lies: mapped, never copied.

Standard library only and no import of ours, because a slot loads this file by path under a runtime that
has nothing of ours installed. A length is believed only once it is checked against the bytes that are there.

``HEAD``, a table of section lengths, then the sections, each at the next multiple of 64 bytes: the pickle first, its
buffers behind it in the order in which the pickle takes them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = ["ALIGNMENT", "HEAD", "MAGIC", "MAX_SECTIONS", "OobError", "is_oob", "lay_out", "take_apart"]

#: No pickle starts with this byte, so whoever holds bytes of either kind can tell.
MAGIC = b"\xffWRO"
#: magic, version, number of sections, bytes in all
HEAD = struct.Struct("<4sBxxxI4xQ")
_VERSION = 1
#: A cache line, and what vector units like.
ALIGNMENT = 64
MAX_SECTIONS = 2**20


class OobError(ValueError):
    """The bytes are not a pickle with its buffers."""


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def lay_out(pickle: Sequence[bytes | memoryview], buffers: Sequence[memoryview]) -> list[bytes | memoryview]:
    """Return the pieces that make the run when they are joined; the buffers themselves are among them, uncopied.

    Args:
        pickle: The pickle's bytes, in pieces.
        buffers: Its buffers, as one-dimensional views of bytes.

    Raises:
        OobError: There are more buffers than the table takes.
    """
    if len(buffers) >= MAX_SECTIONS:
        raise OobError(f"{len(buffers)} buffers are more than {MAX_SECTIONS - 1}")
    lengths = [sum(map(len, pickle)), *map(len, buffers)]
    start = HEAD.size + 8 * len(lengths)
    end = start
    for length in lengths:
        end = _aligned(end) + length
    pieces: list[bytes | memoryview] = [
        HEAD.pack(MAGIC, _VERSION, len(lengths), end) + struct.pack(f"<{len(lengths)}Q", *lengths)
    ]
    position = start
    for section, length in zip([pickle, *([buffer] for buffer in buffers)], lengths, strict=True):
        padding = _aligned(position) - position
        if padding:
            pieces.append(bytes(padding))
        pieces += section
        position += padding + length
    return pieces


def is_oob(data: bytes | memoryview) -> bool:
    """Return whether the bytes claim to be such a run."""
    return bytes(data[:4]) == MAGIC


def take_apart(data: bytes | memoryview) -> list[memoryview]:
    """Return the sections, without copying: the pickle, then its buffers.

    Raises:
        OobError: The bytes are no such run, or cut short, or longer than they say.
    """
    view = memoryview(data)
    if len(view) < HEAD.size:
        raise OobError("the bytes are shorter than their head")
    magic, version, n_sections, n_bytes = HEAD.unpack_from(view)
    if magic != MAGIC or version != _VERSION:
        raise OobError("the bytes are not a pickle with its buffers of this version")
    position = HEAD.size + 8 * n_sections
    if not 1 <= n_sections <= MAX_SECTIONS or position > len(view):
        raise OobError("the table of sections is cut short")
    if n_bytes != len(view):
        raise OobError(f"{n_bytes} bytes are announced, {len(view)} are there")
    sections = []
    for length in struct.unpack_from(f"<{n_sections}Q", view, HEAD.size):
        start = _aligned(position)
        position = start + length
        if position > len(view):
            raise OobError("a section does not fit")
        sections.append(view[start:position])
    if position != len(view):
        raise OobError("bytes are left after the last section")
    return sections
