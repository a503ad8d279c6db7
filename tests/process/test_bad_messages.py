"""Garbage and forgeries beside real work: on the task queue, in the bucket, on the reply queue. FAULTS 47 to 52."""

from __future__ import annotations

import base64
import dataclasses
import json
import time

from rig import Rig

from wren_worker.config import this_python
from wren_worker.protocol import records, wire
from wren_worker.protocol.envelope import unwrap, wrap
from wren_worker.protocol.frames import pack_calls
from wren_worker.protocol.model import ArgsLocation, ResultObject, result_key
from wren_worker.protocol.records import SUCCESS


def dead_letters(rig: Rig, *, max_receive_count: int) -> str:
    dead = rig.sqs.create_queue(QueueName=rig.names.dead_letter_queue(this_python()))["QueueUrl"]
    arn = rig.sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": str(max_receive_count)})
    rig.sqs.set_queue_attributes(QueueUrl=rig.queue, Attributes={"RedrivePolicy": policy})
    return str(dead)


def bodies(rig: Rig, url: str) -> set[str]:
    taken = rig.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=600).get("Messages", [])
    return {message["Body"] for message in taken}


def all_dead(rig: Rig, dead: str, expected: set[str]) -> None:
    seen: set[str] = set()

    def found_all() -> bool:
        seen.update(bodies(rig, dead))
        return seen == expected

    rig.until(found_all, timeout=60.0)


def forgeries(rig: Rig) -> dict[str, str]:
    """Return messages that must not run, by what each is."""
    _, [chunk] = rig.job(lambda x: print("it ran"), [1])
    good = rig.message(chunk)
    header, payload = unwrap(b"WRNC", base64.b64decode(good))
    args = rig._args[chunk.job_id, chunk.chunk_id]

    def with_header(**fields: object) -> str:
        return base64.b64encode(wrap(b"WRNC", header | fields, bytes(payload))).decode()

    raw = bytearray(base64.b64decode(good))
    newer = bytes(raw[:4]) + b"\x02" + bytes(raw[5:])
    raw[-1] ^= 1
    return {
        "garbage": "x" * 100,
        "half": good[: len(good) // 2 // 4 * 4],
        "python (47)": with_header(python="3.10"),
        "wire major (52)": base64.b64encode(newer).decode(),
        "arguments swapped (49)": base64.b64encode(bytes(raw)).decode(),
        "another job's arguments (49)": with_header(args=header["args"] | {"key": "jobs/other/manifest"}),
        "expired (50)": with_header(expiry_timestamp=time.time() - 1),
        "another queue (50)": with_header(audience=header["audience"].replace("us-east-1", "eu-west-1")),
        "another fleet (52)": with_header(audience=header["audience"] + "x"),
        "replies elsewhere": with_header(reply_queue="https://example.invalid/1/elsewhere"),
        "no manifest": wire.encode_chunk(
            dataclasses.replace(chunk, manifest_sha256="0" * 64, args=dataclasses.replace(chunk.args)), args
        ),
    }


def test_garbage_and_forgeries_go_to_the_dead_letters_while_work_is_done(rig: Rig):
    dead = dead_letters(rig, max_receive_count=2)
    bad = forgeries(rig)
    for body in bad.values():
        rig.sqs.send_message(QueueUrl=rig.queue, MessageBody=body)
    daemon = rig.start(lease_time=1.0)
    found = rig.collect(rig.send(lambda x: x + 1, list(range(8)), chunksize=2), 8)
    assert {one.status for one in found.values()} == {SUCCESS}
    all_dead(rig, dead, set(bad.values()))
    assert len(rig.events("message_rejected")) >= len(bad)
    assert daemon.poll() is None
    again = rig.collect(rig.send(lambda x: x * 2, [1, 2, 3]), 3)
    assert {one.status for one in again.values()} == {SUCCESS}
    assert "it ran" not in (rig.folder / "daemon.log").read_text()


def test_garbage_does_not_keep_an_instance(rig: Rig):
    """R4: rejected messages are no work, however often they come."""
    daemon = rig.start(idle_timeout=4.0, lease_time=1.0)
    deadline, n_sent = time.monotonic() + 60.0, 0
    while daemon.poll() is None and not (rig.folder / "systemctl.log").exists() and time.monotonic() < deadline:
        rig.sqs.send_message(QueueUrl=rig.queue, MessageBody=f"garbage {n_sent}")
        n_sent += 1
        time.sleep(0.3)
    assert (rig.folder / "systemctl.log").exists(), "garbage kept the instance"
    assert rig.events("message_rejected")


def test_a_replayed_message_of_a_done_job_does_not_run_again(rig: Rig):
    ran = rig.folder / "ran"

    def f(path: str) -> int:
        with open(path, "a") as file:
            file.write("x")
        return 7

    rig.start(lease_time=2.0)
    job_id, [chunk] = rig.job(f, [str(ran)])
    rig.sqs.send_message(QueueUrl=rig.queue, MessageBody=rig.message(chunk))
    rig.collect(job_id, 1)
    first = rig.get(result_key(job_id, chunk.chunk_id))
    # as an attached reader that presumes it lost sends it; a client's own replay says the same
    rig.sqs.send_message(QueueUrl=rig.queue, MessageBody=rig.message(dataclasses.replace(chunk, resent=1)))
    rig.until(lambda: rig.depth() == (0, 0) and len(rig.events("chunk_done")) == 2)
    assert rig.get(result_key(job_id, chunk.chunk_id)) == first
    assert ran.read_text() == "x"


def test_an_object_that_is_none_under_a_result_key_stops_nobody(rig: Rig):
    """FAULTS 51 on the instance's side: it is not taken for an outcome, the message stays, the next job runs."""
    dead = dead_letters(rig, max_receive_count=3)
    job_id, [chunk, other] = rig.job(lambda x: x, [1, 2], chunksize=1)
    rig.s3.put_object(Bucket=rig.names.bucket, Key=result_key(job_id, chunk.chunk_id), Body=b"garbage")
    forged = ResultObject(job_id="other", chunk_id=other.chunk_id, first_call=1, n_calls=1)
    data = wire.encode_result(forged, [records.pack_record(1, SUCCESS, b"forged")])
    rig.s3.put_object(Bucket=rig.names.bucket, Key=result_key(job_id, other.chunk_id), Body=data)
    rig.start(lease_time=1.0, publish_timeout=3.0)
    for each in (chunk, other):
        rig.sqs.send_message(QueueUrl=rig.queue, MessageBody=rig.message(each))
    rig.until(lambda: len(rig.events("result_refused")) == 2)
    found = rig.collect(rig.send(lambda x: x + 1, [1, 2]), 2)
    assert {one.status for one in found.values()} == {SUCCESS}
    all_dead(rig, dead, {rig.message(chunk), rig.message(other)})
    assert rig.get(result_key(job_id, chunk.chunk_id)) == b"garbage"


def test_a_table_of_arguments_that_lies_is_refused(rig: Rig):
    _, [chunk] = rig.job(lambda x: x, [1])
    args = bytearray(pack_calls([(0, 1, b"x")]))
    args[:4] = b"\xff\xff\xff\xff"
    location = ArgsLocation(key=chunk.args.key, offset=0, length=len(args), sha256=wire.sha256_hex(bytes(args)))
    rig.sqs.send_message(
        QueueUrl=rig.queue, MessageBody=wire.encode_chunk(dataclasses.replace(chunk, args=location), bytes(args))
    )
    rig.start(lease_time=1.0)
    rig.until(lambda: bool(rig.events("message_rejected")))
    found = rig.collect(rig.send(lambda x: x + 1, [1, 2]), 2)
    assert {one.status for one in found.values()} == {SUCCESS}
