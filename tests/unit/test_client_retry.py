"""What ``retries=`` takes, and what ``attempts`` tells."""

from __future__ import annotations

import json

import pytest

import wren_worker as wren
from wren_worker.client.attempts import attempts_of
from wren_worker.client.retry import as_retry
from wren_worker.protocol import records
from wren_worker.protocol.wire import error_value


def test_an_int_is_so_many_retries_for_anything():
    assert as_retry(3) == wren.Retry(3)
    assert as_retry(3).names == ()
    assert wren.Retry(1, on=(OSError, wren.CallTimeout)).names == ("builtins.OSError", "wren_worker.errors.CallTimeout")


def test_waits_double_up_to_their_bound():
    retry = wren.Retry(9, delay=0.5, max_delay=3.0)
    assert [retry.longest_delay_time(k) for k in (1, 2, 3, 4, 9_000)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize(
    "bad",
    [{"n": -1}, {"n": 10**6}, {"n": 1, "delay": -1}, {"n": 1, "delay": float("nan")}, {"n": 1, "max_delay": 1e9}],
)
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="is out of range; give 0 to"):
        wren.Retry(**bad)


@pytest.mark.parametrize("on", [int, "OSError", (), (OSError, 3)])
def test_a_filter_is_of_exception_classes(on):
    with pytest.raises(TypeError, match="give an exception class"):
        wren.Retry(1, on=on)
    with pytest.raises(TypeError):
        as_retry("3")  # type: ignore[arg-type]


def story(text: bytes, status: int = records.SUCCESS, value: bytes = b"", **kw: float) -> bytes:
    output = records.pack_output(records.STDOUT, b"x") + records.pack_output(records.STORY, text)
    return records.pack_record(1, status, value, output=output, attempt=2, **kw)  # type: ignore[arg-type]


def test_attempts_come_in_order_and_the_last_is_the_records_own():
    told = [{"attempt": 1, "slot": 4, "start": 10.0, "time": 0.5, "end": "OSError()"}]
    first, last = attempts_of(story(json.dumps(told).encode(), start_timestamp=12.0), None, "i-1")
    assert (first.attempt, first.slot, first.start_timestamp, first.run_time, first.end) == (
        1,
        4,
        10.0,
        0.5,
        "OSError()",
    )
    assert (last.attempt, last.instance_id, last.start_timestamp, last.end) == (2, "i-1", 12.0, "success")


@pytest.mark.parametrize("text", [b"", b"\xff", b"[1]", b'{"a": 1}', b"[{}]", b"[" * 100_000, b'[{"attempt": "x"}]'])
def test_a_story_that_is_none_is_left_out(text):
    assert [one.end for one in attempts_of(story(text), None, "i-1")] == ["success"]


def test_a_verdict_without_a_run_tells_no_attempt_of_its_own():
    value = error_value("CallTimeout", "too long")
    assert attempts_of(records.pack_record(1, records.ERROR, value), None, "i-1") == []
    (ran,) = attempts_of(records.pack_record(1, records.ERROR, value, start_timestamp=3.0), None, "i-1")
    assert ran.end == "CallTimeout: too long"
    assert attempts_of(None, None, "i-1") == []
