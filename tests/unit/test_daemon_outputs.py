"""What calls print: joined to outcomes, told line by line, bounded, not kept for attempts that are repeated."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from wren_worker.daemon import outputs as module
from wren_worker.daemon.outputs import Outputs
from wren_worker.daemon.slot import Given, Printed
from wren_worker.protocol import records

GIVEN = Given(receipt_handle="h", call_index=7, attempt=1)
SLOT: Any = SimpleNamespace(number=3)


@pytest.fixture
def told() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def outputs(told, tmp_path) -> Outputs:
    return Outputs(tell=lambda fields: told.append(dict(fields)), folder=tmp_path / "outcomes")


def say(outputs: Outputs, data: bytes, stream: int = records.STDOUT, given: Given | None = GIVEN) -> None:
    outputs.take(Printed(slot=SLOT, given=given, stream=stream, data=data), "job")


def finish(outputs: Outputs, tmp_path, value: bytes = b"v", flags: int = 0) -> bytes:
    record = records.pack_record(7, records.SUCCESS, value, flags=flags)
    return outputs.finish(GIVEN, record, job_id="job", slot=3, outbox=tmp_path)


def parts(record: bytes) -> tuple[int, bytes, list[tuple[int, bytes]]]:
    head = records.HEAD.unpack_from(record)
    end = records.HEAD.size + head[9]
    return head[2], record[records.HEAD.size : end], records.split_output(record[end:])


def test_output_is_joined_in_order_and_lines_are_told_whole(outputs, told, tmp_path):
    say(outputs, b"one\ntw")
    say(outputs, b"err\n", records.STDERR)
    say(outputs, b"o\nrest")
    flags, value, output = parts(finish(outputs, tmp_path))
    assert (flags, value) == (0, b"v")
    assert output == [(records.STDOUT, b"one\ntw"), (records.STDERR, b"err\n"), (records.STDOUT, b"o\nrest")]
    assert [(line["stream"], line["message"]) for line in told] == [
        ("stdout", "one"), ("stderr", "err"), ("stdout", "two"), ("stdout", "rest"),
    ]  # fmt: skip
    assert told[0] == {
        "event": "output", "job_id": "job", "call_index": 7, "attempt": 1, "slot": 3, "stream": "stdout",
        "message": "one",
    }  # fmt: skip


def test_a_silent_call_keeps_its_record_untouched(outputs, tmp_path):
    record = records.pack_record(7, records.SUCCESS, b"v")
    assert outputs.finish(GIVEN, record, job_id="job", slot=3, outbox=tmp_path) is record


def test_what_goes_past_the_bound_is_cut_and_said(outputs, told, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_OUTPUT_BYTES", 10)
    say(outputs, b"12345678\n")
    say(outputs, b"12345678\n")
    flags, _, output = parts(finish(outputs, tmp_path))
    assert flags & records.FLAG_OUTPUT_TRUNCATED
    assert output == [(records.STDOUT, b"12345678\n1")]


def test_a_large_outcome_is_left_in_a_file(outputs, tmp_path):
    say(outputs, b"hello\n")
    value = b"x" * 2_000_000
    flags, pointer, output = parts(finish(outputs, tmp_path, value))
    assert flags & records.FLAG_ELSEWHERE
    assert output == []
    where = json.loads(pointer)
    with open(where["path"], "rb") as file:
        data = file.read()
    assert data[: where["value_bytes"]] == value
    assert records.split_output(data[where["value_bytes"] :]) == [(records.STDOUT, b"hello\n")]


def test_a_slot_can_only_point_into_its_own_outbox(outputs, tmp_path):
    (tmp_path / "passwd").write_bytes(b"mine")
    pointer = json.dumps({"path": "/etc/passwd"}).encode()
    _, found, _ = parts(finish(outputs, tmp_path, pointer, flags=records.FLAG_ELSEWHERE))
    assert json.loads(found)["path"] == str(tmp_path / "passwd")


def test_an_attempt_that_is_repeated_leaves_nothing_behind(outputs, told, tmp_path):
    say(outputs, b"first try")
    outputs.forget(GIVEN, job_id="job", slot=3)
    assert [line["message"] for line in told] == ["first try"]
    assert parts(finish(outputs, tmp_path))[2] == []


def test_what_no_call_printed_is_told_without_one(outputs, told):
    say(outputs, b"left running\n", given=None)
    assert told[0]["message"] == "left running"
    assert "call_index" not in told[0]
