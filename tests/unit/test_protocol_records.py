"""Outcome records and output: there and back, and never anything but a RecordError for other bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_examples import spoiled

from wren_worker.protocol import records
from wren_worker.protocol.model import OutcomeStatus
from wren_worker.protocol.records import RecordError

facts = st.fixed_dictionaries(
    {
        "output": st.binary(max_size=20),
        "flags": st.integers(0, 3),
        "slot": st.integers(0, 2**16 - 1),
        "attempt": st.integers(0, 2**16 - 1),
        "start_timestamp": st.floats(0, 4e9),
        "run_time": st.floats(0, 4e9),
        "cpu_time": st.floats(0, 4e9),
        "peak_rss_bytes": st.integers(0, 2**64 - 1),
    }
)
record_lists = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2), st.binary(max_size=20), facts))
outputs = st.lists(st.tuples(st.sampled_from([records.STDOUT, records.STDERR]), st.binary(max_size=9)), max_size=5)


def pack(given_records):
    return b"".join(records.pack_record(index, status, value, **more) for index, status, value, more in given_records)


@given(record_lists)
def test_records_travel(given_records):
    data = pack(given_records)
    found = list(records.iter_records(memoryview(data)))
    assert [head[:3] for _, _, head in found] == [
        (index, status, more["flags"]) for index, status, _, more in given_records
    ]
    assert [data[start:end] for start, end, *_ in found] == [pack([each]) for each in given_records]


@given(st.integers(0, 2**32 - 1), st.integers(0, 2), st.binary(max_size=9), facts)
def test_a_head_holds_every_fact(index, status, value, more):
    data = records.pack_record(index, status, value, **more)
    head = records.HEAD.unpack_from(data)
    expected = [more[name] for name in ("flags", "slot", "attempt", "start_timestamp", "run_time", "cpu_time")]
    expected += [more["peak_rss_bytes"], len(value), len(more["output"])]
    assert list(head) == [index, status, *expected]
    assert (data[records.STATUS_AT], data[records.FLAGS_AT]) == (status, more["flags"])
    assert int.from_bytes(data[records.LENGTHS_AT :][:8], "little") == len(value)
    assert int.from_bytes(data[records.LENGTHS_AT + 8 :][:4], "little") == len(more["output"])
    assert data[records.HEAD.size :] == value + more["output"]


@given(st.data(), record_lists)
def test_spoiled_records_are_refused_or_records(data, given_records):
    check_records(data.draw(spoiled(pack(given_records))))


@given(st.binary())
def test_any_bytes_are_refused_or_records(data):
    check_records(data)


def check_records(data):
    try:
        found = list(records.iter_records(data))
    except RecordError:
        return
    assert sum(end - start for start, end, *_ in found) == len(data)
    assert all(head[1] in (0, 1, 2) for _, _, head in found)


def test_an_unknown_status_is_refused():
    with pytest.raises(RecordError):
        list(records.iter_records(records.pack_record(0, 3, b"")))


@given(outputs)
def test_output_travels(pieces):
    data = b"".join(records.pack_output(stream, piece) for stream, piece in pieces)
    assert records.split_output(data) == pieces


@given(st.data(), outputs)
def test_spoiled_output_is_refused_or_pieces(data, pieces):
    spoil = data.draw(spoiled(b"".join(records.pack_output(stream, piece) for stream, piece in pieces)))
    try:
        found = records.split_output(spoil)
    except RecordError:
        return
    assert sum(records.OUTPUT.size + len(piece) for _, piece in found) == len(spoil)


def test_statuses_are_those_of_the_model():
    assert {status.name: status.value for status in OutcomeStatus} == {
        "SUCCESS": records.SUCCESS,
        "FAILURE": records.FAILURE,
        "ERROR": records.ERROR,
    }
