"""The log sink, with a log service that is slow, dead or gone; and the reader's paging."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber

from wren_worker.aws import logs as module
from wren_worker.aws.logs import CloudWatchSink, _batches, _Line, _line_text
from wren_worker.aws.logs_reader import CloudWatchReader
from wren_worker.aws.session import Aws
from wren_worker.errors import FleetError
from wren_worker.testing import FakeClock

EXPORTS = {"AWS_ENDPOINT_URL": "http://localhost:1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}


class Service:
    """What the sink's client does, by hand."""

    def __init__(self, aws, monkeypatch):
        self.client = aws.logs_shipping()
        answer = {"Error": {"Code": "ResourceNotFoundException"}}
        self.missing = self.client.exceptions.ResourceNotFoundException(answer, "PutLogEvents")
        self.streams: set[str] = set()
        self.events: dict[str, list] = {}
        self.groups = {"g"}
        self.open = threading.Event()
        self.open.set()
        self.called = threading.Event()
        self.dead = False
        monkeypatch.setattr(self.client, "put_log_events", self.put)
        monkeypatch.setattr(self.client, "create_log_stream", self.create)

    def put(self, *, logGroupName, logStreamName, logEvents):
        self.called.set()
        assert self.open.wait(30)
        if self.dead:
            raise EndpointConnectionError(endpoint_url="x")
        if logGroupName not in self.groups or logStreamName not in self.streams:
            raise self.missing
        times = [event["timestamp"] for event in logEvents]
        assert times == sorted(times)
        self.events.setdefault(logStreamName, []).extend(logEvents)
        return {}

    def create(self, *, logGroupName, logStreamName):
        if logGroupName not in self.groups:
            raise self.missing
        self.streams.add(logStreamName)

    def messages(self, stream):
        return [json.loads(event["message"]) for event in self.events.get(stream, [])]


@pytest.fixture
def aws():
    return Aws("us-east-1", account="123456789012", exports=EXPORTS)


@pytest.fixture
def service(aws, monkeypatch):
    made = Service(aws, monkeypatch)
    yield made
    made.open.set()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "_FIRST_PAUSE_TIME", 0.01)
    monkeypatch.setattr(module, "_MAX_PAUSE_TIME", 0.01)


def sink_of(aws, **options):
    return CloudWatchSink(aws, "g", "i-1", **{"send_interval": 0.01, **options})


def test_lines_arrive_as_json_at_their_own_time_in_two_streams(aws, service):
    sink = sink_of(aws)
    sink.put("daemon", 1_700_000_000.25, {"event": "started", "slots": 4})
    sink.put("tasks", 1_700_000_001.0, {"event": "output", "job_id": "j", "message": "hé"})
    sink.close(timeout=10)
    assert service.messages("i-1-daemon") == [{"event": "started", "slots": 4}]
    assert service.messages("i-1-tasks") == [{"event": "output", "job_id": "j", "message": "hé"}]
    assert service.events["i-1-daemon"][0]["timestamp"] == 1_700_000_000_250
    assert sink.dropped() == 0


def test_a_group_that_does_not_exist_is_not_made(aws, service):
    service.groups.clear()
    sink = sink_of(aws)
    sink.put("daemon", 1.0, {"event": "a"})
    sink.close(timeout=10)
    assert sink.dropped() == 1
    assert service.streams == set()


def test_a_full_buffer_drops_the_oldest_and_says_so_later(aws, service):
    service.open.clear()
    sink = sink_of(aws, max_lines=3)
    sink.put("tasks", 0.0, {"n": -1})
    assert service.called.wait(10)  # the first line is under way, and stuck
    for number in range(10):
        sink.put("tasks", float(number), {"n": number})
    assert sink.dropped() == 7
    service.open.set()
    deadline = time.monotonic() + 10
    while not service.messages("i-1-daemon") and time.monotonic() < deadline:
        time.sleep(0.01)
    sink.close(timeout=10)
    assert [fields["n"] for fields in service.messages("i-1-tasks")] == [-1, 7, 8, 9]
    [told] = service.messages("i-1-daemon")
    assert (told["event"], told["n_lines"]) == ("log_lines_dropped", 7)


def test_the_buffer_is_bounded_by_bytes_too(aws, service):
    service.open.clear()
    sink = sink_of(aws, max_bytes=1000)
    for _ in range(10):
        sink.put("tasks", 0.0, {"text": "x" * 400})
    assert sink.dropped() >= 7


def test_neither_put_nor_close_waits_for_a_service_that_hangs(aws, service):
    service.open.clear()
    sink = sink_of(aws)
    began = time.monotonic()
    for number in range(2000):
        sink.put("tasks", float(number), {"n": number})
    sink.close(timeout=0.2)
    assert time.monotonic() - began < 5
    # still stuck, and no reason for the interpreter to wait
    assert {thread.daemon for thread in threading.enumerate() if thread.name == "wren-log-shipper"} == {True}


def test_a_service_that_is_dead_for_a_while_loses_nothing(aws, service):
    service.dead = True
    sink = sink_of(aws)
    sink.put("tasks", 0.0, {"n": 0})
    assert service.called.wait(10)
    service.dead = False
    sink.close(timeout=10)
    assert service.messages("i-1-tasks") == [{"n": 0}]


def test_a_service_that_stays_dead_costs_lines_and_no_more(aws, service):
    service.dead = True
    sink = sink_of(aws)
    sink.put("tasks", 0.0, {"n": 0})
    sink.close(timeout=10)
    assert sink.dropped() == 1
    sink.put("tasks", 0.0, {"n": 1})
    assert sink.dropped() == 2


def test_what_cannot_be_printed_is_still_a_line(aws, service):
    endless: dict[str, object] = {}
    endless["self"] = endless
    sink = sink_of(aws)
    sink.put("daemon", 0.0, endless)
    sink.put("daemon", 0.0, {"what": object})
    sink.close(timeout=10)
    first, second = service.messages("i-1-daemon")
    assert first == {"event": "log_line_unprintable"}
    assert "object" in second["what"]


def test_debug_logging_of_everything_does_not_feed_itself(aws, service, caplog):
    with caplog.at_level(logging.DEBUG):
        sink = sink_of(aws)
        sink.put("daemon", 0.0, {"event": "a"})
        sink.close(timeout=10)
    assert len(service.messages("i-1-daemon")) == 1


def test_the_end_of_the_process_waits_for_no_log_service():
    program = textwrap.dedent("""
        import socket
        from wren_worker.aws.logs import CloudWatchSink
        from wren_worker.aws.session import Aws
        deaf = socket.create_server(("127.0.0.1", 0))  # takes connections and never answers
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        keys = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
        sink = CloudWatchSink(Aws("us-east-1", exports=keys), "g", "i-1", send_interval=0.01)
        sink.put("daemon", 0.0, {"event": "a"})
        deaf.accept()
        sink.close(timeout=0.1)
    """)
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=20)


def test_a_line_is_cut_where_it_stays_json():
    fields = {"event": "output", "job_id": "j", "message": "é" * 1_000_000}
    text = _line_text(fields)
    assert len(text) <= module.MAX_LINE_BYTES
    found = json.loads(text)
    assert (found["job_id"], found["truncated"]) == ("j", "message")
    assert found["message"] == "é" * len(found["message"])
    many = {f"k{number}": "x" * 10_000 for number in range(100)}
    assert json.loads(_line_text(many))["event"] == "log_line_too_long"


def line(timestamp, stream="s", n_bytes=100):
    return _Line(stream=stream, timestamp=timestamp, text="x", n_bytes=n_bytes)


def test_batches_keep_to_the_limits_of_a_request():
    days = [line(0.0), line(86_000.0), line(90_000.0)]
    assert [len(batch) for batch in _batches(days)] == [2, 1]
    assert [len(batch) for batch in _batches([line(0.0, n_bytes=400_000)] * 5)] == [2, 2, 1]
    assert [len(batch) for batch in _batches([line(0.0, n_bytes=30)] * 10_001)] == [10_000, 1]
    mixed = [line(2.0, "a"), line(1.0, "b"), line(1.0, "a")]
    assert [[item.timestamp for item in batch] for batch in _batches(mixed)] == [[1.0, 2.0], [1.0]]


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stub(aws):
    with Stubber(aws.logs()) as stub:
        yield stub
        stub.assert_no_pending_responses()


def event(identity, timestamp, stream="i-1-tasks"):
    return {"eventId": identity, "timestamp": int(timestamp * 1000), "message": identity, "logStreamName": stream}


def test_pages_follow_each_other_even_when_one_is_empty(aws, stub):
    request = {
        "logGroupName": "g",
        "interleaved": True,
        "startTime": 5000,
        "filterPattern": '"j"',
        "logStreamNames": ["i-1-tasks"],
    }
    stub.add_response("filter_log_events", {"events": [event("a", 5)], "nextToken": "1"}, request)
    stub.add_response("filter_log_events", {"events": [], "nextToken": "2"}, {**request, "nextToken": "1"})
    stub.add_response("filter_log_events", {"events": [event("b", 6)]}, {**request, "nextToken": "2"})
    found = CloudWatchReader(aws, "g").events(streams=["i-1-tasks"], start_timestamp=5.0, pattern='"j"')
    assert [(line.message, line.timestamp, line.stream) for line in found] == [
        ("a", 5.0, "i-1-tasks"),
        ("b", 6.0, "i-1-tasks"),
    ]


def test_more_streams_than_a_request_takes_are_picked_here(aws, stub):
    events = [event("a", 1, "i-7"), event("b", 2, "other")]
    stub.add_response("filter_log_events", {"events": events}, {"logGroupName": "g", "interleaved": True})
    found = CloudWatchReader(aws, "g").events(streams=[f"i-{number}" for number in range(101)])
    assert [line.message for line in found] == ["a"]


def test_no_group_is_no_lines_and_a_refusal_is_an_error(aws, stub):
    stub.add_client_error("filter_log_events", "ResourceNotFoundException", "x", 400)
    assert list(CloudWatchReader(aws, "g").events()) == []
    stub.add_client_error("filter_log_events", "AccessDeniedException", "x", 400)
    with pytest.raises(FleetError, match="FilterLogEvents"):
        list(CloudWatchReader(aws, "g").events())


def test_a_follower_sees_each_line_once_the_late_ones_too(aws, stub):
    def page(*events, start):
        request = {"logGroupName": "g", "interleaved": True, "startTime": int(start * 1000)}
        stub.add_response("filter_log_events", {"events": list(events)}, request)

    page(event("a", 100), start=100)
    page(event("a", 100), event("late", 101), event("b", 200), start=100)
    page(event("b", 200), event("c", 230), start=140)
    polls = iter([True, True, False])
    clock = FakeClock()
    follower = CloudWatchReader(aws, "g", clock=clock).follow(start_timestamp=100.0, go_on=lambda: next(polls))
    assert [line.message for line in follower] == ["a", "late", "b", "c"]
    assert clock.sleeps == [2.0, 2.0]
