"""Reads one call's outcome record: its value, what it printed, what it took."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from wren_worker.client.resolve import ChunkBook
from wren_worker.errors import ResultTampered, StoreError
from wren_worker.protocol import oob, records
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

#: Fills a buffer with an object's bytes and shows them to a function as they come; False when the object has fewer,
#: None when it is gone.
Fetch = Callable[[str, memoryview, Callable[[memoryview], object]], bool | None]
#: Where in a buffer an outcome's value starts.
_ALIGNED = -(-records.HEAD.size // oob.ALIGNMENT) * oob.ALIGNMENT


def status(record: bytes) -> int:
    """Return SUCCESS, FAILURE or ERROR, of a record that may be without its value."""
    return int(records.HEAD.unpack_from(record)[1])


def is_elsewhere(record: bytes) -> bool:
    """Return whether the value lies in an object of its own."""
    return bool(records.HEAD.unpack_from(record)[2] & records.FLAG_ELSEWHERE)


def complete(record: bytes, fetch: Fetch) -> bytes | memoryview | None:
    """Return the record with value and output in it, fetched if they lie elsewhere; None if that was changed.

    Raises:
        StoreError: They cannot be fetched now.
    """
    fields = list(records.HEAD.unpack_from(record))
    if not fields[2] & records.FLAG_ELSEWHERE:
        return record
    try:
        where = json.loads(record[records.HEAD.size : records.HEAD.size + fields[9]])
        key, length, sha256 = str(where["key"]), int(where["length"]), str(where["sha256"])
        value_bytes = int(where.get("value_bytes", length))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not 0 <= value_bytes <= length:
        return None
    # one buffer for all: the value's own buffers will be views of it, at the alignment that they were stored with
    whole = bytearray(_ALIGNED + length)
    digest = hashlib.sha256()
    there = fetch(key, memoryview(whole)[_ALIGNED:], digest.update)
    if there is None:
        raise StoreError(f"{key} is gone from the bucket: results are kept for a limited time.", key=key)
    if not there or digest.hexdigest() != sha256:
        return None
    fields[2] &= ~records.FLAG_ELSEWHERE
    fields[9], fields[10] = value_bytes, length - value_bytes
    start = _ALIGNED - records.HEAD.size
    records.HEAD.pack_into(whole, start, *fields)
    return memoryview(whole)[start:]


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
    """Return what the call wrote to STDOUT or STDERR, of a complete record; "" of none."""
    if not record:
        return ""
    head = records.HEAD.unpack_from(record)
    pieces = records.split_output(memoryview(record)[records.HEAD.size + head[9] :])
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
