"""Every fault of the wire, as a real boto3 client sees it over a real sandbox."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

import botocore.exceptions
import pytest
from conftest import Bench

from wren_worker.aws.errors import Fault, classify, error_code, http_status
from wren_worker.chaos.faults import BlackHole, Delay, Drop, HalfOpen, Refuse, SkewDate, SlowBody, Truncate
from wren_worker.chaos.subject import CLIENT


def put(bench: Bench, key: str = "k", body: bytes = b"x", **kw):
    return bench.s3.put_object(Bucket=bench.bucket, Key=key, Body=body, **kw)


def get(bench: Bench, key: str = "k") -> bytes:
    return bench.s3.get_object(Bucket=bench.bucket, Key=key)["Body"].read()


def test_nothing_goes_wrong_unasked_and_everything_is_in_the_record(bench: Bench):
    put(bench, body=b"a" * 100_000)
    assert get(bench) == b"a" * 100_000
    assert bench.s3.head_object(Bucket=bench.bucket, Key="k")["ContentLength"] == 100_000
    with pytest.raises(botocore.exceptions.ClientError):
        bench.s3.head_object(Bucket=bench.bucket, Key="missing")
    bench.send("one")
    (message,) = bench.receive(bench.instance("sqs"))
    bench.sqs.delete_message(QueueUrl=bench.queue, ReceiptHandle=message["ReceiptHandle"])
    told = [(one.operation, one.told, one.caller) for one in bench.record.entries[2:]]
    assert told == [
        ("s3.PutObject", 200, CLIENT),
        ("s3.GetObject", 200, CLIENT),
        ("s3.HeadObject", 200, CLIENT),
        ("s3.HeadObject", 404, CLIENT),
        ("sqs.SendMessage", 200, CLIENT),
        ("sqs.ReceiveMessage", 200, f"i-{1:017x}"),
        ("sqs.DeleteMessage", 200, CLIENT),
    ]
    places = [place for one in bench.record.entries for place in (one.began, one.applied)]
    assert places == sorted(set(places))
    received, deleted = bench.record.entries[-2:]
    assert received.deliveries[0].receipt_handle == message["ReceiptHandle"] == deleted.handles[0]
    assert received.key == bench.bucket
    assert received.lease_time == 30
    assert bench.record.injected() == {}


def test_a_multipart_upload_and_its_conditions_pass(bench: Bench):
    upload = bench.s3.create_multipart_upload(Bucket=bench.bucket, Key="big")["UploadId"]
    parts = []
    for number in (1, 2):
        body = b"p" * 5_300_000
        made = bench.s3.upload_part(Bucket=bench.bucket, Key="big", UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": made["ETag"]})
    bench.s3.complete_multipart_upload(
        Bucket=bench.bucket, Key="big", UploadId=upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
    )
    assert len(get(bench, "big")) == 10_600_000
    (done,) = bench.record.of("s3.CompleteMultipartUpload", "big")
    assert done.conditional
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        put(bench, "big", IfNoneMatch="*")
    assert http_status(caught.value) == 412
    assert bench.s3.list_objects_v2(Bucket=bench.bucket, Prefix="bi")["KeyCount"] == 1
    assert bench.record.of("s3.ListObjectsV2", "bi")


@pytest.mark.parametrize("reset", [False, True])
def test_applied_and_the_answer_lost(bench: Bench, reset):
    bench.rule(Drop(reset=reset), "s3.PutObject", nth=1)
    with pytest.raises((botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError)) as caught:
        put(bench, body=b"there")
    assert classify(caught.value) is Fault.PASSING
    assert get(bench) == b"there"
    assert bench.record.injected() == {"applied, answer lost": 1}
    (entry,) = bench.record.of("s3.PutObject")
    assert (entry.status, entry.told) == (200, 0)


def test_a_lost_request_is_not_applied(bench: Bench):
    bench.rule(Drop(applied=False), "sqs.SendMessage", nth=2)
    bench.send("one")
    with pytest.raises(botocore.exceptions.HTTPClientError):
        bench.send("two")
    assert [message["Body"] for message in bench.receive()] == ["one"]
    assert bench.record.of("sqs.SendMessage")[1].applied == 0


def test_botocore_retries_what_was_lost(bench: Bench):
    bench.rule(Drop(), "sqs.SendMessage", nth=1)
    bench.client("sqs", tries=3).send_message(QueueUrl=bench.queue, MessageBody="twice")
    assert [message["Body"] for message in bench.receive()] == ["twice", "twice"]


@pytest.mark.parametrize(
    ("code", "fault", "s3_status", "sqs_status"),
    [
        ("SlowDown", Fault.THROTTLED, 503, 503),
        ("InternalError", Fault.PASSING, 500, 500),
        ("ServiceUnavailable", Fault.PASSING, 503, 503),
        ("RequestThrottled", Fault.THROTTLED, 503, 403),
        ("ThrottlingException", Fault.THROTTLED, 503, 400),
        ("OverLimit", Fault.THROTTLED, 400, 403),
        ("ExpiredToken", Fault.CREDENTIALS, 400, 403),
        ("RequestTimeTooSkewed", Fault.SKEWED, 403, 403),
        ("AccessDenied", Fault.DENIED, 403, 403),
        ("ConditionalRequestConflict", Fault.PASSING, 409, 409),
        ("RequestTimeout", Fault.PASSING, 400, 408),
    ],
)
def test_refusals_have_the_codes_that_botocore_knows(bench: Bench, code, fault, s3_status, sqs_status):
    bench.refuse(code, "*")
    for call, status in ((lambda: put(bench), s3_status), (bench.receive, sqs_status)):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            call()
        assert (error_code(caught.value), http_status(caught.value)) == (code, status)
        assert classify(caught.value) is fault
    assert all(entry.applied == 0 for entry in bench.record.of(caller=CLIENT)[2:])


def test_refusals_of_other_services(bench: Bench):
    bench.refuse("ThrottlingException", "*")
    logs = bench.client("logs")
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        logs.describe_log_groups()
    assert error_code(caught.value) == "ThrottlingException"
    bench.proxy.script.clear()
    bench.refuse("RequestLimitExceeded", "*")
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        bench.client("ec2").describe_instances()
    assert error_code(caught.value) == "RequestLimitExceeded"


def test_an_internal_error_that_was_applied_and_412_and_a_missing_queue(bench: Bench):
    bench.rule(Refuse(code="InternalError", applied=True), "s3.PutObject", nth=1)
    with pytest.raises(botocore.exceptions.ClientError):
        put(bench, body=b"there")
    assert get(bench) == b"there"
    bench.rule(Refuse(code="PreconditionFailed"), "s3.PutObject")
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        put(bench, "free", IfNoneMatch="*")
    assert http_status(caught.value) == 412
    bench.rule(Refuse(code="QueueDoesNotExist"), "sqs.ReceiveMessage")
    with pytest.raises(bench.sqs.exceptions.QueueDoesNotExist) as gone:
        bench.receive()
    assert classify(gone.value) is Fault.GONE


def test_a_black_hole_ends_with_the_callers_patience(bench: Bench):
    bench.rule(BlackHole(), "sqs.SendMessage")
    with pytest.raises(botocore.exceptions.ReadTimeoutError):
        bench.client("sqs", read_timeout=0.3).send_message(QueueUrl=bench.queue, MessageBody="m")
    assert bench.receive(WaitTimeSeconds=0) == []


def test_a_half_open_connection_swallows_the_next_request(bench: Bench):
    bench.rule(HalfOpen(), "sqs.SendMessage", nth=1)
    client = bench.client("sqs", read_timeout=0.3)
    client.send_message(QueueUrl=bench.queue, MessageBody="one")
    with pytest.raises(botocore.exceptions.ReadTimeoutError):
        client.send_message(QueueUrl=bench.queue, MessageBody="two")
    client.send_message(QueueUrl=bench.queue, MessageBody="three")  # on a connection of its own
    assert [message["Body"] for message in bench.receive()] == ["one", "three"]


def test_a_truncated_body_is_noticed(bench: Bench):
    put(bench, body=b"b" * 50_000)
    bench.rule(Truncate(), "s3.GetObject")
    with pytest.raises((botocore.exceptions.IncompleteReadError, botocore.exceptions.ResponseStreamingError)):
        get(bench)


def test_slow_and_late_answers_arrive_whole(bench: Bench):
    put(bench, body=b"c" * 50_000)
    bench.rule(SlowBody(seconds=0.5), "s3.GetObject", nth=1)
    began = time.monotonic()
    assert get(bench) == b"c" * 50_000
    assert time.monotonic() - began >= 0.4
    bench.rule(Delay(seconds=0.3), "s3.GetObject", nth=1)
    bench.rule(Delay(seconds=0.3, applied=True), "s3.HeadObject", nth=1)
    began = time.monotonic()
    assert get(bench) == b"c" * 50_000
    bench.s3.head_object(Bucket=bench.bucket, Key="k")
    assert time.monotonic() - began >= 0.6


def test_a_skewed_clock_is_told_in_the_date(bench: Bench):
    bench.rule(SkewDate(seconds=3600), "s3.PutObject")
    told = put(bench)["ResponseMetadata"]["HTTPHeaders"]["date"]
    assert 3500 < parsedate_to_datetime(told).timestamp() - time.time() < 3700
