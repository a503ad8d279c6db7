"""A chunk's arguments cut for slots: any calls of it, in any order, without looking inside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wren_worker.daemon.calls import CallTable, Run
from wren_worker.protocol.frames import FrameError, Kind, pack_calls, split_calls

blobs = st.lists(st.binary(max_size=20), min_size=1, max_size=30)


def body_of(given_blobs: list[bytes], first_call: int = 100) -> bytes:
    return pack_calls((first_call + i, 1, blob) for i, blob in enumerate(given_blobs))


def table_of(body: bytes, n_calls: int, first_call: int = 100) -> CallTable:
    return CallTable.read(body, n_bytes=len(body), first_call=first_call, n_calls=n_calls)


@given(blobs, st.data())
def test_a_run_of_any_calls_is_cut_out_of_the_chunk(given_blobs, data):
    body = body_of(given_blobs)
    table = table_of(body, len(given_blobs))
    indexes = [100 + i for i in range(len(given_blobs))]
    neighbours = st.integers(0, len(indexes) - 1).flatmap(
        lambda i: st.integers(i + 1, len(indexes)).map(lambda j: indexes[i:j])
    )
    calls = data.draw(st.one_of(neighbours, st.permutations(indexes)))
    attempts = data.draw(st.dictionaries(st.sampled_from(calls), st.integers(2, 9), max_size=3))
    kind, found = table.frame(body, Run(calls, attempts))
    assert kind is Kind.CALLS
    assert [(index, attempt, bytes(blob)) for index, attempt, blob in split_calls(found)] == [
        (call, attempts.get(call, 1), given_blobs[call - 100]) for call in calls
    ]
    kind, found = table.frame(Path("/somewhere"), Run(calls, attempts))
    assert kind is Kind.CALLS_FILE
    for index, attempt, offset, length in json.loads(found)["calls"]:
        assert (attempt, body[offset : offset + length]) == (attempts.get(index, 1), given_blobs[index - 100])


@pytest.mark.parametrize(("first_call", "n_calls"), [(99, 3), (100, 2), (100, 4)])
def test_arguments_of_other_calls_are_refused(first_call, n_calls):
    with pytest.raises(FrameError, match="other calls"):
        table_of(body_of([b"a", b"bb", b""]), n_calls, first_call)


def test_lengths_that_do_not_add_up_are_refused():
    body = body_of([b"a", b"bb"])
    with pytest.raises(FrameError, match="add up"):
        CallTable.read(body, n_bytes=len(body) + 1, first_call=100, n_calls=2)
    with pytest.raises(FrameError, match="cut short"):
        table_of(body[:9], 2)
