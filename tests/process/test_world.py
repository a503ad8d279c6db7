"""What the daemon holds and says while AWS, the network or the clock fail around it."""

from __future__ import annotations

import json
import os
import pickle
import textwrap
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from relay import DROP, Answer, Relay, Request, refusal
from rig import Rig

from wren_worker.daemon.exits import Exit
from wren_worker.protocol import records, wire
from wren_worker.protocol.model import result_key


def values(found: dict) -> dict[int, object]:
    return {index: pickle.loads(one.value) for index, one in found.items() if one.status == records.SUCCESS}


# --- the bucket ------------------------------------------------------------------------------------------------------


def test_a_forbidden_bucket_keeps_messages_stops_receiving_is_told_and_ends_the_instance(rig: Rig, relay: Relay):
    relay.rule = lambda request: refusal(request, 403, "AccessDenied") if request.action == "PUT results" else None
    rig.start(slots="1", publish_timeout=3.0, idle_timeout=2.0, lease_time=2.0)
    job_id = rig.send(int, range(6), chunksize=1)
    rig.until(lambda: bool(rig.events("result_not_stored")))
    relay.rule = lambda r: refusal(r, 403, "AccessDenied") if r.action in ("PUT results", "PUT state") else None
    time.sleep(2.5)  # the poll that was under way has ended
    n_polls = relay.count("ReceiveMessage")
    rig.until(lambda: bool(rig.events("result_given_up")))
    rig.until((rig.folder / "systemctl.log").exists, timeout=30.0)
    assert relay.count("ReceiveMessage") == n_polls
    rig.until(lambda: rig.depth() == (6, 0))
    assert rig.outcomes(job_id) == {}
    assert relay.count("DeleteMessageBatch") == 0
    assert "PutObject" in rig.events("result_not_stored")[0]["error"]


def test_a_deleted_bucket_keeps_messages_and_ends_the_instance(rig: Rig):
    rig.start(slots="1", publish_timeout=3.0, idle_timeout=2.0, lease_time=2.0)
    _, chunks = rig.job(int, range(3), chunksize=1)
    for item in rig.s3.list_objects_v2(Bucket=rig.names.bucket).get("Contents", []):
        rig.s3.delete_object(Bucket=rig.names.bucket, Key=item["Key"])
    rig.until(lambda: bool(rig.events("state")))
    rig.s3.delete_object(Bucket=rig.names.bucket, Key="state/i-fake")
    rig.s3.delete_bucket(Bucket=rig.names.bucket)
    for chunk in chunks:
        rig.sqs.send_message(QueueUrl=rig.queue, MessageBody=rig.message(chunk))
    rig.until((rig.folder / "systemctl.log").exists, timeout=30.0)
    rig.until(lambda: rig.depth() == (3, 0))
    assert any("bucket" in event["error"].lower() for event in rig.events("poll_failed"))


def test_a_bucket_that_may_not_be_read_costs_no_more_than_one_delivery(rig: Rig, relay: Relay):
    denied = ("GET jobs", "GET")

    def rule(request: Request) -> Answer | None:
        listing = request.method == "GET" and "list-type=2" in request.path
        return refusal(request, 403, "AccessDenied") if request.action in denied or listing else None

    relay.rule = rule
    rig.start(slots="1", lease_time=1.0)
    job_id = rig.send(int, range(2), chunksize=2, max_deliveries=3)
    rig.until(lambda: len(rig.events("poll_failed")) >= 4)
    relay.rule = lambda _: None
    assert values(rig.collect(job_id, 2)) == {0: 0, 1: 1}
    # one lost to the refusal, and the one that it was found with
    assert max(event["delivery"] for event in rig.events("chunk_received")) <= 3


# --- queues ----------------------------------------------------------------------------------------------------------


def test_a_deleted_task_queue_ends_the_instance_and_what_runs_is_stored(rig: Rig):
    rig.start(slots="1", idle_timeout=3.0)
    job_id = rig.send(lambda x: time.sleep(2) or x, [5])
    rig.until(lambda: bool(rig.events("chunk_received")))
    rig.sqs.delete_queue(QueueUrl=rig.queue)
    assert values(rig.collect(job_id, 1)) == {0: 5}
    rig.until((rig.folder / "systemctl.log").exists, timeout=20.0)
    assert any("queue" in event["error"] for event in rig.events("poll_failed"))
    assert rig.daemons[0].poll() is None


def test_a_task_queue_that_is_back_is_polled_again(rig: Rig, relay: Relay):
    relay.rule = lambda r: refusal(r, 400, "QueueDoesNotExist") if r.action == "ReceiveMessage" else None
    rig.start()
    rig.until(lambda: len(rig.events("poll_failed")) >= 3)
    relay.rule = lambda _: None
    assert values(rig.collect(rig.send(int, [1]), 1)) == {0: 1}


def notices(rig: Rig) -> set[str]:
    answer = rig.sqs.receive_message(QueueUrl=rig.reply, MaxNumberOfMessages=10)
    return {key for message in answer.get("Messages", []) for key, _ in wire.decode_notices(message["Body"])}


def test_a_reply_queue_that_seems_gone_for_a_moment_still_gets_its_notices(rig: Rig, relay: Relay):
    refused = []

    def rule(request: Request) -> Answer | None:
        if request.action in ("SendMessageBatch", "SendMessage") and not refused:
            refused.append(request)
            return refusal(request, 400, "QueueDoesNotExist")
        return None

    relay.rule = rule
    rig.start()
    job_id = rig.send(int, [1])
    found: set[str] = set()
    rig.until(lambda: bool(found.update(notices(rig)) or found))
    assert found == {result_key(job_id, "00000000")}
    assert len(refused) == 1
    # and the next one's
    second = rig.send(int, [1])
    rig.until(lambda: bool(found.update(notices(rig)) or len(found) == 2))
    assert result_key(second, "00000000") in found


def test_a_reply_queue_that_stays_gone_is_left_alone(rig: Rig, relay: Relay):
    rig.start()
    rig.sqs.delete_queue(QueueUrl=rig.reply)
    assert len(values(rig.collect(rig.send(int, range(3), chunksize=1), 3))) == 3
    rig.until(lambda: len(rig.events("notice_not_sent")) >= 2)
    time.sleep(1.5)
    n_told = relay.count("SendMessageBatch") + relay.count("SendMessage")
    assert len(values(rig.collect(rig.send(int, range(3), chunksize=1), 3))) == 3
    rig.until(lambda: rig.depth() == (0, 0))
    assert relay.count("SendMessageBatch") + relay.count("SendMessage") == n_told


# --- credentials -----------------------------------------------------------------------------------------------------


class Role:
    """The instance's role: its credentials, and which of them AWS still takes."""

    def __init__(self) -> None:
        self.number = 1
        self.down = False
        self.expired: set[str] = set()

    def __call__(self, request: Request) -> Answer | None:
        if request.path.startswith("/latest/meta-data/iam/security-credentials"):
            if self.down:
                return Answer(503)
            name = request.path.rstrip("/").rpartition("/")[2]
            return Answer(200, self.credentials() if name == "a-role" else b"a-role")
        if request.path.startswith("/latest/"):
            return Answer(503) if self.down else None
        if request.access_key in self.expired:
            code = "ExpiredToken" if not request.headers.get("x-amz-target") else "ExpiredTokenException"
            return refusal(request, 400, code)
        return None

    def credentials(self) -> bytes:
        end = datetime.now(UTC) + timedelta(hours=6)
        return json.dumps(
            {
                "Code": "Success",
                "AccessKeyId": f"KEY{self.number}",
                "SecretAccessKey": "s",
                "Token": "t",
                "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        ).encode()


def test_credentials_that_end_in_the_middle_of_a_call_are_renewed_and_nothing_is_lost(rig: Rig, relay: Relay):
    role = relay.rule = Role()
    rig.start(slots="1", lease_time=3.0)
    job_id = rig.send(lambda x: time.sleep(4) or x, [1])
    rig.until(lambda: bool(rig.events("chunk_received")))
    role.number, role.expired = 2, {"KEY1"}
    assert values(rig.collect(job_id, 1)) == {0: 1}
    rig.until(lambda: rig.depth() == (0, 0))
    assert rig.events("lease_lost") == []
    assert rig.events("result_not_stored") == []
    assert {request.access_key for request in relay.requests if request.access_key} == {"KEY1", "KEY2"}


def test_without_credentials_it_waits_and_goes_on_when_there_are_some(rig: Rig, relay: Relay):
    role = relay.rule = Role()
    daemon = rig.start(slots="1", lease_time=2.0)
    job_id = rig.send(lambda x: time.sleep(1) or x, [1])
    rig.until(lambda: bool(rig.events("chunk_received")))
    role.expired, role.down = {"KEY1"}, True
    rig.until(lambda: bool(rig.events("result_not_stored")))
    assert daemon.poll() is None
    role.number, role.down = 2, False
    assert values(rig.collect(job_id, 1)) == {0: 1}
    assert values(rig.collect(rig.send(int, [3]), 1)) == {0: 3}
    rig.until(lambda: rig.depth() == (0, 0))


# --- the network, the log service, the clock -------------------------------------------------------------------------


def test_a_partition_longer_than_a_lease_costs_the_lease_and_nothing_else(rig: Rig, relay: Relay):
    daemon = rig.start(slots="1", lease_time=2.0)
    ran = rig.folder / "ran"

    def f(x: int) -> int:
        with open(ran, "a") as file:
            file.write("x")
        time.sleep(2)
        return x

    job_id = rig.send(f, [4])
    rig.until(ran.exists)
    relay.rule = lambda _: DROP
    rig.until(lambda: bool(rig.events("lease_lost")))
    rig.until(lambda: rig.depth() == (1, 0))
    time.sleep(1.0)
    assert rig.outcomes(job_id) == {}
    relay.rule = lambda _: None
    assert values(rig.collect(job_id, 1)) == {0: 4}
    rig.until(lambda: rig.depth() == (0, 0))
    assert daemon.poll() is None
    first = rig.get(result_key(job_id, "00000000"))
    time.sleep(1.0)
    assert rig.get(result_key(job_id, "00000000")) == first


def test_a_partition_without_work_ends_the_instance_in_its_time(rig: Rig, relay: Relay):
    rig.start(idle_timeout=3.0)
    rig.until(lambda: relay.count("ReceiveMessage") > 0)
    relay.rule = lambda _: DROP
    rig.until((rig.folder / "systemctl.log").exists, timeout=30.0)


def test_a_dead_log_service_costs_calls_nothing_and_the_exit_seconds(rig: Rig, relay: Relay):
    def rule(request: Request) -> Answer | None:
        if request.headers.get("x-amz-target", "").startswith("Logs_"):
            time.sleep(3)
            return DROP
        return None

    relay.rule = rule
    daemon = rig.start()

    def say(x: int) -> int:
        print("line", x)
        return x

    assert len(values(rig.collect(rig.send(say, range(50)), 50, timeout=20.0))) == 50
    daemon.terminate()
    assert daemon.wait(20) == Exit.STOPPED


STEPPING = """
    import os, time
    _real, _file = time.time, os.environ.get("TEST_STEP_FILE", "")

    def stepped():
        try:
            with open(_file) as file:
                return _real() + float(file.read() or 0)
        except (OSError, ValueError):
            return _real()

    if _file:
        time.time = stepped
"""


def test_a_clock_that_steps_an_hour_either_way_changes_no_lease_timeout_or_idle_time(rig: Rig):
    stubs, step = rig.folder / "stubs", rig.folder / "step"
    stubs.mkdir()
    (stubs / "sitecustomize.py").write_text(textwrap.dedent(STEPPING))
    step.write_text("0")
    rig.environ["TEST_STEP_FILE"] = str(step)
    rig.paths.insert(0, str(stubs))
    daemon = rig.start(slots="1", lease_time=3.0, idle_timeout=30.0)
    for offset in (3600, -3600):
        job_id = rig.send(lambda x: time.sleep(4) or x, [offset], timeout=20.0)
        n_received = len(rig.events("chunk_received"))
        rig.until(lambda n=n_received: len(rig.events("chunk_received")) > n)
        step.write_text(str(offset))
        found = rig.collect(job_id, 1)
        assert values(found) == {0: offset}
        assert 3.5 < found[0].run_time < 15
        # instants follow the clock: who reads them sees that it stepped
        assert abs(found[0].result.remote_write_timestamp - time.time() - offset) < 60
    rig.until(lambda: rig.depth() == (0, 0))
    assert rig.events("lease_lost") == []
    assert not (rig.folder / "systemctl.log").exists()
    assert daemon.poll() is None


def test_a_clock_that_aws_does_not_accept_is_named(rig: Rig, relay: Relay):
    relay.rule = lambda r: refusal(r, 403, "RequestTimeTooSkewed") if r.action == "ReceiveMessage" else None
    rig.start()
    rig.until(lambda: bool(rig.events("poll_failed")))
    assert "clock" in rig.events("poll_failed")[0]["error"]


# --- other versions --------------------------------------------------------------------------------------------------


def test_another_versions_message_is_neither_run_nor_deleted_and_ours_go_on(rig: Rig):
    rig.start(lease_time=1.0)
    _, (chunk,) = rig.job(os.getpid, [1])
    import base64

    data = bytearray(base64.b64decode(rig.message(chunk)))
    data[4] += 1  # the wire major, behind the magic
    rig.sqs.send_message(QueueUrl=rig.queue, MessageBody=base64.b64encode(data).decode())
    rig.sqs.send_message(QueueUrl=rig.queue, MessageBody=rig.message(replace(chunk, python="3.99")))
    assert values(rig.collect(rig.send(int, [2]), 1)) == {0: 2}
    rig.until(lambda: len({event["reason"] for event in rig.events("message_rejected")}) == 2)
    assert any("wire version 2 is not 1" in event["reason"] for event in rig.events("message_rejected"))
    rig.until(lambda: sum(rig.depth()) == 2)
