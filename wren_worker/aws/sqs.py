"""The fleet's task queue and the clients' reply queues on SQS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wren_worker.aws.errors import Fault, classify, is_aws_error
from wren_worker.aws.retry import Backoff
from wren_worker.aws.session import Aws
from wren_worker.aws.sqs_batch import MAX_ENTRIES, in_tens, queue_error, send_all
from wren_worker.clock import Clock, SystemClock
from wren_worker.config import Names
from wren_worker.protocol.ports import LeaseState, OutgoingMessage, QueueDepth, ReceivedMessage

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.type_defs import BatchResultErrorEntryTypeDef

__all__ = ["SqsReplyQueue", "SqsReplySender", "SqsTaskQueue", "create_reply_queue"]

#: Source: SQS ReceiveMessage and ChangeMessageVisibility, read 2026-11.
MAX_WAIT_TIME = 20
MAX_LEASE_TIME = 43_200
REPLY_RETENTION_TIME = 86_400
_SEND_TIMEOUT = 60.0
_NOTICE_TIMEOUT = 20.0
_DELETE_TIMEOUT = 10.0
_LOST = ("ReceiptHandleIsInvalid", "MessageNotInflight", "NonExistentQueue", "QueueDoesNotExist")


class SqsTaskQueue:
    """Fills ``ports.TaskQueue``. Safe to share between threads.

    Args:
        aws: The identity to act as.
        name: The queue's name.
        url: Its address, when it is known; else SQS is asked once.
        send_timeout: Seconds for all tries of one ``send``.
    """

    def __init__(
        self,
        aws: Aws,
        name: str,
        *,
        url: str | None = None,
        send_timeout: float = _SEND_TIMEOUT,
        clock: Clock | None = None,
    ) -> None:
        self._aws = aws
        self._name = name
        self._url = url
        self._send_timeout = send_timeout
        self._clock = clock or SystemClock()

    @property
    def name(self) -> str:
        """Return the queue's name."""
        return self._name

    @property
    def url(self) -> str:
        """Return the queue's address.

        Raises:
            QueueError: ``gone`` is true when there is no such queue.
        """
        if self._url is None:
            try:
                self._url = self._aws.sqs().get_queue_url(QueueName=self._name)["QueueUrl"]
            except Exception as error:
                if not is_aws_error(error):
                    raise
                failure = queue_error(error, queue=self._name)
                if failure.__dict__["gone"]:
                    failure.message = f"There is no queue '{self._name}'. Run `wren-standalone setup` for this fleet."
                raise failure from error
        return self._url

    def send(self, messages: Sequence[OutgoingMessage]) -> None:
        """Send every message.

        Raises:
            QueueError: Some entry could not be sent; ``unsent`` holds the positions.
        """
        if messages:
            send_all(self._aws.sqs(), self.url, messages, lambda: Backoff(self._clock, timeout=self._send_timeout))

    def receive(self, *, max_messages: int, wait_time: float, lease_time: float) -> list[ReceivedMessage]:
        """Long-poll once. Fractions: the lease is rounded up, a wait down, but to at least one second.

        Raises:
            QueueError: SQS did not answer with messages; ``gone``, ``denied`` and ``transient`` say why.
        """
        return _receive(
            self._aws.sqs(), self.url, max_messages=max_messages, wait_time=wait_time, lease_time=lease_time
        )

    def extend(self, receipt_handles: Sequence[str], *, lease_time: float) -> list[LeaseState]:
        """Make leases last ``lease_time`` from now; one state per handle."""
        states: list[LeaseState] = []
        for handles in in_tens(receipt_handles):
            states += self._extend_ten(handles, _lease_seconds(lease_time))
        return states

    def _extend_ten(self, handles: Sequence[str], seconds: int) -> list[LeaseState]:
        try:
            failed = _change_visibility(self._aws.sqs_lease(), self.url, handles, seconds)
        except Exception as error:  # noqa: BLE001 - the port's promise: a heartbeat never raises
            lost = is_aws_error(error) and classify(error) is Fault.GONE
            return [LeaseState.LOST if lost else LeaseState.UNKNOWN] * len(handles)
        states = [LeaseState.EXTENDED] * len(handles)
        for failure in failed:
            states[int(failure["Id"])] = _state_of(failure)
        return states

    def release(self, receipt_handles: Sequence[str], *, delay: float = 0.0) -> None:
        """Give deliveries back, ``delay`` seconds from now; best effort."""
        for handles in in_tens(receipt_handles):
            try:
                _change_visibility(self._aws.sqs_lease(), self.url, handles, math.ceil(delay))
            except Exception:  # noqa: BLE001, S112 - best effort: the lease runs out by itself
                continue

    def delete(self, receipt_handles: Sequence[str]) -> list[str]:
        """Delete messages; return the handles that could not be deleted."""
        tries = Backoff(self._clock, timeout=_DELETE_TIMEOUT)
        pending, refused = list(receipt_handles), []
        while pending:
            again: list[str] = []
            for handles in in_tens(pending):
                retry, never = _delete_ten(self._aws, self.url, handles)
                again += retry
                refused += never
            pending = again
            if pending and not tries.wait():
                break
        return refused + pending

    def depth(self) -> QueueDepth:
        """Return how many messages wait and how many are held.

        Raises:
            QueueError: SQS did not say.
        """
        try:
            found = self._aws.sqs().get_queue_attributes(
                QueueUrl=self.url,
                AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
            )["Attributes"]
        except Exception as error:
            if not is_aws_error(error):
                raise
            raise queue_error(error, queue=self._name) from error
        return QueueDepth(
            visible=int(found["ApproximateNumberOfMessages"]),
            in_flight=int(found["ApproximateNumberOfMessagesNotVisible"]),
        )


class SqsReplyQueue:
    """Fills ``ports.ReplyQueue``. Safe to share between threads."""

    def __init__(self, aws: Aws, url: str) -> None:
        self._aws = aws
        self._url = url

    @property
    def url(self) -> str:
        """Return the address that travels in chunk messages."""
        return self._url

    def receive(self, *, wait_time: float) -> list[ReceivedMessage]:
        """Long-poll for up to ten messages.

        Raises:
            QueueError: ``gone`` is true when the queue does not exist any more.
        """
        return _receive(self._aws.sqs(), self._url, max_messages=MAX_ENTRIES, wait_time=wait_time, lease_time=30.0)

    def delete(self, receipt_handles: Sequence[str]) -> None:
        """Delete messages; best effort."""
        for handles in in_tens(receipt_handles):
            _delete_ten(self._aws, self._url, handles)

    def remove(self) -> None:
        """Delete the queue itself; best effort."""
        try:
            self._aws.sqs().delete_queue(QueueUrl=self._url)
        except Exception:  # noqa: BLE001 - best effort: `gc` finds what is left
            return


class SqsReplySender:
    """Fills ``ports.ReplySender``. Safe to share between threads."""

    def __init__(self, aws: Aws, *, send_timeout: float = _NOTICE_TIMEOUT, clock: Clock | None = None) -> None:
        self._aws = aws
        self._send_timeout = send_timeout
        self._clock = clock or SystemClock()

    def send(self, url: str, bodies: Sequence[str]) -> None:
        """Send every body to one queue.

        Raises:
            QueueError: They could not be sent; ``gone`` is true when the queue does not exist.
        """
        messages = [OutgoingMessage(body=body) for body in bodies]
        send_all(self._aws.sqs(), url, messages, lambda: Backoff(self._clock, timeout=self._send_timeout))


def create_reply_queue(aws: Aws, names: Names, reply_id: str) -> SqsReplyQueue:
    """Create an executor's reply queue; what nobody reads is forgotten after a day.

    Raises:
        QueueError: SQS refused.
    """
    try:
        answer = aws.sqs().create_queue(
            QueueName=names.reply_queue(reply_id),
            Attributes={
                "MessageRetentionPeriod": str(REPLY_RETENTION_TIME),
                "ReceiveMessageWaitTimeSeconds": str(MAX_WAIT_TIME),
                "SqsManagedSseEnabled": "true",
            },
            tags={"wren:fleet": names.fleet},
        )
    except Exception as error:
        if not is_aws_error(error):
            raise
        raise queue_error(error) from error
    return SqsReplyQueue(aws, answer["QueueUrl"])


def _lease_seconds(lease_time: float) -> int:
    return max(1, min(MAX_LEASE_TIME, math.ceil(lease_time)))


def _wait_seconds(wait_time: float) -> int:
    # a fraction rounded down to 0 would be a short poll: no wait at all, and not every message is seen
    return max(1, min(MAX_WAIT_TIME, int(wait_time))) if wait_time > 0 else 0


def _receive(
    client: SQSClient, url: str, *, max_messages: int, wait_time: float, lease_time: float
) -> list[ReceivedMessage]:
    try:
        answer = client.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=max(1, min(MAX_ENTRIES, max_messages)),
            WaitTimeSeconds=_wait_seconds(wait_time),
            VisibilityTimeout=_lease_seconds(lease_time),
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


def _change_visibility(
    client: SQSClient, url: str, handles: Sequence[str], seconds: int
) -> Sequence[BatchResultErrorEntryTypeDef]:
    answer = client.change_message_visibility_batch(
        QueueUrl=url,
        Entries=[
            {"Id": str(position), "ReceiptHandle": handle, "VisibilityTimeout": seconds}
            for position, handle in enumerate(handles)
        ],
    )
    return answer.get("Failed", ())


def _state_of(failure: BatchResultErrorEntryTypeDef) -> LeaseState:
    code = failure.get("Code", "")
    if code.endswith(_LOST):
        return LeaseState.LOST
    # SQS words an expired delivery as a bad value: "… is invalid. Reason: Message does not exist or is not
    # available for visibility timeout change", and the 12 h ceiling as "Total VisibilityTimeout … beyond the limit"
    if code == "InvalidParameterValue" and "visibility" in failure.get("Message", "").lower():
        return LeaseState.LOST
    return LeaseState.UNKNOWN


def _delete_ten(aws: Aws, url: str, handles: Sequence[str]) -> tuple[list[str], list[str]]:
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
