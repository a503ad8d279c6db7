"""The fleet's task queue and the clients' reply queues on SQS."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wren_worker.aws.errors import Fault, classify, http_status, is_aws_error
from wren_worker.aws.retry import Backoff
from wren_worker.aws.session import Aws
from wren_worker.aws.sqs_batch import MAX_ENTRIES, in_tens, queue_error, send_all
from wren_worker.aws.sqs_requests import (
    MAX_WAIT_TIME,
    change_visibility,
    delete_ten,
    lease_seconds,
    receive,
    state_of,
)
from wren_worker.clock import Clock, SystemClock
from wren_worker.config import Names
from wren_worker.errors import QueueError
from wren_worker.protocol.ports import LeaseState, OutgoingMessage, QueueDepth, ReceivedMessage

__all__ = ["SqsReplyQueue", "SqsReplySender", "SqsTaskQueue", "create_reply_queue"]

REPLY_RETENTION_TIME = 86_400
#: Source: SQS CreateQueue, read 2026-11: "you must wait at least one second after the queue is created".
_YOUNG_TIME = 3.0
_YOUNG_PAUSE_TIME = 0.25
_SEND_TIMEOUT = 60.0
_URL_TIMEOUT = 20.0
_NOTICE_TIMEOUT = 20.0
_DELETE_TIMEOUT = 10.0


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
            self._url = self._ask_url()
        return self._url

    def _ask_url(self) -> str:
        tries = Backoff(self._clock, timeout=_URL_TIMEOUT)
        while True:
            try:
                return self._aws.sqs().get_queue_url(QueueName=self._name)["QueueUrl"]
            except Exception as error:
                if not is_aws_error(error):
                    raise
                failure = queue_error(error, queue=self._name)
                if failure.__dict__["gone"]:
                    failure.message = f"There is no queue '{self._name}'. Run `wren-standalone setup` for this fleet."
                # The first request of a job is no better a moment to give up than any later one. Silence is another
                # matter: botocore has waited through it already, and an idle instance must not wait any longer.
                if not failure.__dict__["transient"] or not http_status(error) or not tries.wait():
                    raise failure from error

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
        return receive(self._aws.sqs(), self.url, max_messages=max_messages, wait_time=wait_time, lease_time=lease_time)

    def extend(self, receipt_handles: Sequence[str], *, lease_time: float) -> list[LeaseState]:
        """Make leases last ``lease_time`` from now; one state per handle."""
        states: list[LeaseState] = []
        for handles in in_tens(receipt_handles):
            states += self._extend_ten(handles, lease_seconds(lease_time))
        return states

    def _extend_ten(self, handles: Sequence[str], seconds: int) -> list[LeaseState]:
        try:
            failed = change_visibility(self._aws.sqs_lease(), self.url, handles, seconds)
        except Exception as error:  # noqa: BLE001 - the port's promise: a heartbeat never raises
            lost = is_aws_error(error) and classify(error) is Fault.GONE
            return [LeaseState.LOST if lost else LeaseState.UNKNOWN] * len(handles)
        states = [LeaseState.EXTENDED] * len(handles)
        for failure in failed:
            states[int(failure["Id"])] = state_of(failure)
        return states

    def release(self, receipt_handles: Sequence[str], *, delay: float = 0.0) -> None:
        """Give deliveries back, ``delay`` seconds from now; best effort."""
        for handles in in_tens(receipt_handles):
            try:
                change_visibility(self._aws.sqs_lease(), self.url, handles, math.ceil(delay))
            except Exception:  # noqa: BLE001, S112 - best effort: the lease runs out by itself
                continue

    def delete(self, receipt_handles: Sequence[str]) -> list[str]:
        """Delete messages; return the handles that could not be deleted."""
        tries = Backoff(self._clock, timeout=_DELETE_TIMEOUT)
        pending, refused = list(receipt_handles), []
        while pending:
            again: list[str] = []
            for handles in in_tens(pending):
                retry, never = delete_ten(self._aws, self.url, handles)
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
    """Fills ``ports.ReplyQueue``. Safe to share between threads.

    Args:
        aws: The identity to act as.
        url: The queue's address.
        young_time: Seconds from now for which SQS may not know the queue yet, and a poll that says so is an empty one.
        clock: Measures and waits.
    """

    def __init__(self, aws: Aws, url: str, *, young_time: float = 0.0, clock: Clock | None = None) -> None:
        self._aws = aws
        self._url = url
        self._clock = clock or SystemClock()
        self._known_from = self._clock.monotonic() + young_time

    @property
    def url(self) -> str:
        """Return the address that travels in chunk messages."""
        return self._url

    def receive(self, *, wait_time: float) -> list[ReceivedMessage]:
        """Long-poll for up to ten messages.

        Raises:
            QueueError: ``gone`` is true when the queue does not exist any more.
        """
        try:
            return receive(self._aws.sqs(), self._url, max_messages=MAX_ENTRIES, wait_time=wait_time, lease_time=30.0)
        except QueueError as error:
            if not error.__dict__["gone"] or self._clock.monotonic() >= self._known_from:
                raise
            self._clock.sleep(min(wait_time, _YOUNG_PAUSE_TIME))
            return []

    def delete(self, receipt_handles: Sequence[str]) -> None:
        """Delete messages; best effort."""
        for handles in in_tens(receipt_handles):
            delete_ten(self._aws, self._url, handles)

    def remove(self) -> None:
        """Delete the queue itself; best effort."""
        self._known_from = 0.0
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
    return SqsReplyQueue(aws, answer["QueueUrl"], young_time=_YOUNG_TIME)
