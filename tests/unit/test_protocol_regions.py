"""Where in a pickle names are looked for: never in large payloads, always in what may name something."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from wren_worker.protocol.regions import without_payloads


class Named:
    pass


@given(
    st.lists(
        st.one_of(
            st.integers(0, 200_000).map(bytes),
            st.integers(0, 100_000).map(lambda n: "é" * n),
            st.integers(0, 100_000).map(bytearray),
            st.integers(0, 30_000).map(lambda n: list(range(n))),
        ),
        max_size=4,
    )
)
def test_names_are_found_though_large_payloads_are_left_out(objects):
    data = pickle.dumps([*objects, Named(), b"q" * 300_000, Named], 5)
    searched = without_payloads(data)
    assert Named.__module__.encode() in searched
    assert b"\x93" in searched
    assert len(searched) <= len(data)


def test_a_large_payload_is_left_out_and_what_is_no_pickle_is_searched_as_it_is():
    assert len(without_payloads(pickle.dumps([b"q" * 1_000_000, "name"], 5))) < 1000
    odd = b"\x80\x05" + b"?" * 100_000
    assert without_payloads(odd) == odd
    piece = b"\x93\x95B\x10\x27\0\0" + b"\x8c\x08__main__" + b"x" * 100_000
    assert without_payloads(piece) == piece
    lying = b"\x80\x05\x8e" + (2**60).to_bytes(8, "little") + b"x" * 100_000
    assert without_payloads(lying) == lying
