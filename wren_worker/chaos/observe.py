"""What a request and its answer say that the checker needs: deliveries, handles, the heads of result objects."""

from __future__ import annotations

import json
from typing import Any

from wren_worker.chaos.http import Response
from wren_worker.chaos.record import Delivery, Entry
from wren_worker.chaos.subject import Subject
from wren_worker.errors import WireError
from wren_worker.protocol.wire import decode_chunk, decode_result

__all__ = ["json_of", "observe_answer", "observe_request"]

_CHANGES = ("sqs.ChangeMessageVisibility", "sqs.ChangeMessageVisibilityBatch")
_HANDLED = (*_CHANGES, "sqs.DeleteMessage", "sqs.DeleteMessageBatch")


def json_of(response: Response) -> dict[str, Any]:
    """Return the JSON of an answer, {} when it is none."""
    try:
        found = json.loads(response.body or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def observe_request(entry: Entry, subject: Subject) -> None:
    """Note what a request asks for."""
    entry.sent_bytes = len(subject.request.body)
    entry.conditional = subject.is_conditional
    if subject.operation == "s3.PutObject" and subject.key.startswith("results/"):
        try:
            entry.result = decode_result(subject.request.body)[0]
        except WireError:
            pass  # the value of one large outcome, or somebody's mischief
    elif subject.operation == "sqs.ReceiveMessage":
        entry.lease_time = float(subject.content.get("VisibilityTimeout", 30))
    elif subject.operation.endswith("Batch"):
        entry.n_entries = len(subject.content.get("Entries", ()))
    if subject.operation in _HANDLED:
        entries = subject.content.get("Entries") or [subject.content]
        entry.asked = tuple(one.get("ReceiptHandle", "") for one in entries)
        entry.lease_time = float(entries[0].get("VisibilityTimeout", 0))


def observe_answer(entry: Entry, subject: Subject, response: Response) -> None:
    """Note what AWS said to it."""
    entry.status = response.status
    if response.status != 200:
        return
    if subject.operation == "sqs.ReceiveMessage":
        entry.deliveries = tuple(delivery_of(message) for message in json_of(response).get("Messages", ()))
    elif subject.operation in _HANDLED:
        entries = subject.content.get("Entries") or [subject.content]
        failed = {failure.get("Id") for failure in json_of(response).get("Failed", ())} - {None}
        entry.handles = tuple(one["ReceiptHandle"] for one in entries if one.get("Id") not in failed)


def delivery_of(message: dict[str, Any]) -> Delivery:
    """Return a message of ReceiveMessage's answer as a delivery."""
    try:
        chunk = decode_chunk(message["Body"])[0]
        what = {
            "job_id": chunk.job_id,
            "chunk_id": chunk.chunk_id,
            "first_call": chunk.first_call,
            "n_calls": chunk.n_calls,
        }
    except WireError:
        what = {}  # a notice, or what somebody put there
    return Delivery(
        message_id=message["MessageId"],
        receipt_handle=message["ReceiptHandle"],
        receive_count=int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
        **what,  # type: ignore[arg-type]
    )
