"""SQS when it refuses, forgets and throttles: botocore's stubs answer in its place."""

from __future__ import annotations

import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.stub import ANY, Stubber

from wren_worker.aws.session import Aws
from wren_worker.aws.sqs import SqsReplyQueue, SqsReplySender, SqsTaskQueue
from wren_worker.aws.sqs_batch import batches
from wren_worker.errors import QueueError
from wren_worker.protocol.ports import LeaseState, OutgoingMessage
from wren_worker.testing import FakeClock

URL = "http://localhost:1/123456789012/q"
EXPORTS = {"AWS_ENDPOINT_URL": "http://localhost:1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}


@pytest.fixture
def aws():
    return Aws("us-east-1", account="123456789012", exports=EXPORTS)


@pytest.fixture
def sqs(aws):
    with Stubber(aws.sqs()) as stub:
        yield stub
        stub.assert_no_pending_responses()


@pytest.fixture
def lease(aws):
    with Stubber(aws.sqs_lease()) as stub:
        yield stub
        stub.assert_no_pending_responses()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def queue(aws, clock):
    return SqsTaskQueue(aws, "q", url=URL, clock=clock, send_timeout=30)


def outgoing(*bodies, group_id=""):
    return [OutgoingMessage(body=body, group_id=group_id) for body in bodies]


def entries(*pairs):
    return {"QueueUrl": URL, "Entries": [{"Id": str(number), "MessageBody": body} for number, body in pairs]}


def sent(*numbers, failed=()):
    done = [{"Id": str(number), "MessageId": "m", "MD5OfMessageBody": "x"} for number in numbers]
    return {
        "Successful": done,
        "Failed": [{"Id": str(number), "Code": code, "SenderFault": fault} for number, code, fault in failed],
    }


def cut(messages, **bounds):
    return list(batches(messages, range(len(messages)), **bounds))


def test_batches_are_cut_by_ten_and_by_bytes():
    assert [len(batch) for batch in cut(outgoing(*"abcdefghijklm"))] == [10, 3]
    assert cut(outgoing("aaaa", "bbbb", "cccc"), max_bytes=8) == [[0, 1], [2]]
    assert cut(outgoing("€€", "b", "c"), max_bytes=6) == [[0], [1, 2]]  # a euro sign has three bytes
    assert cut(outgoing("too large", "b"), max_bytes=4) == [[0], [1]]
    assert cut([]) == []


def test_what_failed_in_passing_is_sent_again_alone(queue, sqs, clock):
    first = sent(0, 2, failed=[(1, "InternalError", False)])
    sqs.add_response("send_message_batch", first, entries((0, "a"), (1, "b"), (2, "c")))
    sqs.add_response("send_message_batch", sent(1), entries((1, "b")))
    queue.send(outgoing("a", "b", "c"))
    assert len(clock.sleeps) == 1


def test_a_group_travels_only_when_it_is_given(queue, sqs):
    expected = {"QueueUrl": URL, "Entries": [{"Id": "0", "MessageBody": "a", "MessageGroupId": "job"}]}
    sqs.add_response("send_message_batch", sent(0), expected)
    queue.send(outgoing("a", group_id="job"))


def test_what_is_refused_for_good_is_not_sent_again(queue, sqs, clock):
    sqs.add_response("send_message_batch", sent(0, failed=[(1, "InvalidMessageContents", True)]), ANY_REQUEST)
    with pytest.raises(QueueError, match="InvalidMessageContents") as caught:
        queue.send(outgoing("a", "\0"))
    assert (caught.value.unsent, caught.value.transient) == ([1], False)
    assert clock.sleeps == []


def test_throttled_entries_are_sent_again_whoever_is_to_blame(queue, sqs):
    sqs.add_response("send_message_batch", sent(failed=[(0, "RequestThrottled", True)]), ANY_REQUEST)
    sqs.add_response("send_message_batch", sent(0), ANY_REQUEST)
    queue.send(outgoing("a"))


ANY_REQUEST = {"QueueUrl": URL, "Entries": ANY}


def test_sending_ends_with_its_time_and_says_what_is_left(queue, aws, clock, monkeypatch):
    def refuse(**request):
        clock.advance(10)
        return sent(failed=[(int(entry["Id"]), "ServiceUnavailable", False) for entry in request["Entries"]])

    monkeypatch.setattr(aws.sqs(), "send_message_batch", refuse)
    with pytest.raises(QueueError) as caught:
        queue.send(outgoing("a", "b"))
    assert (caught.value.unsent, caught.value.transient) == ([0, 1], True)


def test_a_queue_that_is_gone_stops_the_sending(queue, sqs):
    sqs.add_response("send_message_batch", sent(*range(10)), ANY_REQUEST)
    sqs.add_client_error("send_message_batch", "AWS.SimpleQueueService.NonExistentQueue", "no", 400)
    with pytest.raises(QueueError) as caught:
        queue.send(outgoing(*"abcdefghijklmnopqrstuvwxyz"))
    assert caught.value.gone
    assert caught.value.unsent == list(range(10, 26))


def test_a_throttled_request_is_sent_again(queue, sqs):
    sqs.add_client_error("send_message_batch", "RequestThrottled", "slow", 403)
    sqs.add_response("send_message_batch", sent(0), ANY_REQUEST)
    queue.send(outgoing("a"))


def test_a_missing_queue_says_what_to_run(aws, sqs):
    sqs.add_client_error("get_queue_url", "AWS.SimpleQueueService.NonExistentQueue", "no", 400)
    with pytest.raises(QueueError, match="wren-standalone setup") as caught:
        _ = SqsTaskQueue(aws, "q").url
    assert caught.value.gone


def test_a_throttled_question_for_the_address_is_asked_again(aws, sqs, clock):
    for _ in range(2):
        sqs.add_client_error("get_queue_url", "RequestThrottled", "slow", 403)
    sqs.add_response("get_queue_url", {"QueueUrl": URL}, {"QueueName": "q"})
    assert SqsTaskQueue(aws, "q", clock=clock).url == URL


def test_silence_is_not_waited_through_twice(aws, sqs, clock, monkeypatch):
    asked = []

    def silent(**_):
        asked.append(1)
        raise EndpointConnectionError(endpoint_url="https://sqs")

    monkeypatch.setattr(aws.sqs(), "get_queue_url", silent)
    with pytest.raises(QueueError) as caught:
        _ = SqsTaskQueue(aws, "q", clock=clock).url
    assert caught.value.transient
    assert len(asked) == 1  # an idle instance that cannot reach SQS is to go


@pytest.mark.parametrize(
    ("wait_time", "lease_time", "expected"),
    [(20, 90, (20, 90)), (0, 0.2, (0, 1)), (0.3, 1.2, (1, 2)), (7.9, 90, (7, 90)), (99, 99_999, (20, 43_200))],
)
def test_seconds_are_whole_and_within_sqs_bounds(queue, sqs, wait_time, lease_time, expected):
    request = {
        "QueueUrl": URL,
        "MaxNumberOfMessages": 10,
        "WaitTimeSeconds": expected[0],
        "VisibilityTimeout": expected[1],
        "MessageSystemAttributeNames": ["ApproximateReceiveCount", "SentTimestamp", "SenderId"],
    }
    sqs.add_response("receive_message", {}, request)
    assert queue.receive(max_messages=50, wait_time=wait_time, lease_time=lease_time) == []


def test_a_delivery_has_its_facts(queue, sqs):
    attributes = {"ApproximateReceiveCount": "3", "SentTimestamp": "1700000000250", "SenderId": "AROA:i-1"}
    message = {"MessageId": "m", "Body": "b", "ReceiptHandle": "h", "Attributes": attributes}
    sqs.add_response("receive_message", {"Messages": [message]})
    [found] = queue.receive(max_messages=1, wait_time=0, lease_time=1)
    assert (found.body, found.receipt_handle, found.receive_count) == ("b", "h", 3)
    assert (found.sent_timestamp, found.sender_id) == (1_700_000_000.25, "AROA:i-1")


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("AWS.SimpleQueueService.NonExistentQueue", 400, {"gone": True, "denied": False, "transient": False}),
        ("AccessDenied", 403, {"gone": False, "denied": True, "transient": False}),
        ("ExpiredToken", 403, {"gone": False, "denied": True, "transient": False}),
        ("ServiceUnavailable", 503, {"gone": False, "denied": False, "transient": True}),
    ],
)
def test_a_failed_poll_says_what_a_caller_can_act_on(aws, monkeypatch, code, status, expected):
    with Stubber(aws.sqs()) as stub:
        stub.add_client_error("receive_message", code, "x", status)
        with pytest.raises(QueueError) as caught:
            SqsReplyQueue(aws, URL).receive(wait_time=0)
    assert {name: getattr(caught.value, name) for name in expected} == expected


LOST = [
    ("ReceiptHandleIsInvalid", "x"),
    ("AWS.SimpleQueueService.MessageNotInflight", "x"),
    ("MessageNotInflight", "x"),
    (
        "InvalidParameterValue",
        "Value h for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for "
        "visibility timeout change.",
    ),
    ("InvalidParameterValue", "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]"),
]
UNKNOWN = [("InternalError", "x"), ("RequestThrottled", "x"), ("InvalidParameterValue", "something else")]


@pytest.mark.parametrize(
    ("code", "message", "state"),
    [(*pair, LeaseState.LOST) for pair in LOST] + [(*pair, LeaseState.UNKNOWN) for pair in UNKNOWN],
)
def test_each_lease_has_its_own_fate(queue, lease, code, message, state):
    failed = [{"Id": "1", "Code": code, "Message": message, "SenderFault": True}]
    request = {
        "QueueUrl": URL,
        "Entries": [{"Id": str(n), "ReceiptHandle": f"h{n}", "VisibilityTimeout": 3} for n in range(3)],
    }
    answer = {"Successful": [{"Id": "0"}, {"Id": "2"}], "Failed": failed}
    lease.add_response("change_message_visibility_batch", answer, request)
    assert queue.extend(["h0", "h1", "h2"], lease_time=2.5) == [LeaseState.EXTENDED, state, LeaseState.EXTENDED]


def test_no_answer_leaves_leases_unknown_and_the_next_ten_are_asked_for(queue, lease):
    lease.add_client_error("change_message_visibility_batch", "InternalError", "x", 500)
    answer = {"Successful": [{"Id": "0"}, {"Id": "1"}], "Failed": []}
    lease.add_response("change_message_visibility_batch", answer)
    handles = [f"h{number}" for number in range(12)]
    assert queue.extend(handles, lease_time=90) == [LeaseState.UNKNOWN] * 10 + [LeaseState.EXTENDED] * 2


def test_leases_of_a_queue_that_is_gone_are_lost(queue, lease):
    lease.add_client_error("change_message_visibility_batch", "QueueDoesNotExist", "x", 400)
    assert queue.extend(["h"], lease_time=90) == [LeaseState.LOST]


def test_a_heartbeat_never_raises(aws, clock):
    # nobody listens there, and the address of the queue is not even known
    assert SqsTaskQueue(aws, "q", clock=clock).extend(["h"], lease_time=90) == [LeaseState.UNKNOWN]


def test_the_heartbeat_client_gives_up_at_once(aws):
    config = aws.sqs_lease().meta.config
    assert config.retries["total_max_attempts"] == 1
    assert (config.connect_timeout, config.read_timeout) == (3, 5)
    assert aws.sqs().meta.config.read_timeout > 20  # a long poll's answer may take so long
    assert aws.sqs() is aws.sqs()
    assert aws.sqs() is not aws.sqs_lease()


def test_releasing_is_best_effort(queue, lease):
    lease.add_client_error("change_message_visibility_batch", "InternalError", "x", 500)
    request = {
        "QueueUrl": URL,
        "Entries": [{"Id": str(n), "ReceiptHandle": str(n + 10), "VisibilityTimeout": 0} for n in range(2)],
    }
    lease.add_response("change_message_visibility_batch", {"Successful": [], "Failed": []}, request)
    queue.release([str(number) for number in range(12)])


def test_deleting_tries_again_and_tells_what_stays(queue, sqs):
    refused = {"Id": "1", "Code": "ReceiptHandleIsInvalid", "SenderFault": True}
    passing = {"Id": "2", "Code": "InternalError", "SenderFault": False}
    sqs.add_response("delete_message_batch", {"Successful": [{"Id": "0"}], "Failed": [refused, passing]})
    again = {"QueueUrl": URL, "Entries": [{"Id": "0", "ReceiptHandle": "c"}]}
    sqs.add_response("delete_message_batch", {"Successful": [{"Id": "0"}], "Failed": []}, again)
    assert queue.delete(["a", "b", "c"]) == ["b"]


def test_a_notice_to_a_queue_that_is_gone_says_so(aws, sqs, clock):
    sqs.add_client_error("send_message_batch", "AWS.SimpleQueueService.NonExistentQueue", "no", 400)
    with pytest.raises(QueueError) as caught:
        SqsReplySender(aws, clock=clock).send(URL, ["notice"])
    assert caught.value.gone


def test_a_queue_that_sqs_does_not_know_yet_is_empty(aws, sqs, clock):
    young = SqsReplyQueue(aws, URL, young_time=3, clock=clock)
    sqs.add_client_error("receive_message", "AWS.SimpleQueueService.NonExistentQueue", "no", 400)
    assert young.receive(wait_time=20) == []
    clock.advance(3)
    sqs.add_client_error("receive_message", "AWS.SimpleQueueService.NonExistentQueue", "no", 400)
    with pytest.raises(QueueError) as caught:
        young.receive(wait_time=20)
    assert caught.value.gone
