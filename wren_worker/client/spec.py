"""What a job is asked to be, and who can run one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from wren_worker.client.future import Future
from wren_worker.client.retry import Retry
from wren_worker.protocol.model import Limits
from wren_worker.protocol.refs import Ref

__all__ = ["Backend", "JobSpec", "OpenJob"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One ``map``, ``call_async`` or burst of ``submit``, checked.

    ``n_expected`` is how many calls will come, None when the input does not say; ``chunksize`` None is "auto".
    """

    func: Callable[..., object]
    name: str
    limits: Limits
    retry: Retry = field(default_factory=lambda: Retry(0))
    env: dict[str, str] = field(default_factory=dict)
    meta: dict[str, object] = field(default_factory=dict)
    exclude_modules: tuple[str, ...] = ()
    chunksize: int | None = None
    n_expected: int | None = None


class OpenJob(Protocol):
    """A job while it takes calls."""

    def calls(self, calls: Iterable[tuple[object, ...]]) -> list[Future[object]]:
        """Take a call for each tuple of arguments, which are a snapshot.

        Raises:
            SerializationError: They cannot be pickled.
        """
        ...

    def finish(self) -> None:
        """Say that no more calls come."""
        ...

    def abort(self) -> None:
        """Give the job up; what was sent runs, what was not is dropped."""
        ...


class Backend(Protocol):
    """Runs jobs: a fleet, or this process."""

    @property
    def describe(self) -> str:
        """Return one line: what runs the calls, and where."""
        ...

    @property
    def longest_call_time(self) -> float:
        """Return the largest timeout it can honour, in seconds."""
        ...

    def open(self, spec: JobSpec) -> OpenJob:
        """Start a job."""
        ...

    def submit(self, spec: JobSpec, args: tuple[object, ...], kwargs: dict[str, object]) -> Future[object]:
        """Run one call; calls of one function that follow closely share a job."""
        ...

    def put(self, obj: object) -> Ref:
        """Store an object once for all calls that use it."""
        ...

    def cancel(self, job_id: str) -> int:
        """Cancel what is unresolved of a job; return how many calls that were.

        Raises:
            StoreError: There is no such job, or not all of it could be recorded.
        """
        ...

    def unresolved(self) -> list[Future[object]]:
        """Return the futures of its calls that have no outcome yet."""
        ...

    def interrupted(self) -> None:
        """Say what ``close`` waits for, after a Ctrl-C."""
        ...

    def close(self) -> None:
        """Wait until everything is sent, then end threads."""
        ...
