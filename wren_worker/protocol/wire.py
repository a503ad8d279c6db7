"""What travels through SQS, and the result object, <-> bytes: chunk message, result object, notices.

See ``envelope`` for the layout they share; nothing here unpickles.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from wren_worker.errors import WireError
from wren_worker.protocol import records
from wren_worker.protocol.envelope import (
    WIRE_MINOR,
    build,
    check_identifier,
    check_number,
    check_range,
    check_text,
    known,
    parse_object,
    read_limits,
    sha256_hex,
    unwrap,
    wrap,
)
from wren_worker.protocol.model import (
    MAX_CALLS_PER_CHUNK,
    ArgsLocation,
    Chunk,
    ChunkId,
    JobId,
    ResultObject,
    is_args_key,
    manifest_key,
)

__all__ = [
    "INLINE_ARGS_BYTES",
    "MAX_MESSAGE_BYTES",
    "MAX_RANGES_BYTES",
    "decode_chunk",
    "decode_notices",
    "decode_result",
    "encode_chunk",
    "encode_notices",
    "encode_result",
    "error_value",
    "new_chunk_id",
    "new_job_id",
    "parse_error_value",
]

#: Source: SQS SendMessageBatch, read 2026-11: 1,048,576 bytes for a message and for a batch together.
MAX_MESSAGE_BYTES = 1_048_576
#: SQS bills each 64 KB of payload as a request; base64 of this many bytes and a header stay within one.
INLINE_ARGS_BYTES = 44 * 1024

#: The header of a result object lists ranges: at worst one for every other call of the largest chunk.
MAX_RANGES_BYTES = 4 * 1024 * 1024

#: What an error of ours is told by may not take the place of what every error has.
_RESERVED = frozenset({"self", "message", "args"})

_CHUNK, _RESULT = b"WRNC", b"WRNR"
_NOTICE = struct.Struct("<HI")


def encode_chunk(chunk: Chunk, args: bytes | memoryview | None, manifest: bytes = b"") -> str:
    """Return the SQS body of a chunk.

    Args:
        chunk: What the message is about.
        args: Its argument bytes when they travel inline, else None.
        manifest: The job's manifest object when it travels along, so that nobody has to wait for S3, else b"".

    Raises:
        WireError: The message would be larger than SQS takes.
    """
    header = asdict(chunk) | {"minor": WIRE_MINOR, "inline": args is not None}
    if manifest:
        header["manifest_bytes"] = len(manifest)
    body = base64.b64encode(wrap(_CHUNK, header, manifest, args if args is not None else b"")).decode("ascii")
    if len(body) > MAX_MESSAGE_BYTES:
        raise WireError(f"a chunk message of {len(body)} bytes is larger than SQS takes")
    return body


def decode_chunk(body: str) -> tuple[Chunk, bytes | None, bytes]:
    """Return the chunk of an SQS body, its argument bytes or None, and the job's manifest object or b"".

    What travels inline has been checked by its sha256.

    Raises:
        WireError: The body is not a chunk message of this wire major.
    """
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError("the message is not base64") from error
    header, payload = unwrap(_CHUNK, data)
    values = known(Chunk, header)
    check_text(values, "python", "manifest_key", "manifest_sha256", "reply_queue", "audience", "runtime", "job_key")
    check_identifier(values.get("job_id"), "job_id")
    check_identifier(values.get("chunk_id"), "chunk_id")
    values["limits"] = read_limits(values.get("limits", {}))
    if not isinstance(values.get("args"), dict):
        raise WireError("args are not an object")
    location = known(ArgsLocation, values["args"])
    check_text(location, "key", "sha256")
    values["args"] = args = build(ArgsLocation, location, {"offset": int, "length": int})
    chunk: Chunk = build(
        Chunk,
        values,
        {"first_call": int, "n_calls": int, "host_send_timestamp": float, "expiry_timestamp": float},
    )
    check_number(chunk.resent, int)
    check_range(chunk.first_call, chunk.n_calls, MAX_CALLS_PER_CHUNK)
    if chunk.resent < 0:
        raise WireError("a chunk was sent again less than never")
    if args.offset < 0 or args.length < 0:
        raise WireError("args lie outside their object")
    # a job's messages point nowhere but into the job
    if chunk.manifest_key != manifest_key(chunk.job_id) or not is_args_key(chunk.job_id, args.key):
        raise WireError("the message names objects that are not its job's")
    n_manifest = header.get("manifest_bytes", 0)
    check_number(n_manifest, int)
    if not 0 <= n_manifest <= len(payload):
        raise WireError("the manifest does not fit")
    manifest = bytes(payload[:n_manifest])
    if manifest and sha256_hex(manifest) != chunk.manifest_sha256:
        raise WireError("the inline manifest does not match its sha256")
    if not header.get("inline"):
        return chunk, None, manifest
    inline = bytes(payload[n_manifest:])
    if len(inline) != args.length or sha256_hex(inline) != args.sha256:
        raise WireError("the inline arguments do not match their sha256")
    return chunk, inline, manifest


def encode_result(result: ResultObject, outcomes: Iterable[bytes | memoryview]) -> bytes:
    """Return the bytes of a result object from outcome records (see ``records``)."""
    return wrap(_RESULT, asdict(result) | {"minor": WIRE_MINOR}, *outcomes)


def decode_result(data: bytes | memoryview) -> tuple[ResultObject, list[tuple[int, bytes]]]:
    """Return the head of a result object and its outcome records by call index, still packed.

    Every call of the chunk (or the one call of an own key) is either left out or has exactly one record.

    Raises:
        WireError: The bytes are not a result object, or its calls do not add up.
    """
    header, body = unwrap(_RESULT, data, header_limit=MAX_RANGES_BYTES)
    values = known(ResultObject, header)
    check_identifier(values.get("job_id"), "job_id")
    check_identifier(values.get("chunk_id"), "chunk_id")
    check_text(values, "instance_id", "writer")
    ranges = values.get("left_out", ())
    if not isinstance(ranges, (list, tuple)) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(item) is int for item in pair) for pair in ranges
    ):
        raise WireError("left_out is not a list of ranges")
    values["left_out"] = tuple((first, end) for first, end in ranges)
    if values.get("call_index") is not None:
        check_number(values["call_index"], int)
    result: ResultObject = build(ResultObject, values, {"first_call": int, "n_calls": int})
    check_number(result.delivery, int)
    check_number(result.remote_write_timestamp, float)
    check_range(result.first_call, result.n_calls, MAX_CALLS_PER_CHUNK)
    packed = bytes(body)
    try:
        outcomes = [(head[0], packed[start:end]) for start, end, head in records.iter_records(packed)]
    except records.RecordError as error:
        raise WireError(f"the outcomes are malformed: {error}") from error
    _check_cover(result, [index for index, _ in outcomes])
    return result, outcomes


def _check_cover(result: ResultObject, found: list[int]) -> None:
    first, end = result.first_call, result.first_call + result.n_calls
    if result.call_index is not None:
        if found != [result.call_index] or not first <= result.call_index < end:
            raise WireError("an own key must hold exactly its call")
        return
    unique = set(found)
    n_left_out, previous = 0, first
    for start, stop in result.left_out:
        if not previous <= start < stop <= end or not unique.isdisjoint(range(start, stop)):
            raise WireError("the calls left out do not fit the chunk")
        n_left_out += stop - start
        previous = stop
    if len(unique) != len(found) or len(found) + n_left_out != result.n_calls:
        raise WireError("the outcomes do not cover the chunk")
    if found and not (first <= min(found) and max(found) < end):
        raise WireError("an outcome lies outside the chunk")


def encode_notices(notices: Iterable[tuple[str, bytes]]) -> str:
    """Return a reply message from ``(result key, result object or b"" when it is to be fetched)``."""
    pieces: list[bytes] = []
    for key, data in notices:
        name = key.encode()
        pieces += (_NOTICE.pack(len(name), len(data)), name, data)
    return base64.b64encode(b"".join(pieces)).decode("ascii")


def decode_notices(body: str) -> list[tuple[str, bytes]]:
    """Return the ``(result key, result object or b"")`` of a reply message.

    Raises:
        WireError: The body is not a run of notices.
    """
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError("the notice is not base64") from error
    notices, position = [], 0
    while position < len(data):
        if len(data) - position < _NOTICE.size:
            raise WireError("a notice is cut short")
        n_name, n_data = _NOTICE.unpack_from(data, position)
        middle = position + _NOTICE.size + n_name
        position = middle + n_data
        if position > len(data):
            raise WireError("a notice does not fit")
        try:
            notices.append((data[middle - n_name : middle].decode(), data[middle:position]))
        except UnicodeDecodeError as error:
            raise WireError("a notice's key is not text") from error
    return notices


def error_value(kind: str, message: str, **data: object) -> bytes:
    """Return the value bytes of an outcome of status ERROR: a class name of ``errors.CALL_ERRORS``, text, facts."""
    return json.dumps({"kind": kind, "message": message, "data": data}).encode()


def parse_error_value(value: bytes) -> tuple[str, str, dict[str, Any]]:
    """Return ``(kind, message, data)`` of ``error_value``.

    Raises:
        WireError: The bytes are not an error value.
    """
    values = parse_object(value, "the error outcome")
    kind, message, data = values.get("kind"), values.get("message"), values.get("data", {})
    if not isinstance(kind, str) or not isinstance(message, str) or not isinstance(data, dict):
        raise WireError("the error outcome is malformed")
    if not _RESERVED.isdisjoint(data) or any(name.startswith("__") for name in data):
        raise WireError("the error outcome's facts have names that are taken")
    return kind, message, data


def new_chunk_id(number: int) -> ChunkId:
    """Return the id of the ``number``-th chunk a job sends; ids sort in the order of sending."""
    return ChunkId(f"{number:08d}")


def new_job_id(timestamp: float, entropy: bytes) -> JobId:
    """Return a job id that sorts by time: unix seconds in hex, then 12 bytes of entropy in hex."""
    return JobId(f"{int(timestamp):08x}-{entropy[:12].hex()}")
