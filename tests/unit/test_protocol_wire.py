"""Chunk messages, result objects and notices: there and back, and never anything but a WireError for other bytes."""

from __future__ import annotations

import base64
import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_examples import (
    assert_well_formed,
    chunks,
    every_strange,
    identifiers,
    json_values,
    outcomes,
    packed_args,
    spoiled,
    spoiled_json,
    texts,
)

from wren_worker.errors import CALL_ERRORS, WireError
from wren_worker.protocol import wire
from wren_worker.protocol.envelope import sha256_hex, unwrap, wrap
from wren_worker.protocol.model import ResultObject, args_key, manifest_key
from wren_worker.protocol.records import HEAD, SUCCESS, pack_record


@st.composite
def results(draw) -> tuple[ResultObject, list[bytes]]:
    first, n_calls = draw(st.integers(0, 2**31)), draw(st.integers(1, 12))
    own = draw(st.none() | st.integers(first, first + n_calls - 1))
    left_out = []
    if own is None:
        bounds = sorted(draw(st.sets(st.integers(first, first + n_calls), max_size=6)))
        left_out = list(zip(bounds[::2], bounds[1::2], strict=False))
    missing = {index for start, end in left_out for index in range(start, end)}
    indexes = [own] if own is not None else [i for i in range(first, first + n_calls) if i not in missing]
    head = ResultObject(
        job_id=draw(identifiers),
        chunk_id=draw(identifiers),
        first_call=first,
        n_calls=n_calls,
        left_out=tuple(left_out),
        call_index=own,
        instance_id=draw(texts),
        delivery=draw(st.integers(1, 20)),
        writer=draw(texts),
        remote_write_timestamp=draw(st.floats(0, 4e9)),
    )
    return head, draw(outcomes(indexes))


@given(st.data(), packed_args())
def test_a_chunk_travels_with_its_arguments(data, args):
    chunk = data.draw(chunks(args))
    assert wire.decode_chunk(wire.encode_chunk(chunk, args)) == (chunk, args, b"")


@given(st.data(), packed_args(), st.binary(min_size=1), st.booleans())
def test_a_manifest_travels_along(data, args, manifest, inline):
    chunk = dataclasses.replace(data.draw(chunks(args)), manifest_sha256=sha256_hex(manifest))
    given_args = args if inline else None
    assert wire.decode_chunk(wire.encode_chunk(chunk, given_args, manifest)) == (chunk, given_args, manifest)


@given(st.data(), packed_args(), st.binary(min_size=1))
def test_a_changed_inline_manifest_is_refused(data, args, manifest):
    chunk = dataclasses.replace(data.draw(chunks(args)), manifest_sha256=sha256_hex(manifest))
    envelope = bytearray(base64.b64decode(wire.encode_chunk(chunk, args, manifest)))
    envelope[-len(args) - data.draw(st.integers(1, len(manifest)))] ^= 1
    with pytest.raises(WireError, match="manifest"):
        wire.decode_chunk(base64.b64encode(envelope).decode())


@given(chunks())
def test_a_chunk_travels_without_its_arguments(chunk):
    assert wire.decode_chunk(wire.encode_chunk(chunk, None)) == (chunk, None, b"")


@given(st.data(), chunks())
def test_a_spoiled_chunk_is_refused_or_well_formed(data, chunk):
    message = base64.b64encode(data.draw(spoiled(base64.b64decode(wire.encode_chunk(chunk, None))))).decode()
    check_chunk(message)


@given(st.data(), chunks())
def test_a_chunk_with_strange_fields_is_refused_or_well_formed(data, chunk):
    header = data.draw(spoiled_json(dataclasses.asdict(chunk) | {"inline": False, "manifest_bytes": 0}))
    check_chunk(base64.b64encode(wrap(b"WRNC", header)).decode())


def test_every_strange_field_of_a_chunk_is_refused_or_well_formed():
    for header in every_strange(dataclasses.asdict(example_chunk(b"")) | {"inline": False, "manifest_bytes": 0}):
        check_chunk(base64.b64encode(wrap(b"WRNC", header)).decode())


@given(st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()))
def test_any_text_is_no_chunk(body):
    check_chunk(body)


def check_chunk(body):
    try:
        chunk, args, _ = wire.decode_chunk(body)
    except WireError:
        return
    assert_well_formed(chunk)
    for name in (chunk.job_id, chunk.chunk_id):
        assert name.isascii()
        assert len(name) <= 128
        assert "/" not in name
    assert args is None or type(args) is bytes


@given(st.data(), packed_args().filter(len))
def test_changed_inline_arguments_are_refused(data, args):
    body = wire.encode_chunk(data.draw(chunks(args)), args)
    envelope = bytearray(base64.b64decode(body))
    envelope[-data.draw(st.integers(1, len(args)))] ^= 1
    with pytest.raises(WireError):
        wire.decode_chunk(base64.b64encode(envelope).decode())


def test_a_message_larger_than_sqs_takes_is_refused():
    args = bytes(1_000_000)
    with pytest.raises(WireError):
        wire.encode_chunk(example_chunk(args), args)


def test_inline_arguments_stay_within_one_billed_request():
    args = bytes(wire.INLINE_ARGS_BYTES)
    assert len(wire.encode_chunk(example_chunk(args), args)) <= 64 * 1024


JOB_ID = wire.new_job_id(1.7e9, bytes(12))


def example_chunk(args):
    return wire.Chunk(
        job_id=JOB_ID,
        chunk_id=wire.new_chunk_id(7),
        first_call=0,
        n_calls=1,
        python="3.11",
        manifest_key=manifest_key(JOB_ID),
        manifest_sha256="0" * 64,
        args=wire.ArgsLocation(key=args_key(JOB_ID, 1), offset=0, length=len(args), sha256=wire.sha256_hex(args)),
        reply_queue="https://sqs.us-east-1.amazonaws.com/123456789012/" + "q" * 80,
        audience="a" * 100,
        host_send_timestamp=1.7e9,
        expiry_timestamp=1.8e9,
    )


@given(st.data())
def test_fields_of_a_newer_minor_are_passed_over(data):
    chunk = data.draw(chunks())
    header, _ = unwrap(b"WRNC", base64.b64decode(wire.encode_chunk(chunk, None)))
    body = base64.b64encode(wrap(b"WRNC", header | {"minor": 9, "news": [1]})).decode()
    assert wire.decode_chunk(body) == (chunk, None, b"")


@given(results())
def test_a_result_travels(result):
    head, records = result
    found, outcomes = wire.decode_result(wire.encode_result(head, records))
    assert found == head
    assert [record for _, record in outcomes] == records


@given(st.data(), results())
def test_a_spoiled_result_is_refused_or_well_formed(data, result):
    check_result(data.draw(spoiled(wire.encode_result(*result))))


@given(st.data(), results())
def test_a_result_with_strange_fields_is_refused_or_well_formed(data, result):
    head, records = result
    check_result(wrap(b"WRNR", data.draw(spoiled_json(dataclasses.asdict(head))), *records))


def test_every_strange_field_of_a_result_is_refused_or_well_formed():
    head = ResultObject(job_id="j", chunk_id="c", first_call=0, n_calls=2, left_out=((1, 2),))
    for header in every_strange(dataclasses.asdict(head)):
        check_result(wrap(b"WRNR", header, pack_record(0, SUCCESS, b"")))


@given(st.binary())
def test_any_bytes_are_no_result(data):
    check_result(data)
    check_result(wrap(b"WRNR", {}, data))


def check_result(data):
    try:
        head, outcomes = wire.decode_result(data)
    except WireError:
        return
    assert_well_formed(head)
    found = [index for index, _ in outcomes]
    assert all(HEAD.unpack_from(record)[0] == index for index, record in outcomes)
    if head.call_index is not None:
        assert found == [head.call_index]
        return
    left_out = [index for start, end in head.left_out for index in range(start, end)]
    assert sorted(found + left_out) == list(range(head.first_call, head.first_call + head.n_calls))


@given(st.data(), results())
def test_a_result_without_or_with_a_doubled_outcome_is_refused(data, result):
    head, records = result
    if not records:
        return
    position = data.draw(st.integers(0, len(records) - 1))
    for wrong in (records[:position] + records[position + 1 :], [*records, records[position]]):
        with pytest.raises(WireError):
            wire.decode_result(wire.encode_result(head, wrong))


notices = st.lists(st.tuples(texts, st.binary(max_size=30)), max_size=5)


@given(notices)
def test_notices_travel(given_notices):
    assert wire.decode_notices(wire.encode_notices(given_notices)) == given_notices


@given(st.data(), notices)
def test_spoiled_notices_are_refused_or_well_formed(data, given_notices):
    raw = data.draw(spoiled(base64.b64decode(wire.encode_notices(given_notices))))
    check_notices(base64.b64encode(raw).decode())


@given(st.text())
def test_any_text_is_no_notice(body):
    check_notices(body)


def check_notices(body):
    try:
        found = wire.decode_notices(body)
    except WireError:
        return
    assert all(type(key) is str and type(data) is bytes for key, data in found)


@given(st.sampled_from(sorted(CALL_ERRORS)), texts, st.dictionaries(identifiers, texts, max_size=3))
def test_an_error_value_travels(kind, message, data):
    data = {f"_{name}": value for name, value in data.items()}
    assert wire.parse_error_value(wire.error_value(kind, message, **data)) == (kind, message, data)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_no_error_value(value):
    check_error_value(value)


@given(st.data())
def test_a_strange_error_value_is_refused_or_well_formed(data):
    value = {"kind": "CallTimeout", "message": "m", "data": {"a": 1}}
    check_error_value(json.dumps(data.draw(spoiled_json(value))).encode())


def test_a_deeply_nested_error_value_is_refused():
    with pytest.raises(WireError):
        wire.parse_error_value(b"[" * 100_000)


def check_error_value(value):
    try:
        kind, message, data = wire.parse_error_value(value)
    except WireError:
        return
    assert type(kind) is type(message) is str
    assert type(data) is dict


def test_ids_sort_in_the_order_of_their_making():
    assert wire.new_chunk_id(9) < wire.new_chunk_id(10) < wire.new_chunk_id(99_999_999)
    assert wire.new_job_id(1.0, b"\xff" * 12) < wire.new_job_id(2.0, bytes(12))
    assert wire.new_job_id(1.0, bytes(12)) != wire.new_job_id(1.0, bytes(11) + b"\x01")
