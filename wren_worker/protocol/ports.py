"""The seams: what the places need from the world, as Protocols.

``aws`` fills them against AWS (and so against the sandbox), ``testing`` in memory. An implementation retries what is
worth retrying by itself and raises ``QueueError``, ``StoreError`` or ``FleetError`` when that did not help.
Durations are seconds, instants unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

__all__ = [
    "Elastic",
    "FoundImage",
    "InstanceInfo",
    "InstanceRequest",
    "LaunchReport",
    "LeaseState",
    "LogEvent",
    "LogReader",
    "LogSink",
    "Machines",
    "Metadata",
    "ObjectInfo",
    "ObjectStore",
    "OutgoingMessage",
    "Pieces",
    "QueueDepth",
    "ReceivedMessage",
    "ReplyQueue",
    "ReplySender",
    "TaskQueue",
    "TypeInfo",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingMessage:
    """A message to send; ``group_id`` asks SQS for fair delivery between groups."""

    body: str
    group_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedMessage:
    """One delivery of a message."""

    body: str
    receipt_handle: str
    receive_count: int
    sent_timestamp: float
    sender_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """Approximate counts; on AWS up to a minute old."""

    visible: int
    in_flight: int


class LeaseState(Enum):
    """What one attempt to extend a lease said."""

    EXTENDED = "extended"
    LOST = "lost"  # SQS says the delivery is no longer ours
    UNKNOWN = "unknown"  # no answer, or a passing fault: the caller's clock decides


class TaskQueue(Protocol):
    """The fleet's task queue."""

    @property
    def name(self) -> str:
        """Return the queue's name."""
        ...

    def send(self, messages: Sequence[OutgoingMessage]) -> None:
        """Send every message, ten and 1 MiB a request, retrying the entries that failed.

        Raises:
            QueueError: Some entry could not be sent; ``unsent`` holds the positions.
        """
        ...

    def receive(self, *, max_messages: int, wait_time: float, lease_time: float) -> list[ReceivedMessage]:
        """Long-poll for up to ``max_messages`` (1..10)."""
        ...

    def extend(self, receipt_handles: Sequence[str], *, lease_time: float) -> list[LeaseState]:
        """Make leases last ``lease_time`` from now; one state per handle, never raises for a fault of SQS."""
        ...

    def release(self, receipt_handles: Sequence[str], *, delay: float = 0.0) -> None:
        """Give deliveries back, ``delay`` seconds from now; best effort."""
        ...

    def delete(self, receipt_handles: Sequence[str]) -> list[str]:
        """Delete messages; return the handles that could not be deleted."""
        ...

    def depth(self) -> QueueDepth:
        """Return how many messages wait and how many are held."""
        ...


class ReplyQueue(Protocol):
    """A client's own reply queue, read by its owner."""

    @property
    def url(self) -> str:
        """Return the address that travels in chunk messages."""
        ...

    def receive(self, *, wait_time: float) -> list[ReceivedMessage]:
        """Long-poll for up to ten messages.

        Raises:
            QueueError: ``gone`` is true when the queue does not exist any more.
        """
        ...

    def delete(self, receipt_handles: Sequence[str]) -> None:
        """Delete messages; best effort (a notice read twice does no harm)."""
        ...

    def remove(self) -> None:
        """Delete the queue itself; best effort."""
        ...


class ReplySender(Protocol):
    """Sends notices to clients' reply queues, from an instance."""

    def send(self, url: str, bodies: Sequence[str]) -> None:
        """Send every body to one queue.

        Raises:
            QueueError: They could not be sent; ``gone`` is true when the queue does not exist.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One listed object."""

    key: str
    n_bytes: int
    modified_timestamp: float


#: One object's data, in a row; large pieces are sent from where they lie.
Pieces = Sequence[bytes | memoryview]


class ObjectStore(Protocol):
    """The fleet's bucket."""

    def put(self, key: str, data: bytes | memoryview | Pieces) -> None:
        """Write an object, over whatever was there."""
        ...

    def put_once(self, key: str, data: bytes | memoryview | Pieces | Path) -> bool:
        """Write an object unless the key is taken; return whether the key was free.

        False says only that the key is taken, by anybody: a retry inside may have met its own first attempt.
        """
        ...

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes | None:
        """Return an object's bytes, or the range; None when there is no such key."""
        ...

    def download(self, key: str, path: Path, *, offset: int = 0, length: int | None = None) -> bool:
        """Stream an object, or the range, into a file; False when there is no such key."""
        ...

    def fill(
        self, key: str, target: memoryview, *, offset: int = 0, seen: Callable[[memoryview], object] | None = None
    ) -> bool:
        """Fill a buffer with an object's bytes from ``offset`` on; False when not all of them are there.

        ``seen`` is given the bytes in order, as they come, in the caller's thread.
        """
        ...

    def exists(self, key: str) -> bool:
        """Return whether the key is taken."""
        ...

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects under a prefix in key order, a thousand a request."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, a thousand a request."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRequest:
    """What to launch. ``client_token`` makes a repeated request the same request.

    No ``subnet_ids``: one of each zone of the default VPC. No ``security_group_ids``: the fleet's own, which lets
    nothing in. ``tags`` go onto the instances beside those that name fleet, launch, Python and version.
    """

    fleet: str
    count: int
    instance_types: tuple[str, ...]
    image_id: str
    user_data: str
    python: str
    version: str
    launch_id: str
    client_token: str
    spot: bool = False
    max_price: str = ""
    subnet_ids: tuple[str, ...] = ()
    security_group_ids: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImage:
    """An image that instances can boot from. ``wheel``: the version of our wheel that is on it, "" for none."""

    image_id: str
    wheel: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchReport:
    """What a launch started, and why not the rest: ``(reason code, sentence)`` per shortfall, and what helps."""

    instance_ids: tuple[str, ...]
    shortfalls: tuple[tuple[str, str], ...] = ()
    mend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceInfo:
    """An instance as EC2 describes it."""

    instance_id: str
    instance_type: str
    state: str
    launch_timestamp: float
    spot: bool = False
    zone: str = ""
    state_reason_code: str = ""
    state_reason: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeInfo:
    """An instance type. ``memory_bytes`` is 0 and ``manufacturer`` "" where EC2 does not say."""

    name: str
    n_vcpus: int
    memory_bytes: int = 0
    architectures: tuple[str, ...] = ("x86_64",)
    manufacturer: str = ""


class Machines(Protocol):
    """EC2, as far as a fleet needs it."""

    def launch(self, request: InstanceRequest) -> LaunchReport:
        """Start instances; a partial fill is a report, not an error.

        Raises:
            FleetError: Nothing was started; says why.
        """
        ...

    def instances(self, fleet: str, *, alive_only: bool = True) -> list[InstanceInfo]:
        """Return the fleet's instances, oldest first."""
        ...

    def terminate(self, instance_ids: Sequence[str]) -> dict[str, str]:
        """End instances one by one; return ``{instance_id: reason}`` for those that could not be ended."""
        ...

    def set_tags(self, instance_ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """Tag running instances (drain)."""
        ...

    def find_image(self, python: str) -> FoundImage | None:
        """Return the newest own image for a Python minor, by its ``wren:python`` tag."""
        ...

    def named_image(self, image_id: str) -> FoundImage | None:
        """Return an image by its id, None when nobody may boot from such a one."""
        ...

    def find_stock_image(self, owner: str, name_pattern: str) -> str | None:
        """Return the newest x86_64 image of an owner (an account id) whose name fits a pattern with ``*``."""
        ...

    def describe_types(self, instance_types: Sequence[str]) -> list[TypeInfo]:
        """Return what EC2 says of instance types, in the same order.

        Raises:
            FleetError: One does not exist in the region; names it.
        """
        ...

    def spot_prices(self, instance_types: Sequence[str]) -> Mapping[str, tuple[float, float]]:
        """Return today's spot prices, ``(lowest, highest)`` of all zones in dollars an hour; {} when not known."""
        ...

    def console_output(self, instance_id: str) -> str:
        """Return the instance's console text, "" when there is none yet."""
        ...


class Elastic(Protocol):
    """Starts instances for calls that wait. Asked by one thread of the client, again and again."""

    def ensure(self, *, n_pending_calls: int, n_finished_calls: int) -> float:
        """See to it that enough instances run, as far as bounds and rates allow; return seconds until to ask again.

        Args:
            n_pending_calls: Calls without outcome.
            n_finished_calls: Calls that got theirs since the client started.

        Raises:
            FleetError: Nothing runs, and nothing more will be started; says why.
        """
        ...

    def close(self) -> None:
        """Start nothing any more; drain what was started if that was asked for. Best effort."""
        ...


class Metadata(Protocol):
    """The instance's own metadata service."""

    def instance_id(self) -> str:
        """Return the instance id."""
        ...

    def instance_type(self) -> str:
        """Return the instance type."""
        ...

    def tag(self, key: str) -> str | None:
        """Return one of the instance's own tags, None when it is not set.

        Raises:
            FleetError: The metadata service does not answer.
        """
        ...

    def interruption(self) -> float | None:
        """Return when AWS takes this spot instance away (unix seconds), None while it does not mean to.

        Raises:
            FleetError: The metadata service does not answer.
        """
        ...


class LogSink(Protocol):
    """Where an instance's log lines go. Never blocks: a full buffer drops and counts."""

    def put(self, stream: str, timestamp: float, fields: Mapping[str, object]) -> None:
        """Take one line for ``<instance id>-<stream>``."""
        ...

    def dropped(self) -> int:
        """Return how many lines were dropped."""
        ...

    def close(self, *, timeout: float) -> None:
        """Send what is buffered, for at most so long."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """One stored log line."""

    stream: str
    timestamp: float
    message: str


class LogReader(Protocol):
    """Reads the log group back."""

    def events(
        self, *, streams: Sequence[str] = (), start_timestamp: float | None = None, pattern: str = ""
    ) -> Iterator[LogEvent]:
        """Yield stored lines in time order; ``pattern`` is a CloudWatch Logs filter pattern."""
        ...
