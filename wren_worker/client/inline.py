"""Jobs in this process, one call after the other, so that a breakpoint in the function works."""

from __future__ import annotations

import bdb
import contextlib
import os
import uuid
from collections.abc import Iterable, Iterator

from wren_worker.client.future import Future
from wren_worker.client.job import Job, Restored
from wren_worker.client.spec import JobSpec
from wren_worker.client.transport import LONGEST_CALL_TIME, Ticket
from wren_worker.clock import Clock
from wren_worker.errors import StoreError
from wren_worker.protocol import records
from wren_worker.protocol.serialize import Loaded

__all__ = ["Inline"]


class Inline:
    """Runs calls where they are submitted, on objects as they are: nothing is pickled, nothing captured.

    Timeouts are not enforced. Exceptions keep their own traceback into the function.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    @property
    def describe(self) -> str:
        """Return one line: what runs the calls."""
        return "backend inline: calls run in this process, one after the other"

    @property
    def longest_call_time(self) -> float:
        """Return the limit that a fleet would have, in seconds."""
        return LONGEST_CALL_TIME

    def open(self, spec: JobSpec) -> _InlineJob:
        """Start a job."""
        return _InlineJob(spec, self._clock)

    def submit(self, spec: JobSpec, args: tuple[object, ...], kwargs: dict[str, object]) -> Future[object]:
        """Run one call."""
        return self.open(spec).call(args, kwargs)

    def close(self) -> None:
        """Do nothing: no thread, no queue."""


class _InlineJob:
    """One job; every future it returns is done."""

    def __init__(self, spec: JobSpec, clock: Clock) -> None:
        self._spec = spec
        self._clock = clock
        self._n_calls = 0
        self._job = Job(
            f"inline-{uuid.uuid4().hex}",
            name=spec.name,
            source=_Nowhere(),
            host_submit_timestamp=clock.timestamp(),
        )

    def calls(self, calls: Iterable[tuple[object, ...]]) -> list[Future[object]]:
        return [self.call(args, {}) for args in calls]

    def call(self, args: tuple[object, ...], kwargs: dict[str, object]) -> Future[object]:
        index, self._n_calls = self._n_calls, self._n_calls + 1
        self._job.add_chunk(index, index, 1)
        self._job.mark_sent([index], self._clock.timestamp())
        future = self._job.new_future(index)
        attempt = 1
        start_timestamp, start_time = self._clock.timestamp(), self._clock.monotonic()
        while True:
            try:
                with _environment(self._spec.env):
                    loaded = Loaded(value=self._spec.func(*args, **kwargs))
            except bdb.BdbQuit:
                raise  # whoever leaves the debugger wants out of the job
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the call's outcome
                if attempt <= self._spec.limits.retries:
                    attempt += 1
                    continue
                loaded = Loaded(exception=error)
            break
        record = records.pack_record(
            index,
            records.SUCCESS if loaded.exception is None else records.FAILURE,
            b"",
            attempt=attempt,
            start_timestamp=start_timestamp,
            run_time=self._clock.monotonic() - start_time,
        )
        self._job.deliver_loaded(index, record, loaded)
        return future

    def finish(self) -> None:
        """Do nothing: all calls have run."""

    def abort(self) -> None:
        """Do nothing: the calls so far have run."""


@contextlib.contextmanager
def _environment(env: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Nowhere:
    """The source of futures that are born done."""

    progress = False

    def listen(self) -> None:
        """Do nothing."""

    def expect(self) -> None:
        """Do nothing."""

    def finished(self, job: Job) -> None:
        """Do nothing."""

    def fetch(self, key: str) -> bytes | None:
        """Refuse: nothing of an inline job is in S3."""
        raise StoreError(f"{key}: an inline job stores nothing.")

    def restored(self, ticket: Ticket, loaded: Loaded | None) -> Restored:
        """Return how to make the future again: its outcome travels along."""
        return _restore, (ticket, loaded)


def _restore(ticket: Ticket, loaded: Loaded) -> Future[object]:
    job = Job(ticket.job_id, name="", source=_Nowhere(), host_submit_timestamp=0.0)
    future = job.want(ticket)
    job.deliver_loaded(ticket.call_index, ticket.record or b"", loaded)
    return future
