"""A pickle with its buffers as one run of bytes: any goes there and back, none else is believed."""

from __future__ import annotations

import pickle

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wren_worker.errors import SerializationError
from wren_worker.protocol import oob
from wren_worker.protocol.bulk import dump_bulk

sections = st.lists(st.binary(max_size=300), max_size=6)


def joined(pickled: list[bytes], buffers: list[bytes]) -> bytes:
    return b"".join(oob.lay_out(pickled, [memoryview(buffer) for buffer in buffers]))


@given(st.lists(st.binary(max_size=100), max_size=3), sections)
def test_sections_go_there_and_back_and_lie_aligned(pickled, buffers):
    data = joined(pickled, buffers)
    found = oob.take_apart(data)
    assert [bytes(section) for section in found] == [b"".join(pickled), *buffers]
    base = memoryview(data)
    for section in found:
        start = next(at for at in range(0, len(data) + 64, 64) if base[at : at + len(section)] == section)
        assert start % oob.ALIGNMENT == 0
    assert oob.is_oob(data)


def test_buffers_are_not_copied():
    large = memoryview(bytearray(100_000))
    assert any(piece is large for piece in oob.lay_out([b"p"], [large]))


@given(st.binary(max_size=200))
def test_other_bytes_are_an_error_and_nothing_else(data):
    with pytest.raises(oob.OobError):
        oob.take_apart(data)


@given(sections, st.data())
def test_a_cut_or_a_tail_is_an_error(buffers, data):
    whole = joined([b"pickle"], buffers)
    with pytest.raises(oob.OobError):
        oob.take_apart(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(oob.OobError):
        oob.take_apart(whole + data.draw(st.binary(min_size=1, max_size=100)))


@given(sections, st.data())
def test_a_changed_head_or_table_never_reaches_beyond_the_bytes(buffers, data):
    whole = bytearray(joined([b"pickle"], buffers))
    at = data.draw(st.integers(0, oob.HEAD.size + 8 * (1 + len(buffers)) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    try:
        found = oob.take_apart(bytes(whole))
    except oob.OobError:
        return
    assert sum(map(len, found)) <= len(whole)


def test_too_many_buffers_are_refused(monkeypatch):
    monkeypatch.setattr(oob, "MAX_SECTIONS", 3)
    assert joined([b""], [b"", b""])
    with pytest.raises(oob.OobError):
        joined([b""], [b"", b"", b""])


def test_no_pickle_is_taken_for_one():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert not oob.is_oob(pickle.dumps([1, 2], protocol))


# --- what is pickled into it ------------------------------------------------------------------------------------------


def there_and_back(obj: object) -> object:
    found = oob.take_apart(b"".join(dump_bulk(obj, what="it").pieces))
    return pickle.loads(found[0], buffers=found[1:])


@pytest.mark.parametrize(
    "obj",
    [None, 7, "é" * 100_000, b"x" * 1_000_000, bytearray(b"y" * 200_000), {"a": [b"z" * 70_000] * 3, "b": (1, 2)}],
    ids=["none", "int", "str", "bytes", "bytearray", "nested"],
)
def test_objects_go_there_and_back(obj):
    assert there_and_back(obj) == obj


def test_what_is_large_is_sent_from_where_it_lies():
    numpy = pytest.importorskip("numpy")
    array, text = numpy.arange(100_000), b"x" * 1_000_000
    pieces = dump_bulk([array, text], what="it").pieces
    assert any(piece is text for piece in pieces)
    views = [numpy.frombuffer(piece, dtype=array.dtype) for piece in pieces if len(piece) == array.nbytes]
    assert [numpy.shares_memory(view, array) for view in views] == [True]
    assert (there_and_back(array) == array).all()


def test_arrays_in_any_order_arrive():
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(60_000).reshape(200, 300)
    for view in (array, array.T, array[:, ::2], array[:0], numpy.asfortranarray(array), array[:3]):
        assert (there_and_back(view) == view).all()


def test_what_main_defines_travels_by_value():
    class Local:
        x = 5

    Local.__module__, Local.__qualname__ = "__main__", "Local"
    import __main__

    __main__.Local = Local
    try:
        data = b"".join(dump_bulk([Local, b"x" * 200_000], what="it").pieces)
    finally:
        del __main__.Local
    found = oob.take_apart(data)
    assert cloudpickle.loads(found[0], buffers=found[1:])[0].x == 5


def test_what_cannot_be_pickled_is_named():
    import threading

    with pytest.raises(SerializationError, match=r"item \['lock'\] is a _thread.lock"):
        dump_bulk({"lock": threading.Lock()}, what="the dict to put")
