"""Reads one call's outcome record: its value, what it printed, what it took."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from wren_worker.client.resolve import ChunkBook
from wren_worker.errors import ResultTampered, StoreError
from wren_worker.protocol import oob, records
from wren_worker.protocol.model import result_prefix
from wren_worker.protocol.serialize import Loaded, load_outcome, load_value

__all__ = [
    "complete",
    "is_elsewhere",
    "load",
    "load_plain",
    "output",
    "remote_facts",
    "status",
    "without_value",
]

_NO_OUTPUT = bytes(records.HEAD.size - records.LENGTHS_AT - 8)
_NO_LENGTHS = bytes(records.HEAD.size - records.LENGTHS_AT)

#: Fills a buffer with an object's bytes, from an offset on, and shows them to a function as they come; False when the
#: object has fewer, None when it is gone.
Fetch = Callable[[str, memoryview, Callable[[memoryview], object], int], bool | None]
#: Memory for so much is taken on the word of whoever wrote the record.
_BELIEVED_BYTES = 64 * 1024 * 1024
#: Source: S3 "Uploading objects", read 2026-11: an object has up to 50 TB.
_MOST_BYTES = 50 * 10**12
_LONGEST_KEY = 1024
#: Where in a buffer an outcome's value starts.
_ALIGNED = -(-records.HEAD.size // oob.ALIGNMENT) * oob.ALIGNMENT


def status(record: bytes) -> int:
    """Return SUCCESS, FAILURE or ERROR, of a record that may be without its value."""
    return int(records.HEAD.unpack_from(record)[1])


def is_elsewhere(record: bytes) -> bool:
    """Return whether the value lies in an object of its own."""
    return bool(records.HEAD.unpack_from(record)[2] & records.FLAG_ELSEWHERE)


def complete(record: bytes, fetch: Fetch, *, job_id: str) -> bytes | memoryview | None:
    """Return the record with value and output in it, fetched if they lie elsewhere; None if that was changed.

    Elsewhere is always under the job's own prefix.

    Raises:
        StoreError: They cannot be fetched now.
    """
    fields = list(records.HEAD.unpack_from(record))
    if not fields[2] & records.FLAG_ELSEWHERE:
        return record
    where = _pointer(record[records.HEAD.size : records.HEAD.size + fields[9]], result_prefix(job_id))
    if where is None:
        return None
    key, length, sha256, value_bytes = where
    # a length that lies must not cost that much memory: is the last byte there?
    if length > _BELIEVED_BYTES and fetch(key, memoryview(bytearray(1)), _ignore, length - 1) is False:
        return None
    # one buffer for all: the value's own buffers will be views of it, at the alignment that they were stored with
    whole = bytearray(_ALIGNED + length)
    digest = hashlib.sha256()
    there = fetch(key, memoryview(whole)[_ALIGNED:], digest.update, 0)
    if there is None:
        raise StoreError(f"{key} is gone from the bucket: results are kept for a limited time.", key=key)
    if not there or digest.hexdigest() != sha256:
        return None
    fields[2] &= ~records.FLAG_ELSEWHERE
    fields[9], fields[10] = value_bytes, length - value_bytes
    start = _ALIGNED - records.HEAD.size
    records.HEAD.pack_into(whole, start, *fields)
    return memoryview(whole)[start:]


def _pointer(value: bytes, prefix: str) -> tuple[str, int, object, int] | None:
    """Return key, length, sha256 and value_bytes; None of what no daemon writes."""
    try:
        where = json.loads(value)
        key, length, sha256 = where["key"], where["length"], where["sha256"]
        value_bytes = where.get("value_bytes", length)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not isinstance(key, str) or not key.startswith(prefix) or not key.isascii() or len(key) > _LONGEST_KEY:
        return None
    if type(length) is not int or type(value_bytes) is not int or not 0 <= value_bytes <= length <= _MOST_BYTES:
        return None
    return key, length, sha256, value_bytes


def _ignore(_: memoryview) -> None: ...


def load_plain(record: bytes) -> Loaded | None:
    """Return the value of a record that has one right in it; None for any other, or if reading it fails."""
    if record[records.STATUS_AT] or record[records.FLAGS_AT]:
        return None
    return load_value(memoryview(record)[records.HEAD.size :])


def load(record: bytes | memoryview | None, *, job_id: str, call_index: int) -> Loaded:
    """Return the value or exception of a complete record; of None, that it was tampered with."""
    if record is None:
        message = (
            f"The value of call {call_index} of job {job_id} is not what its result object names: "
            "the stored bytes were changed. Run the call again."
        )
        return Loaded(exception=ResultTampered(message, job_id=job_id, call_index=call_index))
    head = records.HEAD.unpack_from(record)
    value = memoryview(record)[records.HEAD.size : records.HEAD.size + head[9]]
    return load_outcome(head[1], value, job_id=job_id, call_index=call_index)


def without_value(record: bytes | memoryview) -> bytes:
    """Return the record with its value bytes dropped, for when they have been loaded."""
    if record[records.LENGTHS_AT + 8 : records.HEAD.size] == _NO_OUTPUT:
        return bytes(record[: records.LENGTHS_AT]) + _NO_LENGTHS
    fields = list(records.HEAD.unpack_from(record))
    start = records.HEAD.size + fields[9]
    fields[9] = 0
    return records.HEAD.pack(*fields) + bytes(record[start:])


def output(record: bytes | memoryview, stream: int) -> str:
    """Return what the call wrote to STDOUT or STDERR, of a complete record; "" of none.

    Raises:
        ResultTampered: The record's output is not what an instance writes.
    """
    if not record:
        return ""
    head = records.HEAD.unpack_from(record)
    try:
        pieces = records.split_output(memoryview(record)[records.HEAD.size + head[9] :])
    except records.RecordError as error:
        raise ResultTampered(f"The output of call {head[0]} cannot be read: {error}. Run the call again.") from error
    return b"".join(data for number, data in pieces if number == stream).decode(errors="replace")


def remote_facts(record: bytes, book: ChunkBook | None, call_index: int) -> dict[str, object]:
    """Return where and how the call ran: seconds, bytes, unix seconds."""
    head = records.HEAD.unpack_from(record)
    facts: dict[str, object] = {
        "status": ("success", "failure", "error")[head[1]],
        "output_truncated": bool(head[2] & records.FLAG_OUTPUT_TRUNCATED),
        "slot": head[3],
        "attempt": head[4],
        "remote_start_timestamp": head[5],
        "remote_run_time": head[6],
        "remote_cpu_time": head[7],
        "remote_peak_rss_bytes": head[8],
    }
    if book is not None:
        facts |= {
            "instance_id": book.own_instances.get(call_index, book.instance_id),
            "delivery": book.delivery,
            "remote_write_timestamp": book.remote_write_timestamp,
        }
    return facts
