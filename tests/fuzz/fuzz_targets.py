"""What takes bytes from outside: how a valid input looks, and what must hold of whatever is accepted.

A target's ``take`` returns for an input that is accepted and raises its typed error for one that is refused; any other
exception, an AssertionError too, is a finding.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from fuzz_mutators import spoil_bytes, spoil_json

from wren_worker.client.resolve import parse_result_key
from wren_worker.daemon.calls import CallTable
from wren_worker.errors import WireError
from wren_worker.protocol import frames, jobs, oob, records, wire
from wren_worker.protocol.envelope import sha256_hex, wrap
from wren_worker.protocol.model import (
    MAX_CALLS_PER_CHUNK,
    MAX_CALLS_PER_JOB,
    ArgsLocation,
    Chunk,
    ChunkId,
    Cut,
    JobId,
    JobManifest,
    Limits,
    ResultObject,
    Seal,
    args_key,
    job_prefix,
    manifest_key,
)

__all__ = ["FRAMES", "TARGETS", "WIRE", "Target"]

JOB = JobId("65a0b1c2-00112233445566778899aabb")
ARGS = frames.pack_calls((index, 1, b"x" * index) for index in range(4))
OUTCOMES = [records.pack_record(i, i % 3, b"value", output=records.pack_output(1, b"out\n")) for i in range(4)]
MANIFEST = JobManifest(
    job_id=JOB, name="f", python="3.11", host_submit_timestamp=1.7e9, limits=Limits(), n_calls=4, env={"A": "b"},
    meta={"a": [1]}, modules_sha256=sha256_hex(b"modules"), audience="r/a/q", retry_on=("builtins.OSError",),
)  # fmt: skip
CHUNK = Chunk(
    job_id=JOB, chunk_id=ChunkId("00000000"), first_call=0, n_calls=4, python="3.11", manifest_key=manifest_key(JOB),
    manifest_sha256="0" * 64, reply_queue="https://sqs/123456789012/wren-f-reply-1", audience="r/a/q",
    args=ArgsLocation(key=args_key(JOB, 1), offset=9, length=len(ARGS), sha256=sha256_hex(ARGS)),
    host_send_timestamp=1.7e9, expiry_timestamp=1.8e9,
)  # fmt: skip
RESULT = ResultObject(job_id=JOB, chunk_id=ChunkId("00000000"), first_call=0, n_calls=4, instance_id="i-1")
CUT = Cut(chunk_id=ChunkId("00000000"), first_call=0, n_calls=4, offset=0, length=len(ARGS), sha256=sha256_hex(ARGS))


@dataclass(frozen=True, slots=True)
class Target:
    """``make`` returns an input, most often a spoiled one; ``take`` is what it is given to."""

    name: str
    make: Callable[[Random], bytes]
    take: Callable[[bytes], None]
    refusals: tuple[type[Exception], ...]


def _blindly(*seeds: bytes) -> Callable[[Random], bytes]:
    return lambda random: spoil_bytes(random.choice(seeds), random, seeds)


def _enveloped(magic: bytes, header: dict[str, Any], *payload: bytes) -> Callable[[Random], bytes]:
    whole = wrap(magic, header, *payload)
    head, body = whole[:72], b"".join(payload)

    def make(random: Random) -> bytes:
        if random.random() < 0.4:
            return spoil_bytes(whole, random, (whole, ARGS))
        text = spoil_json(header, random)
        tail = body if random.random() < 0.8 else spoil_bytes(body, random, (whole, ARGS))
        return head + len(text).to_bytes(4, "little") + text + tail

    return make


def _either(*ways: Callable[[Random], bytes]) -> Callable[[Random], bytes]:
    return lambda random: random.choice(ways)(random)


def _finite(value: Any) -> None:
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _finite(getattr(value, field.name))
    elif isinstance(value, float):
        assert math.isfinite(value)
    elif isinstance(value, str):
        value.encode()


def _take_chunk(data: bytes) -> None:
    # most inputs are spoiled beneath the base64; it is spoiled itself by the marked ones
    body = data[1:].decode("latin-1") if data[:1] == b"\xff" else base64.b64encode(data).decode()
    chunk, inline, manifest = wire.decode_chunk(body)
    _finite(chunk)
    assert chunk.n_calls <= MAX_CALLS_PER_CHUNK
    assert 0 <= chunk.first_call < chunk.first_call + chunk.n_calls <= MAX_CALLS_PER_JOB
    assert chunk.manifest_key.startswith(job_prefix(chunk.job_id))
    assert chunk.args.key.startswith(job_prefix(chunk.job_id))
    assert "/" not in chunk.job_id + chunk.chunk_id
    assert ".." not in chunk.manifest_key + chunk.args.key
    assert inline is None or sha256_hex(inline) == chunk.args.sha256
    assert wire.decode_chunk(wire.encode_chunk(chunk, inline, manifest)) == (chunk, inline, manifest)


def _take_result(data: bytes) -> None:
    result, outcomes = wire.decode_result(data)
    _finite(result)
    calls = [index for index, _ in outcomes]
    assert len(set(calls)) == len(calls)
    assert all(result.first_call <= index < result.first_call + result.n_calls for index in calls)
    if result.call_index is None:
        left = {index for first, end in result.left_out for index in range(first, end)}
        assert left.isdisjoint(calls)
        assert len(left) + len(calls) == result.n_calls
    again, same = wire.decode_result(wire.encode_result(result, [record for _, record in outcomes]))
    assert repr((again, same)) == repr((result, outcomes))


def _take_notices(data: bytes) -> None:
    body = data[1:].decode("latin-1") if data[:1] == b"\xff" else base64.b64encode(data).decode()
    notices = wire.decode_notices(body)
    assert wire.decode_notices(wire.encode_notices(notices)) == notices
    for key, _ in notices:
        place = parse_result_key(key)
        assert place is None or key.startswith(f"results/{place[0]}/")


def _take_manifest(data: bytes) -> None:
    manifest, function, modules, segment = jobs.decode_manifest("k", data)
    assert manifest.modules_sha256 == (sha256_hex(modules) if modules else "")
    assert len(function) + len(modules) <= len(data)
    again = jobs.encode_manifest("k", manifest, function=bytes(function), modules=bytes(modules))[0]
    assert jobs.decode_manifest("k", again)[0] == manifest or "NaN" in again.decode("latin-1")
    jobs.check_cuts(segment, len(data))
    assert 12 * segment.n_calls <= len(data)


def _take_segment(data: bytes) -> None:
    segment, _ = jobs.decode_segment("k", data)
    jobs.check_cuts(segment, len(data))
    calls = [index for cut in segment.cuts for index in (cut.first_call, cut.first_call + cut.n_calls)]
    assert calls == sorted(calls)
    assert 12 * segment.n_calls <= len(data)


def _take_seal(data: bytes) -> None:
    seal = jobs.decode_seal(data)
    assert jobs.decode_seal(jobs.encode_seal(seal)) == seal


def _take_error(data: bytes) -> None:
    kind, message, facts = wire.parse_error_value(data)
    json.dumps([kind, message])
    assert not {"self", "message", "args"} & facts.keys()


def _take_frames(data: bytes) -> None:
    reader = frames.FrameReader(limit=4096)
    found = []
    for start in range(0, len(data), 97):  # as a socket brings them
        found += list(reader.feed(data[start : start + 97]))
    assert all(len(body) <= 4096 for _, body in found)
    whole = b"".join(frames.pack_frame(kind, body) for kind, body in found)
    assert len(whole) <= len(data)
    assert list(frames.FrameReader(limit=4096).feed(whole)) == found


def _take_calls(data: bytes) -> None:
    calls = frames.split_calls(data)
    assert list(frames.split_calls(frames.pack_calls(calls))) == calls
    indexes, lengths = frames.call_columns(data)
    assert [(i, len(blob)) for i, _, blob in calls] == list(zip(indexes, lengths, strict=True))
    CallTable.read(data, n_bytes=len(data), first_call=0, n_calls=len(calls) or 1)


def _take_sections(data: bytes) -> None:
    _, sections = frames.split_sections(data)
    assert sum(map(len, sections)) <= len(data)


def _take_records(data: bytes) -> None:
    end = 0
    for start, stop, head in records.iter_records(data):
        assert start == end
        end = stop
        output = data[stop - head[10] : stop]
        pieces = records.split_output(output)
        assert len(b"".join(records.pack_output(stream, text) for stream, text in pieces)) == len(output)
    assert end == len(data)


def _take_oob(data: bytes) -> None:
    assert sum(map(len, oob.take_apart(data))) <= len(data)


def _marked(make: Callable[[Random], bytes]) -> Callable[[Random], bytes]:
    """Spoil what is in base64, and now and then the base64 itself."""

    def made(random: Random) -> bytes:
        data = make(random)
        if random.random() < 0.1:
            return b"\xff" + spoil_bytes(base64.b64encode(data), random, (b"=", b"\n", b"\x80"))
        return data

    return made


_MANIFEST_HEADER = dataclasses.asdict(MANIFEST) | {
    "function_bytes": 8, "modules_bytes": 7, "cuts": [dataclasses.asdict(CUT)],
}  # fmt: skip
_NOTICES = base64.b64decode(wire.encode_notices([("results/j/00000001", b"data"), ("results/j/00000002/7", b"")]))
_LAID_OUT = b"".join(bytes(piece) for piece in oob.lay_out([b"pickle"], [memoryview(b"a" * 70), memoryview(b"b")]))
_HEADER = dataclasses.asdict(CHUNK) | {"minor": 0, "inline": True}
_SEAL = dataclasses.asdict(Seal(n_calls=3, n_chunks=2, n_segments=1))
_ERROR = {"kind": "SlotCrashed", "message": "m", "data": {"exit_code": 1, "attempts": 3}}
_STREAM = b"".join(frames.pack_frame(kind, ARGS) for kind in frames.Kind)

_WIRE, _FRAME = (WireError,), (frames.FrameError,)
WIRE = (
    Target("chunk", _marked(_enveloped(b"WRNC", _HEADER, ARGS)), _take_chunk, _WIRE),
    Target(
        "result",
        _either(
            _enveloped(b"WRNR", dataclasses.asdict(RESULT), *OUTCOMES),
            _enveloped(b"WRNR", dataclasses.asdict(RESULT) | {"left_out": [[0, 2]]}, *OUTCOMES[2:]),
            _enveloped(b"WRNR", dataclasses.asdict(RESULT) | {"call_index": 1}, OUTCOMES[1]),
        ),
        _take_result,
        _WIRE,
    ),
    Target("notices", _marked(_blindly(_NOTICES)), _take_notices, _WIRE),
    Target("manifest", _enveloped(b"WRNJ", _MANIFEST_HEADER, b"functionmodules", ARGS), _take_manifest, _WIRE),
    Target("segment", _enveloped(b"WRNA", {"cuts": [dataclasses.asdict(CUT)]}, ARGS), _take_segment, _WIRE),
    Target("seal", lambda random: spoil_json(_SEAL, random), _take_seal, _WIRE),
    Target("error", lambda random: spoil_json(_ERROR, random), _take_error, _WIRE),
)
FRAMES = (
    Target("frames", _blindly(_STREAM), _take_frames, _FRAME),
    Target("calls", _blindly(ARGS), _take_calls, _FRAME),
    Target("sections", _blindly(frames.join_sections({"a": 1}, [b"abc", b"d"])), _take_sections, _FRAME),
    Target("records", _blindly(b"".join(OUTCOMES), OUTCOMES[0]), _take_records, (records.RecordError,)),
    Target("oob", _blindly(_LAID_OUT), _take_oob, (oob.OobError,)),
)
TARGETS = WIRE + FRAMES
