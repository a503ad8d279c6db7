"""Outcome records: how one call's outcome lies in memory, on the pipe and in S3.

A slot writes them, the daemon moves them, a client reads them: the bytes are never re-packed between.
Standard library only and no import of ours, because a slot loads this file by path under a runtime that
has nothing of ours installed.

One record is ``HEAD`` + value bytes + output bytes. Output is a run of ``CHUNK_OF_OUTPUT`` headers, each
followed by its bytes, in the order in which the call wrote them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

__all__ = [
    "ERROR",
    "FAILURE",
    "FLAGS_AT",
    "FLAG_ELSEWHERE",
    "FLAG_FINAL",
    "FLAG_OUTPUT_TRUNCATED",
    "HEAD",
    "LENGTHS_AT",
    "OUTPUT",
    "STATUS_AT",
    "STDERR",
    "STDOUT",
    "STORY",
    "SUCCESS",
    "RecordError",
    "iter_records",
    "pack_output",
    "pack_record",
    "split_output",
]

SUCCESS, FAILURE, ERROR = 0, 1, 2
STDOUT, STDERR = 1, 2
#: Not a stream: such a piece of output is JSON, the attempts before the one that the record is of, first one first:
#: ``[{"attempt", "slot", "start", "time", "end"}, ...]``, unix seconds, seconds, a line of text.
STORY = 3

#: Value and output are not here: the value bytes are UTF-8 JSON that says where. From a slot: ``{"path"}``, a file in
#: its outbox that holds the value. In S3: ``{"key", "length", "sha256", "value_bytes"}``, an object that holds
#: ``value_bytes`` of value and then the output.
FLAG_ELSEWHERE = 1
#: Output went past its bound; what is here is its beginning.
FLAG_OUTPUT_TRUNCATED = 2
#: A FAILURE that ``retries=`` is not for: another run would end the same way, or the user's filter says so.
FLAG_FINAL = 4

#: call_index, status, flags, slot, attempt | start (unix s), run, cpu (s) | peak RSS (bytes), lengths of value, output
HEAD = struct.Struct("<IBBHHxxdddQQI4x")
#: Where a record's status and flags lie, a byte each.
STATUS_AT, FLAGS_AT = 4, 5
#: Where its last fields lie: the lengths of value (8 bytes) and output (4), then 4 bytes of nothing.
LENGTHS_AT = 44
OUTPUT = struct.Struct("<BxxxI")


class RecordError(ValueError):
    """The bytes are not a run of outcome records."""


def pack_record(
    call_index: int,
    status: int,
    value: bytes,
    *,
    output: bytes = b"",
    flags: int = 0,
    slot: int = 0,
    attempt: int = 1,
    start_timestamp: float = 0.0,
    run_time: float = 0.0,
    cpu_time: float = 0.0,
    peak_rss_bytes: int = 0,
) -> bytes:
    """Return one record.

    Times are seconds, ``start_timestamp`` is unix seconds, ``status`` is SUCCESS, FAILURE or ERROR.
    """
    head = HEAD.pack(
        call_index, status, flags, slot, attempt, start_timestamp, run_time, cpu_time, peak_rss_bytes,
        len(value), len(output),
    )  # fmt: skip
    return b"".join((head, value, output))


def iter_records(data: bytes | memoryview) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    """Yield ``(start, end, fields of HEAD)`` of each record in ``data``.

    Raises:
        RecordError: A length points outside the bytes, or a status is unknown.
    """
    position, total, size = 0, len(data), HEAD.size
    unpack = HEAD.unpack_from
    while position < total:
        if total - position < size:
            raise RecordError("record header is cut short")
        head = unpack(data, position)
        end = position + size + head[9] + head[10]
        if end > total or head[1] > ERROR:
            raise RecordError("record does not fit its bytes")
        yield position, end, head
        position = end


def pack_output(stream: int, data: bytes) -> bytes:
    """Return one piece of output: ``stream`` is STDOUT, STDERR or STORY."""
    return OUTPUT.pack(stream, len(data)) + data


def split_output(data: bytes | memoryview) -> list[tuple[int, bytes]]:
    """Return the pieces ``(stream, bytes)`` of a record's output, in the order they were written."""
    pieces, position = [], 0
    while position < len(data):
        if len(data) - position < OUTPUT.size:
            raise RecordError("output header is cut short")
        stream, length = OUTPUT.unpack_from(data, position)
        position += OUTPUT.size
        if position + length > len(data):
            raise RecordError("output does not fit its bytes")
        pieces.append((stream, bytes(data[position : position + length])))
        position += length
    return pieces
