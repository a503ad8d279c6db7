"""Batches of SQS: how many entries fit a request, and sending until every entry is in or time is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from wren_worker.aws.errors import Fault, classify, error_code, explain, is_aws_error
from wren_worker.aws.retry import Backoff
from wren_worker.errors import QueueError
from wren_worker.protocol.ports import OutgoingMessage

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

__all__ = ["MAX_ENTRIES", "batches", "in_tens", "queue_error", "send_all"]

#: Source: SQS SendMessageBatch, read 2026-11: ten entries, 1,048,576 bytes of bodies and attributes a request.
MAX_ENTRIES = 10
MAX_BATCH_BYTES = 1_048_576
#: Codes of failed entries that another try may mend; others marked as the sender's fault stay failed.
_RETRYABLE_ENTRY = ("Throttl", "Internal", "ServiceUnavailable", "RequestTimeout", "OverLimit", "SlowDown")


def message_bytes(message: OutgoingMessage) -> int:
    """Return what a message counts towards a request's limit."""
    body = message.body
    return len(body) if body.isascii() else len(body.encode())


def batches(
    messages: Sequence[OutgoingMessage], positions: Sequence[int], *, max_bytes: int = MAX_BATCH_BYTES
) -> Iterator[list[int]]:
    """Yield positions in order, cut by ten entries and by bytes."""
    batch: list[int] = []
    total = 0
    for position in positions:
        size = message_bytes(messages[position])
        if batch and (len(batch) == MAX_ENTRIES or total + size > max_bytes):
            yield batch
            batch, total = [], 0
        batch.append(position)
        total += size
    if batch:
        yield batch


def in_tens(handles: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield receipt handles, ten a request."""
    for start in range(0, len(handles), MAX_ENTRIES):
        yield handles[start : start + MAX_ENTRIES]


def queue_error(error: BaseException, **data: object) -> QueueError:
    """Return the typed error for whatever a request to SQS raised.

    ``gone``, ``denied`` and ``transient`` say what a caller can act on.
    """
    fault = classify(error)
    return QueueError(
        explain(error),
        code=error_code(error),
        gone=fault is Fault.GONE,
        denied=fault in (Fault.DENIED, Fault.CREDENTIALS, Fault.SKEWED),
        transient=fault.retryable,
        **data,
    )


def send_all(client: SQSClient, url: str, messages: Sequence[OutgoingMessage], backoff: Callable[[], Backoff]) -> None:
    """Send every message, retrying what failed and is worth it.

    Raises:
        QueueError: Some were not sent; ``unsent`` holds their positions.
    """
    tries = backoff()
    pending: list[int] = list(range(len(messages)))
    refused: list[int] = []
    why: QueueError | None = None
    while pending:
        failed: list[int] = []
        for batch in batches(messages, pending):
            try:
                again, never, reason = _send_batch(client, url, messages, batch)
            except Exception as error:
                if not is_aws_error(error):
                    raise
                reason = queue_error(error)
                if not reason.__dict__["transient"]:
                    rest = set(pending[pending.index(batch[0]) :])
                    reason.__dict__["unsent"] = sorted({*refused, *failed, *rest})
                    raise reason from error
                again, never = batch, []
            failed += again
            refused += never
            why = reason or why
        pending = failed
        if pending and not tries.wait():
            break
    if refused or pending:
        failure = why or QueueError("SQS refused messages.")
        failure.__dict__["unsent"] = sorted({*refused, *pending})
        raise failure


def _send_batch(
    client: SQSClient, url: str, messages: Sequence[OutgoingMessage], batch: Sequence[int]
) -> tuple[list[int], list[int], QueueError | None]:
    """Send one request; return positions worth another try, positions refused for good, and the reason."""
    entries: list[SendMessageBatchRequestEntryTypeDef] = []
    for position in batch:
        entry: SendMessageBatchRequestEntryTypeDef = {"Id": str(position), "MessageBody": messages[position].body}
        if messages[position].group_id:
            entry["MessageGroupId"] = messages[position].group_id
        entries.append(entry)
    answer = client.send_message_batch(QueueUrl=url, Entries=entries)
    again: list[int] = []
    never: list[int] = []
    reason: QueueError | None = None
    for failure in answer.get("Failed", ()):
        code = failure.get("Code", "")
        retryable = not failure.get("SenderFault") or any(part in code for part in _RETRYABLE_ENTRY)
        (again if retryable else never).append(int(failure["Id"]))
        text = f"SQS refused a message ({code}: {failure.get('Message', '')})."
        reason = QueueError(text, code=code, gone=False, denied=False, transient=retryable)
    return again, never, reason
