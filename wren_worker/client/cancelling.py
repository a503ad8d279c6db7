"""Cancels calls: the verdict goes under their result keys, then the doorbell rings for those who run them.

A verdict holds whether or not an instance lives: whoever receives a chunk later finds it done.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from wren_worker.client.job import Job
from wren_worker.client.transport import Transport
from wren_worker.client.verdicts import Verdicts, places, verdict
from wren_worker.protocol.model import cancel_key

__all__ = ["cancel_calls"]

#: A bell that rings twice must look different.
_BELL_BYTES = 8


def cancel_calls(transport: Transport, job: Job, calls: Collection[int] | None) -> None:
    """Cancel calls of a job, or all, that have no outcome yet; futures that are known here get theirs.

    One request for each chunk of which all is cancelled, and one for all instances. What was not sent is not sent.

    Raises:
        StoreError: Not all of it could be recorded; to cancel again does no harm.
    """
    with job.condition:
        job.withheld += 1
    try:
        _cut(job, calls)
        with job.condition:
            found = job.ledger.open_places(calls)
        sent = any(book.host_send_timestamp for book, _ in found)
        make_record = verdict(
            "CallCancelled", f"call {{call}} of job {job.job_id} was cancelled before it had an outcome."
        )
        try:
            Verdicts(transport.store, transport.clock).record(job, places(job, found), make_record)
        finally:
            if sent:
                transport.store.put(cancel_key(job.job_id), os.urandom(_BELL_BYTES))
    finally:
        with job.condition:
            job.withheld -= 1


def _cut(job: Job, calls: Collection[int] | None) -> None:
    """Have calls cut into chunks that wait for company: a verdict needs a key."""
    hasten = job.hasten
    if hasten is None:
        return
    with job.condition:
        ledger = job.ledger
        uncut = calls is None or any(ledger.book_of_call(index) is None for index in calls)
    if uncut:
        hasten()
