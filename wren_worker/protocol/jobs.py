"""What a client stores for a job in S3 <-> bytes: the manifest, argument segments, the seal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from wren_worker.errors import WireError
from wren_worker.protocol.envelope import (
    MAX_TABLE_BYTES,
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
from wren_worker.protocol.frames import CALL, CALL_COUNT
from wren_worker.protocol.model import MAX_CALLS_PER_CHUNK, Cut, JobManifest, Seal, Segment

__all__ = [
    "check_cuts",
    "decode_manifest",
    "decode_seal",
    "decode_segment",
    "encode_manifest",
    "encode_seal",
    "encode_segment",
]

_MANIFEST, _SEGMENT = b"WRNJ", b"WRNA"


def _place_cuts(cuts: Iterable[Cut], shift: int) -> list[dict[str, Any]]:
    return [asdict(cut) | {"offset": cut.offset + shift} for cut in cuts]


def _read_cuts(values: object) -> tuple[Cut, ...]:
    if not isinstance(values, list):
        raise WireError("cuts are not a list")
    cuts: list[Cut] = []
    numbers: dict[str, type] = dict.fromkeys(("first_call", "n_calls", "offset", "length"), int)
    for value in values:
        if not isinstance(value, dict):
            raise WireError("a cut is not an object")
        fields = known(Cut, value)
        check_text(fields, "sha256")
        check_identifier(fields.get("chunk_id"), "chunk_id")
        cut: Cut = build(Cut, fields, numbers)
        check_range(cut.first_call, cut.n_calls, MAX_CALLS_PER_CHUNK)
        if cut.offset < 0 or cut.length < 0:
            raise WireError("a cut lies outside its object")
        cuts.append(cut)
    return tuple(cuts)


def encode_segment(
    key: str, cuts: Sequence[Cut], payload: bytes | memoryview
) -> tuple[list[bytes | memoryview], Segment]:
    """Return the pieces of a segment object and its segment, with offsets counted from the object's start.

    Args:
        key: The S3 key it will have.
        cuts: Chunks with offsets counted from the start of ``payload``.
        payload: The chunks' argument bytes in a row.
    """
    head = wrap(_SEGMENT, {"cuts": _place_cuts(cuts, 0)})
    shift = len(head)
    return [head, payload], Segment(key=key, cuts=tuple(replace(cut, offset=cut.offset + shift) for cut in cuts))


def decode_segment(key: str, data: bytes | memoryview) -> tuple[Segment, memoryview]:
    """Return the segment of an object's bytes (offsets from the object's start) and its payload.

    Raises:
        WireError: The bytes are not a segment.
    """
    header, payload = unwrap(_SEGMENT, data, header_limit=MAX_TABLE_BYTES)
    shift = len(data) - len(payload)
    cuts = _read_cuts(header.get("cuts"))
    return Segment(key=key, cuts=tuple(replace(cut, offset=cut.offset + shift) for cut in cuts)), payload


def encode_manifest(
    key: str,
    manifest: JobManifest,
    *,
    function: bytes,
    modules: bytes,
    cuts: Sequence[Cut] = (),
    payload: bytes | memoryview = b"",
) -> tuple[bytes, Segment]:
    """Return the bytes of a manifest object and the segment that its tail is (offsets from the object's start)."""
    header = asdict(manifest) | {
        "minor": WIRE_MINOR,
        "function_bytes": len(function),
        "modules_bytes": len(modules),
        "cuts": _place_cuts(cuts, 0),
    }
    data = wrap(_MANIFEST, header, function, modules, payload)
    shift = len(data) - len(payload)
    return data, Segment(key=key, cuts=tuple(replace(cut, offset=cut.offset + shift) for cut in cuts))


def decode_manifest(key: str, data: bytes | memoryview) -> tuple[JobManifest, memoryview, memoryview, Segment]:
    """Return a manifest, its function bytes, its module archive and the segment that its tail is.

    Raises:
        WireError: The bytes are not a manifest.
    """
    header, payload = unwrap(_MANIFEST, data, header_limit=MAX_TABLE_BYTES)
    values = known(JobManifest, header)
    check_text(values, "name", "python", "modules_sha256", "audience", "reply_queue")
    check_identifier(values.get("job_id"), "job_id")
    values["limits"] = read_limits(values.get("limits", {}))
    if values.get("n_calls") is not None:
        check_number(values["n_calls"], int)
        if values["n_calls"] < 0:
            raise WireError("the job has less than no calls")
    env, meta = values.get("env", {}), values.get("meta", {})
    if not isinstance(env, dict) or not all(_is_variable(name, value) for name, value in env.items()):
        raise WireError("env is not what an environment can hold")
    if not isinstance(meta, dict):
        raise WireError("meta is not an object")
    retry_on = values.get("retry_on", [])
    if not isinstance(retry_on, list) or not all(isinstance(name, str) for name in retry_on):
        raise WireError("retry_on is not a list of names")
    values["retry_on"] = tuple(retry_on)
    manifest: JobManifest = build(JobManifest, values, {"host_submit_timestamp": float})
    lengths = header.get("function_bytes"), header.get("modules_bytes")
    for length in lengths:
        check_number(length, int)
    n_function, n_modules = int(lengths[0] or 0), int(lengths[1] or 0)
    if n_function < 0 or n_modules < 0 or n_function + n_modules > len(payload):
        raise WireError("the manifest's sections do not fit")
    # it also names the folder that the modules are unpacked into
    modules = payload[n_function : n_function + n_modules]
    if manifest.modules_sha256 != (sha256_hex(modules) if n_modules else ""):
        raise WireError("the modules do not match their sha256")
    shift = len(data) - len(payload) + n_function + n_modules
    cuts = _read_cuts(header.get("cuts"))
    segment = Segment(key=key, cuts=tuple(replace(cut, offset=cut.offset + shift) for cut in cuts))
    return manifest, payload[:n_function], modules, segment


def _is_variable(name: str, value: object) -> bool:
    if not isinstance(value, str) or not name or "=" in name or "\0" in name + value:
        return False
    try:
        os.fsencode(name + value)
    except UnicodeEncodeError:
        return False
    return True


def check_cuts(segment: Segment, n_bytes: int) -> None:
    """Refuse a segment whose chunks do not lie in its object one behind the other, each with room for its calls.

    Args:
        segment: As decoded.
        n_bytes: How large its object is.

    Raises:
        WireError: They overlap, lie outside, or hold more calls than they have bytes for.
    """
    end, next_call = 0, 0
    for cut in segment.cuts:
        if cut.offset < end or cut.first_call < next_call or not cut.chunk_id.isdecimal():
            raise WireError("the segment's chunks overlap")
        end, next_call = cut.offset + cut.length, cut.first_call + cut.n_calls
        if end > n_bytes or cut.length < CALL_COUNT.size + CALL.size * cut.n_calls:
            raise WireError("the segment's chunks do not fit their object")


def encode_seal(seal: Seal) -> bytes:
    """Return the bytes of a job's seal."""
    return json.dumps(asdict(seal)).encode()


def decode_seal(data: bytes) -> Seal:
    """Return the seal of an object's bytes.

    Raises:
        WireError: The bytes are not a seal.
    """
    values = parse_object(data, "the seal")
    seal: Seal = build(Seal, known(Seal, values), dict.fromkeys(("n_calls", "n_chunks", "n_segments"), int))
    if min(seal.n_calls, seal.n_chunks, seal.n_segments) < 0:
        raise WireError("the seal counts less than nothing")
    return seal
