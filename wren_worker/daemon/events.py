"""What the daemon's threads tell its loop. The loop alone decides; these are the facts it decides on."""

from __future__ import annotations

import os
import queue
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from wren_worker.daemon.calls import CallTable
from wren_worker.protocol.model import Chunk, ResultObject

__all__ = [
    "Arrived",
    "Event",
    "Fetched",
    "Inbox",
    "JobFiles",
    "LeaseLost",
    "LeaveAsked",
    "PollEnded",
    "Rejected",
    "Removed",
    "Settled",
    "State",
    "Stored",
]


class State(Enum):
    """Where the daemon is in its life; ``Daemon.enter`` is the one place that changes it."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFiles:
    """A job as a slot needs it: opaque bytes and where its modules go."""

    job_id: str
    function: bytes
    modules: bytes
    modules_sha256: str
    env: Mapping[str, str]
    retry_on: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[str, str]:
        """Return what two chunks must share to run in the same child."""
        return self.job_id, self.modules_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A delivery, fetched and checked.

    ``known`` is the chunk's result object if there is one already, ``resolved`` the calls it leaves out that have
    outcomes of their own. ``args`` is the chunk's argument bytes or the file that holds them, ``table`` cuts them; a
    delivery with nothing to run has neither job nor table.
    """

    chunk: Chunk
    receipt_handle: str
    delivery: int
    job: JobFiles | None
    args: bytes | Path
    table: CallTable | None
    known: ResultObject | None = None
    resolved: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A delivery that must not run here; its message stays and ends in the dead-letter queue."""

    receipt_handle: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PollEnded:
    """A poll is over: its messages have been handed on before this. The receiver waits for the loop's next order."""

    n_messages: int
    n_rejected: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLost:
    """The delivery is no longer ours."""

    receipt_handle: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A PUT ended. ``free`` is False when the key was taken; ``found`` is then what is there, for a chunk's object.

    ``refused`` says that what is there is no result object of the chunk, and never will be.
    """

    receipt_handle: str
    key: str
    call_index: int | None = None
    free: bool = True
    found: ResultObject | None = None
    error: str = ""
    refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """A chunk's message was deleted, or could not be: then it comes again and is found done."""

    receipt_handle: str
    deleted: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What slots had asked for is in a file of the instance, or ``error`` says why not."""

    sha256: str
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What is stored of a chunk that is held: its object, and the calls that it leaves out and that have own keys."""

    receipt_handle: str
    known: ResultObject
    resolved: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveAsked:
    """The instance is to leave: ``why``, and by when on the monotonic clock, None when it may take its time."""

    why: str
    deadline: float | None = None


Event = Arrived | Rejected | PollEnded | LeaseLost | Stored | Removed | Fetched | Settled | LeaveAsked


@dataclass(slots=True)
class Inbox:
    """The loop's one inbox: any thread puts, and a byte in a pipe wakes the loop's select."""

    read_fd: int = field(init=False)
    _write_fd: int = field(init=False)
    _queue: queue.SimpleQueue[Event] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self.read_fd, self._write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        os.set_blocking(self._write_fd, False)

    def put(self, event: Event) -> None:
        """Hand an event to the loop."""
        self._queue.put(event)
        self.wake()

    def wake(self) -> None:
        """End the loop's wait; safe in a signal handler."""
        try:
            os.write(self._write_fd, b"\0")
        except BlockingIOError:
            pass  # the pipe is full of wake-ups already

    def take(self) -> list[Event]:
        """Return what has come."""
        try:
            os.read(self.read_fd, 65536)
        except BlockingIOError:
            pass
        events = []
        while True:
            try:
                events.append(self._queue.get_nowait())
            except queue.Empty:
                return events
