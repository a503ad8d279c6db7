"""Frames and their bodies: there and back in any pieces, and never anything but a FrameError for other bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_examples import spoiled, texts

from wren_worker.protocol import frames
from wren_worker.protocol.frames import FrameError, FrameReader

frame_lists = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=30)), max_size=6)
calls = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1), st.binary(max_size=9)), max_size=6)


def cut(data, stream):
    bounds = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return [stream[start:end] for start, end in zip([0, *bounds], [*bounds, len(stream)], strict=True)]


@given(st.data(), frame_lists)
def test_frames_come_out_whole_however_the_stream_is_cut(data, given_frames):
    stream = b"".join(frames.pack_frame(kind, body[:3], body[3:]) for kind, body in given_frames)
    reader = FrameReader()
    found = [frame for piece in cut(data, stream) for frame in reader.feed(piece)]
    assert found == given_frames


@given(st.data(), frame_lists)
def test_a_spoiled_stream_is_refused_or_frames(data, given_frames):
    stream = data.draw(spoiled(b"".join(frames.pack_frame(kind, body) for kind, body in given_frames)))
    reader = FrameReader(limit=100)
    try:
        for piece in cut(data, stream):
            for kind, body in reader.feed(piece):
                assert 0 <= kind <= 255
                assert type(body) is bytes
                assert len(body) <= 100
    except FrameError:
        pass


def test_a_frame_over_the_limit_is_refused_by_both_sides():
    with pytest.raises(FrameError):
        frames.pack_frame(1, bytes(11), limit=10)
    with pytest.raises(FrameError):  # from the head alone, before any of the body is there
        list(FrameReader(limit=10).feed(frames.FRAME_HEAD.pack(1, 11)))


def test_a_frame_whose_handling_failed_is_not_handed_out_again():
    reader = FrameReader()
    stream = frames.pack_frame(1, b"a") + frames.pack_frame(2, b"b")

    def handle():
        for _frame in reader.feed(stream):
            raise KeyError

    with pytest.raises(KeyError):
        handle()
    assert list(reader.feed(b"")) == [(2, b"b")]


@given(calls)
def test_calls_travel(given_calls):
    body = frames.pack_calls(given_calls)
    assert [(index, attempt, bytes(blob)) for index, attempt, blob in frames.split_calls(body)] == given_calls


@given(calls)
def test_the_rows_need_only_the_beginning_of_the_calls(given_calls):
    body = frames.pack_calls(given_calls)
    head = body[: 4 + frames.CALL.size * len(given_calls)]
    rows = [(index, attempt, len(blob)) for index, attempt, blob in given_calls]
    assert frames.call_rows(head) == frames.call_rows(body) == rows
    assert frames.call_columns(head) == ([row[0] for row in rows], [row[2] for row in rows])


@given(st.integers(0, 2**31), st.lists(st.binary(max_size=9)))
def test_new_calls_are_packed_the_same_way(first_call, blobs):
    packed = frames.pack_new_calls(first_call, blobs)
    assert packed == frames.pack_calls((first_call + i, 1, blob) for i, blob in enumerate(blobs))


@given(st.data(), calls)
def test_spoiled_calls_are_refused_or_calls(data, given_calls):
    check_calls(data.draw(spoiled(frames.pack_calls(given_calls))))


@given(st.binary())
def test_any_bytes_are_refused_or_calls(body):
    check_calls(body)


def check_calls(body):
    try:
        found = frames.split_calls(body)
    except FrameError:
        return
    assert 4 + sum(frames.CALL.size + len(blob) for _, _, blob in found) == len(body)


sections = st.tuples(st.dictionaries(texts, texts, max_size=3), st.lists(st.binary(max_size=9), max_size=4))


@given(sections)
def test_sections_travel(given_sections):
    header, found = frames.split_sections(frames.join_sections(*given_sections))
    assert (header, [bytes(section) for section in found]) == given_sections


@given(st.data(), sections)
def test_spoiled_sections_are_refused_or_sections(data, given_sections):
    check_sections(data.draw(spoiled(frames.join_sections(*given_sections))))


@given(st.binary())
def test_any_bytes_are_refused_or_sections(body):
    check_sections(body)


def check_sections(body):
    try:
        header, found = frames.split_sections(body)
    except FrameError:
        return
    assert type(header) is dict
    assert sum(map(len, found)) < len(body)


def test_a_deeply_nested_header_is_refused():
    text = b"[" * 60_000
    body = (1).to_bytes(4, "little") + len(text).to_bytes(8, "little") + text
    with pytest.raises(FrameError):
        frames.split_sections(body)
