"""Valid values of the protocol, ways to spoil their bytes, and what a decoder may return."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterator

from hypothesis import strategies as st

from wren_worker.protocol.envelope import sha256_hex
from wren_worker.protocol.frames import pack_calls
from wren_worker.protocol.model import ArgsLocation, Chunk, Cut, JobManifest, Limits, args_key, manifest_key
from wren_worker.protocol.records import ERROR, pack_record

STRANGE = (math.nan, math.inf, -1, 0, 10**400, True, None, "", "é" * 128, "../x", "a/b", 1.5, [], {}, [[]])

identifiers = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=30).filter(lambda s: s.strip("-"))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
instants = st.floats(0, 4e9)

limits = st.builds(
    Limits,
    timeout=st.floats(0.1, 1e6) | st.integers(1, 40_000),
    retries=st.integers(0, 9),
    max_attempts=st.integers(1, 9),
    max_deliveries=st.integers(1, 30),
)


@st.composite
def packed_args(draw) -> bytes:
    blobs = draw(st.lists(st.binary(max_size=20), max_size=4))
    return pack_calls((index, 1, blob) for index, blob in enumerate(blobs))


@st.composite
def chunks(draw, args: bytes | None = None) -> Chunk:
    job_id = draw(identifiers)
    location = ArgsLocation(
        key=draw(st.sampled_from([manifest_key(job_id), args_key(job_id, 1), args_key(job_id, 1_000_000)])),
        offset=draw(st.integers(0, 2**40)),
        length=draw(st.integers(0, 2**40)) if args is None else len(args),
        sha256=draw(texts) if args is None else sha256_hex(args),
    )
    return Chunk(
        job_id=job_id,
        chunk_id=draw(identifiers),
        first_call=draw(st.integers(0, 2**31)),
        n_calls=draw(st.integers(1, 100_000)),
        python=draw(texts),
        manifest_key=manifest_key(job_id),
        manifest_sha256=draw(texts),
        args=location,
        reply_queue=draw(texts),
        audience=draw(texts),
        host_send_timestamp=draw(instants),
        expiry_timestamp=draw(instants),
        limits=draw(limits),
        runtime=draw(texts),
        job_key=draw(texts),
        resent=draw(st.integers(0, 5)),
    )


cuts = st.builds(
    Cut,
    chunk_id=identifiers,
    first_call=st.integers(0, 2**31),
    n_calls=st.integers(1, 100_000),
    offset=st.integers(0, 2**33),
    length=st.integers(0, 2**33),
    sha256=texts,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)

manifests = st.builds(
    JobManifest,
    job_id=identifiers,
    name=texts,
    python=texts,
    host_submit_timestamp=instants,
    limits=limits,
    n_calls=st.none() | st.integers(0, 2**31),
    env=st.dictionaries(
        texts.filter(lambda name: name and "=" not in name and "\0" not in name),
        texts.filter(lambda value: "\0" not in value),
        max_size=3,
    ),
    meta=st.dictionaries(texts, texts | st.integers(0, 9) | st.none(), max_size=3),
    audience=texts,
    reply_queue=texts,
)


@st.composite
def outcomes(draw, indexes: list[int]) -> list[bytes]:
    """Return one record per index, in any order."""
    return [
        pack_record(index, draw(st.integers(0, ERROR)), draw(st.binary(max_size=9)), output=draw(st.binary(max_size=9)))
        for index in draw(st.permutations(indexes))
    ]


@st.composite
def spoiled(draw, data: bytes) -> bytes:
    """Return the bytes with some changed, cut out, put in or doubled."""
    spoil = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(spoil)))
        end = min(len(spoil), start + draw(st.integers(0, 9)))
        match draw(st.integers(0, 3)):
            case 0:
                spoil[start:end] = draw(st.binary(max_size=9))
            case 1:
                del spoil[start:]
            case 2:
                spoil[start:start] = spoil[start:end]
            case _:
                if start < len(spoil):
                    spoil[start] ^= 1 << draw(st.integers(0, 7))
    return bytes(spoil)


@st.composite
def spoiled_json(draw, value: dict[str, object]) -> dict[str, object]:
    """Return the object with fields anywhere in it left out, replaced, or added."""
    spoil = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        place: typing.Any = spoil
        while isinstance(place, (dict, list)) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            inner = place[key]
            if isinstance(inner, (dict, list)) and inner and draw(st.booleans()):
                place = inner
                continue
            if draw(st.integers(0, 3)):
                place[key] = copy.deepcopy(draw(st.sampled_from(STRANGE) | json_values))
            else:
                del place[key]
            break
    return spoil


def every_strange(value: dict[str, object]) -> Iterator[dict[str, object]]:
    """Yield the object once for each field in it, at any depth, and each strange value that the field could have."""

    def places(inner: typing.Any, path: tuple[typing.Any, ...]) -> Iterator[tuple[typing.Any, ...]]:
        for key in list(inner) if isinstance(inner, dict) else range(len(inner)):
            yield (*path, key)
            if isinstance(inner[key], (dict, list)):
                yield from places(inner[key], (*path, key))

    text = json.dumps(value)
    for *way, last in places(json.loads(text), ()):
        for strange in STRANGE:
            spoil = json.loads(text)
            place = spoil
            for step in way:
                place = place[step]
            place[last] = copy.deepcopy(strange)
            yield spoil


def assert_well_formed(value: object, kind: object = None) -> None:
    """Check that a decoded dataclass holds what its annotations say, with finite numbers, all the way down."""
    kind = kind or type(value)
    kind = getattr(kind, "__supertype__", kind)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        assert any(_fits(value, each) for each in inner), (value, kind)
    elif origin is tuple:
        assert isinstance(value, tuple)
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        for item, each in zip(value, kinds, strict=True):
            assert_well_formed(item, each)
    elif origin is dict:
        assert isinstance(value, dict)
        for key, item in value.items():
            assert_well_formed(key, inner[0])
            assert_well_formed(item, inner[1])
    elif dataclasses.is_dataclass(kind):
        assert isinstance(value, kind)
        for name, each in typing.get_type_hints(kind).items():
            assert_well_formed(getattr(value, name), each)
    elif kind is float:
        assert type(value) in (int, float), value
        assert math.isfinite(value)
    elif kind is not object:
        assert type(value) is kind, (value, kind)


def _fits(value: object, kind: object) -> bool:
    try:
        assert_well_formed(value, kind)
    except AssertionError:
        return False
    return True
