"""A message that comes twice resolves once, whenever the second comes."""

from __future__ import annotations

import pickle
import time

from rig import Rig

from wren_worker.protocol import wire
from wren_worker.protocol.model import result_key


def notices(rig: Rig) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    while True:
        answer = rig.sqs.receive_message(QueueUrl=rig.reply, MaxNumberOfMessages=10).get("Messages", [])
        if not answer:
            return found
        for message in answer:
            found += wire.decode_notices(message["Body"])
            rig.sqs.delete_message(QueueUrl=rig.reply, ReceiptHandle=message["ReceiptHandle"])


def test_a_message_that_comes_twice_before_while_and_after_it_runs_has_one_outcome(rig: Rig):
    rig.start(slots="2")
    # each run gives another value: a second outcome would show
    job_id, chunks = rig.job(lambda x: (x, time.sleep(1.0), time.time_ns())[::2], range(3), chunksize=1)
    before, meanwhile, after = chunks
    for chunk in (before, before, meanwhile):
        rig.sqs.send_message(QueueUrl=rig.queue, MessageBody=rig.message(chunk))
    rig.until(lambda: len(rig.events("chunk_received")) >= 1)
    rig.sqs.send_message(QueueUrl=rig.queue, MessageBody=rig.message(meanwhile))
    rig.sqs.send_message(QueueUrl=rig.queue, MessageBody=rig.message(after))
    rig.collect(job_id, 3)
    first = {chunk.chunk_id: rig.get(result_key(job_id, chunk.chunk_id)) for chunk in chunks}
    rig.sqs.send_message(QueueUrl=rig.queue, MessageBody=rig.message(after))
    rig.until(lambda: rig.depth() == (0, 0))
    rig.until(lambda: len(rig.events("chunk_done")) == 6)
    assert {chunk.chunk_id: rig.get(result_key(job_id, chunk.chunk_id)) for chunk in chunks} == first
    assert [pickle.loads(one.value)[0] for _, one in sorted(rig.outcomes(job_id).items())] == [0, 1, 2]
    for key, data in notices(rig):
        assert data in (b"", first[key.rpartition("/")[2]])  # no notice says anything else
