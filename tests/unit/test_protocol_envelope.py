"""The envelope: what it holds comes out; what is no envelope of this version is a WireError."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_examples import json_values, spoiled, texts

from wren_worker.errors import WireError
from wren_worker.protocol import envelope

headers = st.dictionaries(texts, json_values.filter(lambda value: value == value), max_size=4)


@given(st.dictionaries(texts, texts | st.integers(-9, 9), max_size=4), st.lists(st.binary(max_size=9), max_size=3))
def test_header_and_payload_travel(header, parts):
    data = envelope.wrap(b"TEST", header, *parts)
    for form in (data, memoryview(data), bytearray(data)):
        found, payload = envelope.unwrap(b"TEST", form)
        assert (found, bytes(payload)) == (header, b"".join(parts))


@given(st.data(), headers)
def test_a_spoiled_envelope_is_refused_or_an_object(data, header):
    check(data.draw(spoiled(envelope.wrap(b"TEST", header, b"payload"))))


@given(st.binary())
def test_any_bytes_are_refused_or_an_object(data):
    check(data)
    check(struct.pack("<4sBBxx64sI", b"TEST", 1, 0, bytes(64), len(data)) + data)


def check(data):
    try:
        header, payload = envelope.unwrap(b"TEST", data)
    except WireError:
        return
    assert type(header) is dict
    assert len(payload) <= len(data)


def test_another_major_is_named():
    data = bytearray(envelope.wrap(b"TEST", {}))
    data[4] = 2
    with pytest.raises(WireError) as failure:
        envelope.unwrap(b"TEST", data)
    assert failure.value.major == 2


def test_another_kind_of_object_is_refused():
    with pytest.raises(WireError, match="OTHR"):
        envelope.unwrap(b"TEST", envelope.wrap(b"OTHR", {}))


def test_a_header_is_bounded_before_it_is_read():
    data = envelope.wrap(b"TEST", {"a": "x" * envelope.MAX_HEADER_BYTES})
    with pytest.raises(WireError):
        envelope.unwrap(b"TEST", data)
    assert envelope.unwrap(b"TEST", data, header_limit=envelope.MAX_TABLE_BYTES)


def test_a_deeply_nested_header_is_refused():
    text = b"[" * 60_000
    with pytest.raises(WireError):
        envelope.unwrap(b"TEST", struct.pack("<4sBBxx64sI", b"TEST", 1, 0, bytes(64), len(text)) + text)


@pytest.mark.parametrize("value", ["", "a/b", "..", "a b", "-", "é", "a" * 129, None, 7, "a\n", "a.b"])
def test_what_cannot_be_a_key_and_a_file_name_is_no_identifier(value):
    with pytest.raises(WireError):
        envelope.check_identifier(value, "job_id")


@pytest.mark.parametrize("value", [True, "1", None, float("nan"), float("inf"), -float("inf"), 10**400])
def test_what_is_no_number_is_refused(value):
    for kind in (int, float):
        with pytest.raises(WireError):
            envelope.check_number(value, kind)


def test_a_sha256_is_the_same_of_bytes_and_of_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert envelope.sha256_hex(b"abc") == envelope.sha256_file(tmp_path / "file") == digest
