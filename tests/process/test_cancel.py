"""Cancellation on the real daemon, by a client that does what the protocol asks, no more: verdicts, then the bell."""

from __future__ import annotations

import os
import pickle
import signal
import time
from pathlib import Path

import psutil
from rig import Rig

from wren_worker.protocol import records, wire
from wren_worker.protocol.model import Chunk, ResultObject, call_key, cancel_key, ranges


def cancelled(index: int) -> bytes:
    return records.pack_record(index, records.ERROR, wire.error_value("CallCancelled", f"call {index} was cancelled"))


def verdict(rig: Rig, chunk: Chunk, calls: list[int]) -> None:
    """Record that these calls of a chunk are cancelled, leaving its others out."""
    rest = set(range(chunk.first_call, chunk.first_call + chunk.n_calls)) - set(calls)
    result = ResultObject(
        job_id=chunk.job_id,
        chunk_id=chunk.chunk_id,
        first_call=chunk.first_call,
        n_calls=chunk.n_calls,
        left_out=ranges(rest),
        writer="client",
    )
    rig.put_result(result, [cancelled(index) for index in calls])


def own_verdict(rig: Rig, chunk: Chunk, index: int) -> None:
    result = ResultObject(
        job_id=chunk.job_id,
        chunk_id=chunk.chunk_id,
        first_call=chunk.first_call,
        n_calls=chunk.n_calls,
        call_index=index,
        writer="client",
    )
    key = call_key(chunk.job_id, chunk.chunk_id, index)
    rig.s3.put_object(Bucket=rig.names.bucket, Key=key, Body=wire.encode_result(result, [cancelled(index)]))


def ring(rig: Rig, job_id: str) -> None:
    rig.s3.put_object(Bucket=rig.names.bucket, Key=cancel_key(job_id), Body=os.urandom(8))


def send(rig: Rig, chunks: list[Chunk]) -> None:
    for chunk in chunks:
        rig.sqs.send_message(QueueUrl=rig.queue, MessageBody=rig.message(chunk))


def alive(path: Path) -> bool:
    return path.exists() and psutil.pid_exists(int(path.read_text() or 0))


def test_running_calls_are_stopped_within_seconds_also_one_that_ignores_sigterm(rig: Rig):
    rig.start()
    marks = [rig.folder / f"pid{x}" for x in range(2)]

    def f(x: int) -> None:
        if x == 1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        marks[x].write_text(str(os.getpid()))
        time.sleep(300)

    job_id, chunks = rig.job(f, range(2), chunksize=1)
    send(rig, chunks)
    rig.until(lambda: all(alive(mark) for mark in marks))
    for chunk in chunks:
        verdict(rig, chunk, [chunk.first_call])
    ring(rig, job_id)
    rig.until(lambda: not any(alive(mark) for mark in marks), timeout=20.0)
    rig.until(lambda: rig.depth() == (0, 0))
    assert [one.error for one in rig.outcomes(job_id).values()] == ["CallCancelled"] * 2
    # the slots serve on
    assert pickle.loads(rig.collect(rig.send(int, [7]), 1)[0].value) == 7


def test_neighbours_of_a_cancelled_call_go_on_and_queued_ones_are_not_run(rig: Rig):
    rig.start(slots="1")
    ran = rig.folder / "ran"
    ran.mkdir()

    def f(x: int) -> int:
        (ran / f"{x}-{os.getpid()}").touch()
        time.sleep({0: 4, 1: 300}.get(x, 0))
        return x

    job_id, chunks = rig.job(f, range(6), chunksize=6)
    (chunk,) = chunks
    send(rig, chunks)
    rig.until(lambda: any(path.name.startswith("0-") for path in ran.iterdir()))
    verdict(rig, chunk, [1, 3])
    ring(rig, job_id)
    found = rig.collect(job_id, 6)
    assert {i: pickle.loads(one.value) for i, one in found.items() if i not in (1, 3)} == {0: 0, 2: 2, 4: 4, 5: 5}
    assert [found[i].error for i in (1, 3)] == ["CallCancelled"] * 2
    assert not [path for path in ran.iterdir() if path.name[0] in "13"]
    rig.until(lambda: rig.depth() == (0, 0))


def test_the_second_ring_of_a_job_is_heard_too_and_own_keys_count(rig: Rig):
    rig.start()
    marks = [rig.folder / f"pid{x}" for x in range(2)]

    def f(x: int) -> None:
        marks[x].write_text(str(os.getpid()))
        time.sleep(300)

    job_id, chunks = rig.job(f, range(2), chunksize=2)
    send(rig, chunks)
    rig.until(lambda: all(alive(mark) for mark in marks))
    verdict(rig, chunks[0], [0])
    ring(rig, job_id)
    rig.until(lambda: not alive(marks[0]), timeout=20.0)
    assert alive(marks[1])
    own_verdict(rig, chunks[0], 1)
    ring(rig, job_id)
    rig.until(lambda: not alive(marks[1]), timeout=20.0)
    rig.until(lambda: rig.depth() == (0, 0))
    assert [rig.outcomes(job_id)[i].error for i in range(2)] == ["CallCancelled"] * 2


def test_chunks_that_come_after_the_ring_are_settled_before_they_run(rig: Rig):
    rig.start(slots="1")
    ran = rig.folder / "ran"
    ran.mkdir()

    def f(x: int) -> int:
        (ran / str(x)).touch()
        time.sleep(6 if x == 0 else 0)
        return x

    job_id, chunks = rig.job(f, range(3), chunksize=1)
    send(rig, chunks[:1])
    rig.until((ran / "0").exists)
    ring(rig, job_id)
    rig.until(lambda: bool(rig.events("job_cancelled")))
    verdict(rig, chunks[1], [1])
    send(rig, chunks[1:])
    found = rig.collect(job_id, 3)
    assert found[1].error == "CallCancelled"
    assert pickle.loads(found[2].value) == 2
    assert sorted(path.name for path in ran.iterdir()) == ["0", "2"]
    rig.until(lambda: rig.depth() == (0, 0))


def test_a_job_cancelled_with_no_instance_alive_is_found_done(rig: Rig):
    job_id, chunks = rig.job(lambda x: x, range(4), chunksize=2)
    send(rig, chunks)
    for chunk in chunks:
        verdict(rig, chunk, list(range(chunk.first_call, chunk.first_call + 2)))
    ring(rig, job_id)
    rig.start()
    rig.until(lambda: rig.depth() == (0, 0))
    assert [one.error for one in rig.outcomes(job_id).values()] == ["CallCancelled"] * 4


def test_a_cancelled_call_is_nobodys_failure(rig: Rig):
    rig.start(slots="1")
    mark = rig.folder / "pid"

    def f(x: int) -> int:
        mark.write_text(str(os.getpid()))
        time.sleep(300 if x == 0 else 0)
        return x

    # one attempt, one delivery: whatever is counted against a neighbour would end it
    job_id, chunks = rig.job(f, range(2), chunksize=2, max_attempts=1, retries=0)
    send(rig, chunks)
    rig.until(lambda: alive(mark))
    verdict(rig, chunks[0], [0])
    ring(rig, job_id)
    found = rig.collect(job_id, 2)
    assert (found[0].error, pickle.loads(found[1].value), found[1].attempt) == ("CallCancelled", 1, 1)
    assert rig.events("slot_ended")[0]["why"] == "resolved"
