"""The seven SQS operations that every job makes thousands of, answered without moto's machinery.

moto keeps queues, their attributes, tags and policies; messages of standard queues live in a ``Mailbox`` beside each.
Anything else (FIFO queues, other operations) goes on to moto.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from moto.sqs.models import Message, Queue, SQSBackend, sqs_backends

from wren_worker.sandbox.mailbox import HandleInvalid, Letter, Mailbox, MailboxClosed, NotInFlight, TooLong

__all__ = ["OPERATIONS", "Refused", "answer", "mend_queues"]

_MAXIMUM_BYTES = 1 << 20
_LONGEST_VISIBILITY = 43200

Json = Mapping[str, Any]


class Refused(Exception):
    """An error as SQS words it."""

    def __init__(self, code: str, message: str, *, query_code: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.query_code = code, message, query_code or code


def _gone() -> Refused:
    return Refused(
        "QueueDoesNotExist",
        "The specified queue does not exist.",
        query_code="AWS.SimpleQueueService.NonExistentQueue",
    )


def _invalid(message: str) -> Refused:
    return Refused("InvalidParameterValue", message)


def mailbox(queue: Queue) -> Mailbox:
    """Return the queue's messages."""
    found: Mailbox | None = queue.__dict__.get("wren_mailbox")
    # setdefault on a dict is atomic: two first requests get the same mailbox
    return found or queue.__dict__.setdefault("wren_mailbox", Mailbox(time.time))


def find_queue(account: str, region: str, url: str) -> Queue:
    """Return the queue behind a URL or a name.

    Raises:
        Refused: There is none.
    """
    queue = sqs_backends[account][region].queues.get(url.rpartition("/")[2])
    if queue is None:
        raise _gone()
    return queue


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _letter(queue: Queue, entry: Json) -> Letter:
    body = entry["MessageBody"]
    limit = int(queue.maximum_message_size)  # type: ignore[attr-defined]
    if not body:
        raise Refused("MissingParameter", "The request must contain the parameter MessageBody.")
    if _bytes(body) > limit:
        raise _invalid(f"One or more parameters are invalid. Reason: Message must be shorter than {limit} bytes.")
    delay = entry.get("DelaySeconds")
    delay = int(queue.delay_seconds if delay is None else delay)  # type: ignore[attr-defined]
    if not 0 <= delay <= 900:
        reason = "Reason: DelaySeconds must be >= 0 and <= 900."
        raise _invalid(f"Value {delay} for parameter DelaySeconds is invalid. {reason}")
    attributes = entry.get("MessageAttributes") or {}
    attributes_md5 = ""
    if attributes:
        model = Message("", body)
        model.message_attributes = attributes
        attributes_md5 = model.attribute_md5
    now = time.time()
    return Letter(
        body=body,
        md5=hashlib.md5(body.encode(), usedforsecurity=False).hexdigest(),
        attributes=attributes,
        attributes_md5=attributes_md5,
        group_id=entry.get("MessageGroupId") or "",
        sent_timestamp=now,
        free_at=now + delay if delay else 0.0,
    )


def _sent(letter: Letter) -> dict[str, Any]:
    told = {"MessageId": letter.message_id, "MD5OfMessageBody": letter.md5}
    return told | ({"MD5OfMessageAttributes": letter.attributes_md5} if letter.attributes else {})


def _send_message(queue: Queue, request: Json, _listening: Callable[[], bool]) -> Json:
    letter = _letter(queue, request)
    mailbox(queue).send([letter])
    return _sent(letter)


def _entries(request: Json) -> list[Json]:
    entries: list[Json] = request.get("Entries") or []
    if not entries:
        raise Refused(
            "EmptyBatchRequest",
            "There should be at least one entry in the request.",
            query_code="AWS.SimpleQueueService.EmptyBatchRequest",
        )
    if len(entries) > 10:
        raise Refused(
            "TooManyEntriesInBatchRequest",
            f"Maximum number of entries per request are 10. You have sent {len(entries)}.",
            query_code="AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
        )
    if len({entry["Id"] for entry in entries}) != len(entries):
        raise Refused(
            "BatchEntryIdsNotDistinct",
            "Two or more batch entries in the request have the same Id.",
            query_code="AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
        )
    return entries


def _send_message_batch(queue: Queue, request: Json, _listening: Callable[[], bool]) -> Json:
    entries = _entries(request)
    total = sum(_bytes(entry["MessageBody"]) for entry in entries)
    if total > _MAXIMUM_BYTES:
        raise Refused(
            "BatchRequestTooLong",
            f"Batch requests cannot be longer than {_MAXIMUM_BYTES} bytes. You have sent {total} bytes.",
            query_code="AWS.SimpleQueueService.BatchRequestTooLong",
        )
    letters: list[tuple[str, Letter]] = []

    def one(entry: Json) -> None:
        letters.append((entry["Id"], _letter(queue, entry)))

    failed = _each(entries, one)[1]
    mailbox(queue).send(letter for _, letter in letters)
    return {"Successful": [{"Id": name, **_sent(letter)} for name, letter in letters], "Failed": failed}


def _receive_message(queue: Queue, request: Json, listening: Callable[[], bool]) -> Json:
    n_wanted = int(request.get("MaxNumberOfMessages", 1))
    wait = request.get("WaitTimeSeconds")
    wait = int(queue.receive_message_wait_time_seconds if wait is None else wait)  # type: ignore[attr-defined]
    visibility = request.get("VisibilityTimeout")
    visibility = int(queue.visibility_timeout if visibility is None else visibility)  # type: ignore[attr-defined]
    if not 1 <= n_wanted <= 10:
        raise _invalid(
            f"Value {n_wanted} for parameter MaxNumberOfMessages is invalid. Reason: Must be between 1 and 10."
        )
    if not 0 <= wait <= 20:
        raise _invalid(f"Value {wait} for parameter WaitTimeSeconds is invalid. Reason: Must be >= 0 and <= 20.")
    _check_visibility(visibility)
    retention = int(queue.message_retention_period)  # type: ignore[attr-defined]
    dead_letters, limit = queue.dead_letter_queue, 0
    if dead_letters is not None and queue.redrive_policy:
        limit = int(queue.redrive_policy["maxReceiveCount"])

    def give_up(letter: Letter) -> bool:
        return bool(limit and letter.receive_count >= limit) or letter.sent_timestamp + retention < time.time()

    taken, given_up = mailbox(queue).receive(
        max_messages=n_wanted,
        wait_time=wait,
        visibility_time=visibility,
        is_listening=listening,
        give_up=give_up,
    )
    dead = [letter for letter in given_up if limit and letter.receive_count >= limit]
    if dead and dead_letters is not None:
        for letter in dead:
            letter.free_at = 0.0
        mailbox(dead_letters).send(dead)
    names = {*request.get("AttributeNames", ()), *request.get("MessageSystemAttributeNames", ())}
    wanted = tuple(request.get("MessageAttributeNames", ()))
    return {"Messages": [_delivered(letter, names, wanted) for letter in taken]} if taken else {}


def _delivered(letter: Letter, names: set[str], wanted: tuple[str, ...]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "MessageId": letter.message_id,
        "ReceiptHandle": letter.handle,
        "MD5OfBody": letter.md5,
        "Body": letter.body,
    }
    if names:
        everything = {
            "SenderId": "AIDAWRENSANDBOX00000",
            "SentTimestamp": str(int(letter.sent_timestamp * 1000)),
            "ApproximateReceiveCount": str(letter.receive_count),
            "ApproximateFirstReceiveTimestamp": str(int(letter.first_received_timestamp * 1000)),
        } | ({"MessageGroupId": letter.group_id} if letter.group_id else {})
        told["Attributes"] = everything if "All" in names else {k: v for k, v in everything.items() if k in names}
    if letter.attributes and wanted:
        prefixes = tuple(name[:-2] for name in wanted if name.endswith(".*"))
        shown = {
            key: value
            for key, value in letter.attributes.items()
            if "All" in wanted or key in wanted or (prefixes and key.startswith(prefixes))
        }
        if shown:
            told["MessageAttributes"], told["MD5OfMessageAttributes"] = shown, letter.attributes_md5
    return told


def _check_visibility(visibility: int) -> None:
    if not 0 <= visibility <= _LONGEST_VISIBILITY:
        reason = f"Reason: Must be between 0 and {_LONGEST_VISIBILITY}."
        raise _invalid(f"Value {visibility} for parameter VisibilityTimeout is invalid. {reason}")


def _delete(queue: Queue, handle: str) -> None:
    try:
        mailbox(queue).delete(handle)
    except HandleInvalid:
        raise Refused("ReceiptHandleIsInvalid", f'The input receipt handle "{handle}" is not valid.') from None


def _change(queue: Queue, entry: Json) -> None:
    visibility, handle = int(entry["VisibilityTimeout"]), entry["ReceiptHandle"]
    _check_visibility(visibility)
    try:
        mailbox(queue).change_visibility(handle, visibility)
    except HandleInvalid:
        raise Refused("ReceiptHandleIsInvalid", f'The input receipt handle "{handle}" is not valid.') from None
    except NotInFlight:
        reason = "Reason: Message does not exist or is not available for visibility timeout change."
        raise _invalid(f"Value {handle} for parameter ReceiptHandle is invalid. {reason}") from None
    except TooLong:
        reason = f"Reason: Total VisibilityTimeout for the message is beyond the limit [{_LONGEST_VISIBILITY} seconds]."
        raise _invalid(f"Value {visibility} for parameter VisibilityTimeout is invalid. {reason}") from None


def _each(entries: list[Json], one: Callable[[Json], None]) -> tuple[list[Json], list[Json]]:
    done: list[Json] = []
    failed: list[Json] = []
    for entry in entries:
        try:
            one(entry)
            done.append({"Id": entry["Id"]})
        except Refused as error:
            failed.append({"Id": entry["Id"], "SenderFault": True, "Code": error.code, "Message": error.message})
    return done, failed


def _delete_message(queue: Queue, request: Json, _listening: Callable[[], bool]) -> Json:
    _delete(queue, request["ReceiptHandle"])
    return {}


def _delete_message_batch(queue: Queue, request: Json, _listening: Callable[[], bool]) -> Json:
    done, failed = _each(_entries(request), lambda entry: _delete(queue, entry["ReceiptHandle"]))
    return {"Successful": done, "Failed": failed}


def _change_message_visibility(queue: Queue, request: Json, _listening: Callable[[], bool]) -> Json:
    _change(queue, request)
    return {}


def _change_message_visibility_batch(queue: Queue, request: Json, _listening: Callable[[], bool]) -> Json:
    done, failed = _each(_entries(request), lambda entry: _change(queue, entry))
    return {"Successful": done, "Failed": failed}


#: What is answered here: operation -> (queue, request, is the caller still there) -> answer.
OPERATIONS: dict[str, Callable[[Queue, Json, Callable[[], bool]], Json]] = {
    "SendMessage": _send_message,
    "SendMessageBatch": _send_message_batch,
    "ReceiveMessage": _receive_message,
    "DeleteMessage": _delete_message,
    "DeleteMessageBatch": _delete_message_batch,
    "ChangeMessageVisibility": _change_message_visibility,
    "ChangeMessageVisibilityBatch": _change_message_visibility_batch,
}


def answer(
    operation: str, body: bytes, *, account: str, region: str, listening: Callable[[], bool]
) -> tuple[HTTPStatus, bytes, list[tuple[str, str]]] | None:
    """Answer one request in SQS's JSON protocol; None when it is moto's (a FIFO queue)."""
    headers = [("Content-Type", "application/x-amz-json-1.0")]
    try:
        request = json.loads(body)
        queue = find_queue(account, region, request.get("QueueUrl", ""))
        if queue.fifo_queue:
            return None
        told = OPERATIONS[operation](queue, request, listening)
    except (MailboxClosed, Refused) as problem:
        error = problem if isinstance(problem, Refused) else _gone()
    except (ValueError, TypeError, KeyError) as problem:
        error = Refused("MissingParameter", f"The request is malformed: {type(problem).__name__}: {problem}.")
    else:
        return HTTPStatus.OK, json.dumps(told).encode(), headers
    headers.append(("x-amzn-query-error", f"{error.query_code};Sender"))
    text = json.dumps({"__type": f"com.amazonaws.sqs#{error.code}", "message": error.message})
    return HTTPStatus.BAD_REQUEST, text.encode(), headers


def mend_queues() -> None:
    """Make moto's queue attributes, purge and deletion see the mailboxes."""
    purge, delete = SQSBackend.purge_queue, SQSBackend.delete_queue

    def purge_queue(backend: SQSBackend, queue_name: str) -> None:
        purge(backend, queue_name)
        mailbox(backend.get_queue(queue_name)).purge()

    def delete_queue(backend: SQSBackend, queue_name: str) -> None:
        queue = backend.get_queue(queue_name)
        delete(backend, queue_name)
        mailbox(queue).close()

    SQSBackend.purge_queue = purge_queue  # type: ignore[method-assign, assignment]
    SQSBackend.delete_queue = delete_queue  # type: ignore[method-assign, assignment]
    for name, count in (
        ("approximate_number_of_messages", lambda counts: counts.visible),
        ("approximate_number_of_messages_not_visible", lambda counts: counts.in_flight),
        ("approximate_number_of_messages_delayed", lambda counts: counts.delayed),
    ):
        original = getattr(Queue, name).fget

        def counted(queue: Queue, original: Any = original, count: Any = count) -> int:
            return int(original(queue) if queue.fifo_queue else count(mailbox(queue).counts()))

        setattr(Queue, name, property(counted))
