"""Manifests, segments and seals: there and back, and never anything but a WireError for other bytes."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_examples import (
    assert_well_formed,
    cuts,
    every_strange,
    json_values,
    manifests,
    spoiled,
    spoiled_json,
)

from wren_worker.errors import WireError
from wren_worker.protocol import jobs
from wren_worker.protocol.envelope import sha256_hex, wrap
from wren_worker.protocol.model import Cut, JobManifest, Limits, Seal, Segment

blobs = st.binary(max_size=40)
cut_lists = st.lists(cuts, max_size=4)


def moved(segment: Segment, shift: int) -> list[Cut]:
    return [dataclasses.replace(cut, offset=cut.offset - shift) for cut in segment.cuts]


@given(cut_lists, blobs)
def test_a_segment_travels_and_its_offsets_count_from_the_object(given_cuts, payload):
    pieces, written = jobs.encode_segment("key", given_cuts, payload)
    data = b"".join(pieces)
    found, body = jobs.decode_segment("key", data)
    assert found == written
    assert bytes(body) == payload
    assert moved(found, len(data) - len(payload)) == given_cuts


@given(st.binary(min_size=1, max_size=40), st.data())
def test_a_cut_is_where_the_segment_says(payload, draw):
    middle = draw.draw(st.integers(0, len(payload)))
    bounds = [(0, middle), (middle, len(payload))]
    given_cuts = [
        Cut(chunk_id=f"{n}", first_call=n, n_calls=1, offset=start, length=end - start, sha256="")
        for n, (start, end) in enumerate(bounds)
    ]
    pieces, segment = jobs.encode_segment("key", given_cuts, payload)
    data = b"".join(pieces)
    assert [data[cut.offset : cut.offset + cut.length] for cut in segment.cuts] == [payload[:middle], payload[middle:]]


@given(manifests, blobs, blobs, blobs, cut_lists)
def test_a_manifest_travels(manifest, function, modules, payload, given_cuts):
    manifest = dataclasses.replace(manifest, modules_sha256=sha256_hex(modules) if modules else "")
    data, written = jobs.encode_manifest(
        "key", manifest, function=function, modules=modules, cuts=given_cuts, payload=payload
    )
    found, found_function, found_modules, tail = jobs.decode_manifest("key", data)
    assert found == manifest
    assert (bytes(found_function), bytes(found_modules)) == (function, modules)
    assert tail == written
    assert moved(tail, len(data) - len(payload)) == given_cuts


@given(st.data(), cut_lists, blobs)
def test_a_spoiled_segment_is_refused_or_well_formed(data, given_cuts, payload):
    check_segment(data.draw(spoiled(b"".join(jobs.encode_segment("key", given_cuts, payload)[0]))))


@given(st.binary() | json_values.map(lambda value: wrap(b"WRNA", {"cuts": value})))
def test_any_bytes_are_no_segment(data):
    check_segment(data)


def test_every_strange_field_of_a_segment_is_refused_or_well_formed():
    cut = Cut(chunk_id="c", first_call=0, n_calls=1, offset=0, length=1, sha256="")
    for header in every_strange({"cuts": [dataclasses.asdict(cut)]}):
        check_segment(wrap(b"WRNA", header, b"x"))


def check_segment(data):
    try:
        segment, body = jobs.decode_segment("key", data)
    except WireError:
        return
    assert_well_formed(segment)
    assert isinstance(body, memoryview)


@given(st.data(), manifests, cut_lists)
def test_a_spoiled_manifest_is_refused_or_well_formed(data, manifest, given_cuts):
    manifest = dataclasses.replace(manifest, modules_sha256=sha256_hex(b"m"))
    check_manifest(data.draw(spoiled(jobs.encode_manifest("key", manifest, function=b"f", modules=b"m")[0])))
    head = dataclasses.asdict(manifest) | {"function_bytes": 1, "modules_bytes": 1, "cuts": []}
    check_manifest(wrap(b"WRNJ", data.draw(spoiled_json(head)), b"fm"))


def test_every_strange_field_of_a_manifest_is_refused_or_well_formed():
    manifest = JobManifest(
        job_id="j", name="", python="", host_submit_timestamp=0.0, limits=Limits(), env={"A": "b"}, meta={"a": 1}
    )
    for header in every_strange(dataclasses.asdict(manifest) | {"function_bytes": 1, "modules_bytes": 1, "cuts": []}):
        check_manifest(wrap(b"WRNJ", header, b"fm"))


@given(st.binary())
def test_any_bytes_are_no_manifest(data):
    check_manifest(data)


def check_manifest(data):
    try:
        manifest, function, modules, tail = jobs.decode_manifest("key", data)
    except WireError:
        return
    assert_well_formed(manifest)
    assert_well_formed(tail)
    assert manifest.n_calls is None or manifest.n_calls >= 0
    assert len(function) + len(modules) <= len(data)


seals = st.builds(Seal, n_calls=st.integers(0, 2**32), n_chunks=st.integers(0, 2**32), n_segments=st.integers(0, 9))


@given(seals)
def test_a_seal_travels(seal):
    assert jobs.decode_seal(jobs.encode_seal(seal)) == seal


@given(st.data(), seals)
def test_a_spoiled_seal_is_refused_or_well_formed(data, seal):
    check_seal(data.draw(spoiled(jobs.encode_seal(seal))))


def test_every_strange_field_of_a_seal_is_refused_or_well_formed():
    for value in every_strange(dataclasses.asdict(Seal(n_calls=1, n_chunks=1, n_segments=1))):
        check_seal(json.dumps(value).encode())


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_no_seal(data):
    check_seal(data)


def test_a_deeply_nested_seal_is_refused():
    with pytest.raises(WireError):
        jobs.decode_seal(b"[" * 100_000)


def check_seal(data):
    try:
        seal = jobs.decode_seal(data)
    except WireError:
        return
    assert_well_formed(seal)
    assert min(seal.n_calls, seal.n_chunks, seal.n_segments) >= 0
