"""Which lines are wanted, and how they look."""

from __future__ import annotations

import json

import pytest

from wren_worker.fleet.logs import LogFilter, fields_of, format_line
from wren_worker.protocol.ports import LogEvent


def event(within="i-0a-b-tasks", /, **fields):
    return LogEvent(stream=within, timestamp=1_700_000_000.0, message=json.dumps(fields))


OUTPUT = event(event="output", job_id="j1", call_index=7, attempt=1, stream="stdout", message="hello")


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (LogFilter(fleet="f"), True),
        (LogFilter(fleet="f", job_id="j1"), True),
        (LogFilter(fleet="f", job_id="j"), False),
        (LogFilter(fleet="f", job_id="j1", call_index=7), True),
        (LogFilter(fleet="f", job_id="j1", call_index=0), False),
        (LogFilter(fleet="f", call_index=7), True),
        (LogFilter(fleet="f", instance_id="i-0a-b"), True),
        (LogFilter(fleet="f", instance_id="i-0a"), False),
        (LogFilter(fleet="f", stream="tasks"), True),
        (LogFilter(fleet="f", stream="daemon"), False),
        (LogFilter(fleet="f", instance_id="i-0a-b", stream="tasks", job_id="j1", call_index=7), True),
    ],
)
def test_lines_are_picked_by_their_fields(wanted, kept):
    assert wanted.keeps(OUTPUT) is kept


def test_a_job_named_in_a_text_is_not_the_jobs_line():
    assert not LogFilter(fleet="f", job_id="j1").keeps(event(event="output", job_id="j2", message="about j1"))
    assert not LogFilter(fleet="f", job_id="j1").keeps(LogEvent(stream="s", timestamp=0, message="plain j1"))


def test_the_server_is_asked_for_quoted_text_only():
    # a JSON pattern would be exact on AWS and ignored by emulators, so `keeps` decides anyway
    assert LogFilter(fleet="f", job_id="65000000-aa").pattern == '"65000000-aa"'
    assert LogFilter(fleet="f", instance_id="i-1").pattern == ""


def test_streams_are_named_when_the_instance_is():
    assert LogFilter(fleet="f").streams == ()
    assert LogFilter(fleet="f", stream="daemon").streams == ()
    assert LogFilter(fleet="f", instance_id="i-1", stream="daemon").streams == ("i-1-daemon",)
    assert set(LogFilter(fleet="f", instance_id="i-1").streams) == {"i-1-daemon", "i-1-tasks", "i-1-boot"}


@pytest.mark.parametrize("text", ["plain", "[1]", "7", '"x"', "{broken", ""])
def test_a_line_that_is_no_object_is_its_text(text):
    assert fields_of(LogEvent(stream="s", timestamp=0, message=text)) == {"message": text}


def test_output_names_its_call_and_marks_stderr():
    assert format_line(OUTPUT).endswith("i-0a-b j1[7] | hello")
    wrong = event(event="output", job_id="j1", call_index=7, attempt=2, stream="stderr", message="oh")
    assert format_line(wrong).endswith("j1[7] attempt 2 ! oh")


def test_daemons_lines_show_their_fields():
    text = format_line(event("i-1-daemon", event="started", level="INFO", slots=4, instance_id="i-1"))
    assert text.endswith("i-1 started slots=4")


def test_a_plain_line_is_shown_as_it_is():
    assert format_line(LogEvent(stream="i-1-boot", timestamp=0, message="kernel: hi")).endswith("i-1 kernel: hi")


def test_another_fleets_lines_are_not_ours_and_a_line_of_no_fleet_is_anybodys():
    wanted = LogFilter(fleet="f")
    assert [
        wanted.keeps(LogEvent(stream="i-1-tasks", timestamp=1.0, message=text))
        for text in ('{"fleet": "f"}', '{"fleet": "g"}', "plain words of a boot")
    ] == [True, False, True]
