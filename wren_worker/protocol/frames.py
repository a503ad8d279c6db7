"""Length-prefixed frames between the daemon and a slot, over one Unix stream socket per slot.

Standard library only and no import of ours, because a slot loads this file by path under a runtime that
has nothing of ours installed. Neither side trusts a length before it is checked against its bound.

A frame is ``kind`` (1 byte), 3 reserved bytes, ``length`` (4 bytes, little endian), then the body.
"""

from __future__ import annotations

import array
import json
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum

__all__ = [
    "CALL",
    "CALL_COUNT",
    "FRAME_HEAD",
    "MAX_FRAME_BYTES",
    "MAX_ORDER_BYTES",
    "OUTPUT_HEAD",
    "FrameError",
    "FrameReader",
    "Kind",
    "call_columns",
    "call_rows",
    "join_sections",
    "pack_calls",
    "pack_frame",
    "pack_new_calls",
    "split_calls",
    "split_sections",
]

#: Larger arguments and values travel as files of the instance, named in a frame (see CALLS and records.py).
MAX_FRAME_BYTES = 64 * 1024 * 1024
#: The bound for what a daemon sends to a child: a job's function may be large, and the daemon is trusted.
MAX_ORDER_BYTES = 2**31

FRAME_HEAD = struct.Struct("<BxxxI")
#: call_index, attempt, length of the argument bytes
CALL = struct.Struct("<IHxxI")
#: call_index, attempt, stream; the bytes follow
OUTPUT_HEAD = struct.Struct("<IHBx")
CALL_COUNT = struct.Struct("<I")


class Kind(IntEnum):
    """What a frame says. Numbers are on the wire: never reuse one."""

    # daemon -> child
    JOB = 1  # sections: JSON header, function bytes, module archive
    CALLS = 2  # see pack_calls; a call's argument bytes are one pickle of (args, kwargs)
    CALLS_FILE = 3  # JSON {"path", "calls": [[call_index, attempt, offset, length], ...]}
    # child -> daemon
    OUTCOMES = 17  # outcome records, see records.py
    OUTPUT = 18  # OUTPUT_HEAD + bytes, as the call writes them
    # reserved from the start: a slot never talks to S3 or SQS, it asks its daemon
    NEED = 32  # JSON {"job_id", "call_index"}: child -> daemon
    NEED_ANSWER = 33  # daemon -> child
    SEND = 34  # a chunk of a nested job: child -> daemon
    SEND_ANSWER = 35  # daemon -> child
    # daemon <-> keeper, the warm parent of a slot's children
    SPAWN = 48  # JSON {"generation"}; the child's four descriptors travel with it
    SPAWNED = 49  # JSON {"generation", "pid"}
    EXITED = 50  # JSON {"generation", "status", "peak_rss_bytes"}; everything the child left is gone by then
    KILL = 51  # JSON {"signal"}: signal the child's process group


class FrameError(ValueError):
    """The bytes are not frames of this version."""


def pack_frame(kind: int, *parts: bytes | memoryview, limit: int = MAX_FRAME_BYTES) -> bytes:
    """Return one frame whose body is the parts in a row.

    Raises:
        FrameError: The body is larger than ``limit``.
    """
    length = sum(map(len, parts))
    if length > limit:
        raise FrameError(f"a frame of {length} bytes is larger than {limit}")
    return b"".join((FRAME_HEAD.pack(kind, length), *parts))


class FrameReader:
    """Cuts a stream of bytes into frames; holds at most one unfinished frame."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Add bytes and yield the ``(kind, body)`` of every frame that is now whole.

        Raises:
            FrameError: A frame announces more than the limit.
        """
        buffer = self._buffer
        buffer += data
        position, size = 0, FRAME_HEAD.size
        try:
            while len(buffer) - position >= size:
                kind, length = FRAME_HEAD.unpack_from(buffer, position)
                if length > self._limit:
                    raise FrameError(f"a frame announces {length} bytes, more than {self._limit}")
                end = position + size + length
                if len(buffer) < end:
                    break
                body = bytes(memoryview(buffer)[position + size : end])
                position = end
                yield kind, body
        finally:  # also when whoever takes a frame fails: it must not come again
            del buffer[:position]


def pack_calls(calls: Iterable[tuple[int, int, bytes | memoryview]]) -> bytes:
    """Return the body of a CALLS frame from ``(call_index, attempt, argument bytes)``."""
    heads: list[bytes] = []
    blobs: list[bytes | memoryview] = []
    for call_index, attempt, blob in calls:
        heads.append(CALL.pack(call_index, attempt, len(blob)))
        blobs.append(blob)
    return b"".join((CALL_COUNT.pack(len(heads)), *heads, *blobs))


def pack_new_calls(first_call: int, blobs: Sequence[bytes]) -> bytes:
    """Return the body of a CALLS frame of consecutive calls at their first attempt; ``pack_calls`` for a million."""
    n_calls = len(blobs)
    words = array.array("I", bytes(CALL.size * n_calls))
    words[0::3] = array.array("I", range(first_call, first_call + n_calls))
    words[1::3] = array.array("I", [1]) * n_calls
    words[2::3] = array.array("I", map(len, blobs))
    if sys.byteorder == "big":
        words.byteswap()
    return b"".join((CALL_COUNT.pack(n_calls), words.tobytes(), *blobs))


def call_rows(head: bytes | memoryview) -> list[tuple[int, int, int]]:
    """Return ``(call_index, attempt, length)`` of the calls in a CALLS body that starts with ``head``.

    Raises:
        FrameError: The table is not whole in ``head``.
    """
    end = CALL_COUNT.size + _count(head) * CALL.size
    return list(CALL.iter_unpack(memoryview(head)[CALL_COUNT.size : end]))


def call_columns(head: bytes | memoryview) -> tuple[list[int], list[int]]:
    """Return the indexes and the lengths of ``call_rows``, for many calls.

    Raises:
        FrameError: The table is not whole in ``head``.
    """
    view = memoryview(head)[CALL_COUNT.size : CALL_COUNT.size + _count(head) * CALL.size]
    words = array.array("I", view.tobytes())
    if sys.byteorder == "big":
        words.byteswap()
    return words[0::3].tolist(), words[2::3].tolist()


def _count(head: bytes | memoryview) -> int:
    if len(head) < CALL_COUNT.size:
        raise FrameError("calls are cut short")
    count = int(CALL_COUNT.unpack_from(head)[0])
    if CALL_COUNT.size + count * CALL.size > len(head):
        raise FrameError("calls are cut short")
    return count


def split_calls(body: bytes | memoryview) -> list[tuple[int, int, memoryview]]:
    """Return the ``(call_index, attempt, argument bytes)`` of a CALLS body, without copying.

    Raises:
        FrameError: A length points outside the body.
    """
    view = memoryview(body)
    rows = call_rows(view)
    start = CALL_COUNT.size + len(rows) * CALL.size
    calls = []
    for call_index, attempt, length in rows:
        end = start + length
        calls.append((call_index, attempt, view[start:end]))
        start = end
    if start != len(view):
        raise FrameError("the calls' lengths do not add up")
    return calls


def join_sections(header: dict[str, object], sections: Sequence[bytes | memoryview] = ()) -> bytes:
    """Return a JSON header and byte sections as one body; the lengths travel in front."""
    text = json.dumps(header, separators=(",", ":")).encode()
    lengths = [len(text), *map(len, sections)]
    return b"".join((struct.pack(f"<I{len(lengths)}Q", len(lengths), *lengths), text, *sections))


def split_sections(body: bytes | memoryview) -> tuple[dict[str, object], list[memoryview]]:
    """Return the header and the sections of ``join_sections``, without copying.

    Raises:
        FrameError: A length points outside the body, or the header is no JSON object.
    """
    view = memoryview(body)
    if len(view) < 4:
        raise FrameError("sections are cut short")
    (count,) = struct.unpack_from("<I", view)
    start = 4 + 8 * count
    if not 1 <= count <= 64 or start > len(view):
        raise FrameError("sections are cut short")
    pieces = []
    for length in struct.unpack_from(f"<{count}Q", view, 4):
        end = start + length
        if end > len(view):
            raise FrameError("a section does not fit")
        pieces.append(view[start:end])
        start = end
    if start != len(view):
        raise FrameError("bytes are left after the last section")
    try:
        header = json.loads(bytes(pieces[0]))
    except (ValueError, RecursionError) as error:
        raise FrameError("the header is not JSON") from error
    if not isinstance(header, dict):
        raise FrameError("the header is not a JSON object")
    return header, pieces[1:]
