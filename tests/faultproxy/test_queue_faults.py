"""Every fault of SQS that an emulator never shows, as a real boto3 client sees it."""

from __future__ import annotations

import random
import threading
import time

import botocore.exceptions
import pytest
from conftest import Bench

from wren_worker.chaos.faults import Refuse
from wren_worker.chaos.http import Request
from wren_worker.chaos.queue_faults import (
    DelayDelivery,
    Duplicate,
    Empty,
    FailEntries,
    Redeliver,
    Reorder,
    StaleHandles,
)
from wren_worker.chaos.script import Rule, Script
from wren_worker.chaos.subject import subject_of


def entries(*bodies: str) -> list[dict[str, str]]:
    return [{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies)]


@pytest.mark.parametrize("applied", [False, True])
def test_part_of_a_send_fails(bench: Bench, applied):
    fault = FailEntries(code="InternalError", share=0.5, applied=applied, draw=random.Random(3))
    bench.rule(fault, "sqs.SendMessageBatch")
    told = bench.sqs.send_message_batch(QueueUrl=bench.queue, Entries=entries(*"abcdef"))
    failed = {one["Id"] for one in told["Failed"]}
    assert 0 < len(failed) < 6
    assert {one["Id"] for one in told["Successful"]} | failed == set("012345")
    assert {one["Code"] for one in told["Failed"]} == {"InternalError"}
    assert bench.depth() == (6 if applied else 6 - len(failed))


@pytest.mark.parametrize("operation", ["delete_message_batch", "change_message_visibility_batch"])
def test_part_of_a_deletion_or_beat_fails(bench: Bench, operation):
    bench.send("a", "b", "c")
    handles = [message["ReceiptHandle"] for message in bench.receive()]
    bench.rule(FailEntries(draw=random.Random(1)), "sqs.*Batch")
    more = {"VisibilityTimeout": 60} if "visibility" in operation else {}
    asked = [{"Id": str(n), "ReceiptHandle": handle, **more} for n, handle in enumerate(handles)]
    told = getattr(bench.sqs, operation)(QueueUrl=bench.queue, Entries=asked)
    failed = {one["Id"] for one in told["Failed"]}
    assert len(failed) + len(told["Successful"]) == 3
    assert failed
    if "delete" in operation:
        assert bench.depth() == len(failed)
    (entry,) = bench.record.of("sqs.*Batch")
    assert set(entry.handles) == {handles[int(one["Id"])] for one in told["Successful"]}


def test_a_message_is_delivered_to_two_receivers_as_if_for_the_first_time(bench: Bench):
    one, two = bench.instance("sqs", 1), bench.instance("sqs", 2)
    bench.rule(Duplicate(), "sqs.ReceiveMessage", nth=1)
    bench.send("m")
    (first,) = bench.receive(one)
    assert bench.receive(one, WaitTimeSeconds=0) == []  # not twice to the same
    (second,) = bench.receive(two)
    assert first["MessageId"] == second["MessageId"]
    assert first["ReceiptHandle"] != second["ReceiptHandle"]
    assert second["Attributes"]["ApproximateReceiveCount"] == "1"
    beat = [{"Id": "0", "ReceiptHandle": second["ReceiptHandle"], "VisibilityTimeout": 40}]
    assert not two.change_message_visibility_batch(QueueUrl=bench.queue, Entries=beat).get("Failed")
    two.delete_message(QueueUrl=bench.queue, ReceiptHandle=second["ReceiptHandle"])
    assert bench.depth() == 0


def test_a_message_comes_back_while_it_is_held(bench: Bench):
    bench.rule(Redeliver(), "sqs.ReceiveMessage", nth=1)
    bench.send("m")
    (first,) = bench.receive()
    (second,) = bench.receive()
    assert (first["MessageId"], second["Attributes"]["ApproximateReceiveCount"]) == (second["MessageId"], "2")


def test_a_poll_comes_back_empty_although_there_are_messages(bench: Bench):
    bench.send("m")
    bench.rule(Empty(), "sqs.ReceiveMessage", nth=1)
    assert bench.receive() == []
    assert len(bench.receive()) == 1


def test_messages_arrive_in_another_order_or_late(bench: Bench):
    bench.rule(Reorder(draw=random.Random(5)), "sqs.SendMessageBatch", nth=1)
    told = bench.sqs.send_message_batch(QueueUrl=bench.queue, Entries=entries(*"abcdef"))
    assert len(told["Successful"]) == 6
    bodies = [message["Body"] for message in bench.receive()]
    assert sorted(bodies) == list("abcdef") != bodies
    bench.rule(DelayDelivery(seconds=1, share=1.0), "sqs.SendMessage*")
    bench.sqs.send_message_batch(QueueUrl=bench.queue, Entries=entries("late"))
    bench.send("too")
    assert bench.receive(WaitTimeSeconds=0) == []
    time.sleep(1.1)
    assert len(bench.receive()) == 2


def test_a_stale_handle_deletes_nothing_and_beats_nothing(bench: Bench):
    bench.rule(StaleHandles(), "sqs.*Batch")
    bench.rule(StaleHandles(), "sqs.DeleteMessage")
    bench.send("m")
    (first,) = bench.receive(VisibilityTimeout=0)
    (second,) = bench.receive()
    old = [{"Id": "0", "ReceiptHandle": first["ReceiptHandle"]}]
    told = bench.sqs.delete_message_batch(QueueUrl=bench.queue, Entries=old)
    assert [one["Id"] for one in told["Successful"]] == ["0"]
    bench.sqs.delete_message(QueueUrl=bench.queue, ReceiptHandle=first["ReceiptHandle"])
    assert bench.depth() == 1
    assert all(entry.handles == () for entry in bench.record.of("sqs.Delete*"))
    beat = [{**old[0], "VisibilityTimeout": 60}]
    told = bench.sqs.change_message_visibility_batch(QueueUrl=bench.queue, Entries=beat)
    assert [one["Code"] for one in told["Failed"]] == ["MessageNotInflight"]
    bench.sqs.delete_message(QueueUrl=bench.queue, ReceiptHandle=second["ReceiptHandle"])
    assert bench.depth() == 0


@pytest.mark.parametrize("after", [False, True])
def test_a_barrier_holds_one_request_up(bench: Bench, after):
    barrier = bench.proxy.barrier("sqs.SendMessage", bench.bucket, nth=2, after=after)
    sender = threading.Thread(target=bench.send, args=("one", "two", "three"))
    sender.start()
    with barrier:
        entry = barrier.wait()
        assert entry.operation == "sqs.SendMessage"
        assert bench.depth() == (2 if after else 1)
        assert sender.is_alive()
    sender.join(10)
    assert bench.depth() == 3


def test_who_dies_at_a_barrier_before_its_request_never_made_it(bench: Bench):
    client = bench.client("sqs", read_timeout=0.3)
    with bench.proxy.barrier("sqs.SendMessage") as barrier:
        with pytest.raises(botocore.exceptions.ReadTimeoutError):
            client.send_message(QueueUrl=bench.queue, MessageBody="m")
        barrier.wait()
        client.close()
    assert bench.receive() == []
    with pytest.raises(TimeoutError):
        bench.proxy.barrier("sqs.Nothing").wait(0.05)


def test_a_poller_that_dies_swallows_nothing(bench: Bench):
    client = bench.client("sqs", read_timeout=0.3)
    with pytest.raises(botocore.exceptions.ReadTimeoutError):
        bench.receive(client, WaitTimeSeconds=20)
    client.close()
    bench.send("m")
    assert len(bench.receive(WaitTimeSeconds=2)) == 1


def request(operation: str, caller: str = "") -> Request:
    headers = {"x-amz-target": f"AmazonSQS.{operation}", "authorization": "Credential=x/d/r/sqs/aws4_request"}
    if caller:
        headers["x-amz-security-token"] = f"sandbox-{caller}"
    return Request("POST", "/", headers, b'{"QueueUrl": "http://h/1/the-queue", "a": 1}')


def draws(seed: int, n: int = 50) -> list[str]:
    script = Script(
        [
            Rule(fault=Refuse(code="SlowDown"), operation="sqs.Send*", share=0.3),
            Rule(fault=Refuse(code="OverLimit"), key="the-*", caller="i-*", share=0.5, limit=4),
        ],
        seed=seed,
    )
    found = []
    for _ in range(n):
        for one in (request("SendMessage"), request("ReceiveMessage", "i-1")):
            fault = script.fault_for(subject_of(one))
            found.append(fault.name if fault else "")
    return found


def test_a_script_draws_by_its_seed():
    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    assert draws(7).count("OverLimit") == 4
    assert 5 < draws(7).count("SlowDown") < 25
