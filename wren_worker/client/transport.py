"""What the client needs from the rest of the system. ``wiring`` fills it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from wren_worker.clock import Clock
from wren_worker.config import Names
from wren_worker.protocol.ports import Elastic, ObjectStore, ReplyQueue, TaskQueue

__all__ = ["LONGEST_CALL_TIME", "Patience", "Restore", "Ticket", "Transport"]

#: SQS keeps a delivery for at most 12 h from its first receive; an hour of it is for everything but the call.
#: Source: SQS developer guide, "Visibility timeout", read 2026-11.
LONGEST_CALL_TIME = 11 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What a pickled future carries: where its outcome will be, or the outcome itself.

    ``record`` is the call's outcome record when it is known and small.
    """

    job_id: str
    call_index: int
    chunk_id: str
    first_call: int
    n_calls: int
    record: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a chunk may be nowhere: in no queue, on no instance, without outcome.

    Attributes:
        lost_time: Seconds after which it is sent again; doubles each time.
        most_resends: How often, before its calls are given up.
    """

    lost_time: float = 180.0
    most_resends: int = 5


class Restore(Protocol):
    """A module-level function: makes the future of a ticket in another process, on the same fleet."""

    def __call__(self, backend: str, names: Names, ticket: Ticket, /) -> object:
        """Return the future."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """A fleet as a client sees it.

    Attributes:
        names: What the fleet's things are called; travels in pickled futures.
        backend: "sqs" or "local"; travels in pickled futures.
        task_queue: Where chunks go.
        store: The fleet's bucket.
        new_reply_queue: Makes this client's own reply queue; called once, from a thread of the session.
        why_nothing_runs: Says in one line why no result comes, "" when something does run. May ask AWS.
        describe: One line: backend, fleet, account, region.
        restore: Called by an unpickled future, see ``Restore``.
        clock: The machine's clock.
        python: The Python minor that runs calls, "3.11".
        longest_call_time: Largest timeout the fleet can honour, in seconds.
        elastic: Starts instances for calls that wait; None: somebody else does.
        patience: When what is nowhere is sent again.
    """

    names: Names
    backend: str
    task_queue: TaskQueue
    store: ObjectStore
    new_reply_queue: Callable[[], ReplyQueue]
    why_nothing_runs: Callable[[], str]
    describe: str
    restore: Restore
    clock: Clock
    python: str
    longest_call_time: float = LONGEST_CALL_TIME
    elastic: Elastic | None = None
    patience: Patience = Patience()
