"""Lines from the sink to the reader through moto's CloudWatch Logs."""

from __future__ import annotations

import secrets
import time

import pytest

from wren_worker.aws.logs import CloudWatchSink
from wren_worker.aws.logs_reader import CloudWatchReader
from wren_worker.fleet.logs import LogFilter, fields_of


@pytest.fixture
def group(moto_aws):
    name = f"g-{secrets.token_hex(4)}"
    moto_aws.logs().create_log_group(logGroupName=name)
    return name


def test_lines_come_back_in_time_order_and_by_job(moto_aws, group):
    now = time.time()
    sink = CloudWatchSink(moto_aws, group, "i-1", send_interval=0.01)
    for number in range(300):
        sink.put("tasks", now + number / 1000, {"event": "output", "job_id": f"j{number % 3}", "call_index": number})
    sink.put("daemon", now, {"event": "started"})
    sink.close(timeout=30)
    assert sink.dropped() == 0
    reader = CloudWatchReader(moto_aws, group)
    lines = list(reader.events(start_timestamp=now - 10))
    assert len(lines) == 301
    assert [line.timestamp for line in lines] == sorted(line.timestamp for line in lines)
    wanted = LogFilter(fleet="f", job_id="j1", instance_id="i-1", stream="tasks")
    found = [line for line in reader.events(streams=wanted.streams, pattern=wanted.pattern) if wanted.keeps(line)]
    assert [fields_of(line)["call_index"] for line in found] == list(range(1, 300, 3))
    assert list(reader.events(start_timestamp=now + 3600)) == []


def test_a_line_near_the_largest_arrives_whole_json(moto_aws, group):
    sink = CloudWatchSink(moto_aws, group, "i-1", send_interval=0.01)
    sink.put("tasks", time.time(), {"job_id": "j", "message": "x" * 239_000})
    sink.put("tasks", time.time(), {"job_id": "j", "message": "é" * 500_000})
    sink.close(timeout=30)
    whole, cut = (fields_of(line) for line in CloudWatchReader(moto_aws, group).events())
    assert whole["message"] == "x" * 239_000
    assert (cut["job_id"], cut["truncated"]) == ("j", "message")


def test_a_group_that_is_not_there_yet_has_no_lines(moto_aws):
    assert list(CloudWatchReader(moto_aws, "nobody").events()) == []
    assert list(CloudWatchReader(moto_aws, "nobody").follow(go_on=lambda: False)) == []
