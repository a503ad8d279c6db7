"""Single requests to SQS, in our words: seconds, deliveries, lease states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wren_worker.aws.errors import classify, is_aws_error
from wren_worker.aws.session import Aws
from wren_worker.aws.sqs_batch import MAX_ENTRIES, queue_error
from wren_worker.protocol.ports import LeaseState, ReceivedMessage

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.type_defs import BatchResultErrorEntryTypeDef

__all__ = ["MAX_WAIT_TIME", "change_visibility", "delete_ten", "lease_seconds", "receive", "state_of"]

#: Source: SQS ReceiveMessage and ChangeMessageVisibility, read 2026-11.
MAX_WAIT_TIME = 20
MAX_LEASE_TIME = 43_200
_LOST = ("ReceiptHandleIsInvalid", "MessageNotInflight", "NonExistentQueue", "QueueDoesNotExist")


def lease_seconds(lease_time: float) -> int:
    """Return a lease as SQS takes it: rounded up, so that it never ends before its holder thinks."""
    return max(1, min(MAX_LEASE_TIME, math.ceil(lease_time)))


def _wait_seconds(wait_time: float) -> int:
    # a fraction rounded down to 0 would be a short poll: no wait at all, and not every message is seen
    return max(1, min(MAX_WAIT_TIME, int(wait_time))) if wait_time > 0 else 0


def receive(
    client: SQSClient, url: str, *, max_messages: int, wait_time: float, lease_time: float
) -> list[ReceivedMessage]:
    """Long-poll once.

    Raises:
        QueueError: SQS did not answer with messages; ``gone``, ``denied`` and ``transient`` say why.
    """
    try:
        answer = client.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=max(1, min(MAX_ENTRIES, max_messages)),
            WaitTimeSeconds=_wait_seconds(wait_time),
            VisibilityTimeout=lease_seconds(lease_time),
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp", "SenderId"],
        )
    except Exception as error:
        if not is_aws_error(error):
            raise
        raise queue_error(error) from error
    received: list[ReceivedMessage] = []
    for message in answer.get("Messages", ()):
        attributes = message.get("Attributes", {})
        received.append(
            ReceivedMessage(
                body=message["Body"],
                receipt_handle=message["ReceiptHandle"],
                receive_count=int(attributes.get("ApproximateReceiveCount", "1")),
                sent_timestamp=int(attributes.get("SentTimestamp", "0")) / 1000,
                sender_id=attributes.get("SenderId", ""),
            )
        )
    return received


def change_visibility(
    client: SQSClient, url: str, handles: Sequence[str], seconds: int
) -> Sequence[BatchResultErrorEntryTypeDef]:
    """Make up to ten leases end ``seconds`` from now; return the entries that failed."""
    answer = client.change_message_visibility_batch(
        QueueUrl=url,
        Entries=[
            {"Id": str(position), "ReceiptHandle": handle, "VisibilityTimeout": seconds}
            for position, handle in enumerate(handles)
        ],
    )
    return answer.get("Failed", ())


def state_of(failure: BatchResultErrorEntryTypeDef) -> LeaseState:
    """Return what a failed entry says about its lease."""
    code = failure.get("Code", "")
    if code.endswith(_LOST):
        return LeaseState.LOST
    # SQS words an expired delivery as a bad value: "… is invalid. Reason: Message does not exist or is not
    # available for visibility timeout change" or "Value … for parameter ReceiptHandle is invalid. Reason: The receipt
    # handle has expired", and the 12 h ceiling as "Total VisibilityTimeout … beyond the limit"
    text = failure.get("Message", "").lower()
    # LocalStack puts its class's name there, with an "Exception" behind it
    if code.startswith("InvalidParameterValue") and any(word in text for word in ("visibility", "receipthandle")):
        return LeaseState.LOST
    return LeaseState.UNKNOWN


def delete_ten(aws: Aws, url: str, handles: Sequence[str]) -> tuple[list[str], list[str]]:
    """Delete up to ten; return the handles worth another try and those that stay."""
    try:
        answer = aws.sqs().delete_message_batch(
            QueueUrl=url,
            Entries=[{"Id": str(position), "ReceiptHandle": handle} for position, handle in enumerate(handles)],
        )
    except Exception as error:  # noqa: BLE001 - what is not deleted comes back and is found done
        retryable = is_aws_error(error) and classify(error).retryable
        return (list(handles), []) if retryable else ([], list(handles))
    again: list[str] = []
    never: list[str] = []
    for failure in answer.get("Failed", ()):
        (never if failure.get("SenderFault") else again).append(handles[int(failure["Id"])])
    return again, never
