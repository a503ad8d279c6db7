"""Jobs in this process, one call after the other, so that a breakpoint in the function works."""

from __future__ import annotations

import bdb
import contextlib
import json
import os
import random
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator

from wren_worker.client.attempts import describe
from wren_worker.client.future import Future
from wren_worker.client.job import Job, Restored
from wren_worker.client.refs import ref_to
from wren_worker.client.spec import JobSpec
from wren_worker.client.transport import LONGEST_CALL_TIME, Ticket
from wren_worker.clock import Clock
from wren_worker.errors import RefUnavailable, StoreError
from wren_worker.protocol import records
from wren_worker.protocol.bulk import dump_bulk
from wren_worker.protocol.modules import LocalModules
from wren_worker.protocol.refs import Ref
from wren_worker.protocol.serialize import Loaded, with_objects

__all__ = ["Inline"]

#: Where references say that their objects are.
_BUCKET = "(this process)"


class Inline:
    """Runs calls where they are submitted, on objects as they are: nothing is pickled, nothing captured.

    Timeouts are not enforced. Exceptions keep their own traceback into the function.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._modules = LocalModules()
        #: What was put, by sha256.
        self._objects: dict[str, object] = {}

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
        return _InlineJob(spec, self._clock, self._objects)

    def submit(self, spec: JobSpec, args: tuple[object, ...], kwargs: dict[str, object]) -> Future[object]:
        """Run one call."""
        return self.open(spec).call(args, kwargs)

    def put(self, obj: object) -> Ref:
        """Keep an object, pickled once only to see that a fleet could take it."""
        ref = ref_to(obj, dump_bulk(obj, what="the object to put"), bucket=_BUCKET, modules=self._modules)
        self._objects[ref.sha256] = obj
        return ref

    def cancel(self, job_id: str) -> int:  # noqa: ARG002 - the backend's
        """Do nothing: no call waits."""
        return 0

    def unresolved(self) -> list[Future[object]]:
        """Return nothing: every future is born done."""
        return []

    def interrupted(self) -> None:
        """Do nothing: nothing is waited for."""

    def close(self) -> None:
        """Do nothing: no thread, no queue."""


class _InlineJob:
    """One job; every future it returns is done."""

    def __init__(self, spec: JobSpec, clock: Clock, objects: dict[str, object]) -> None:
        self._spec = spec
        self._clock = clock
        self._objects = objects
        self._func: Callable[..., object] | None = None
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
        attempt, told = 1, list[dict[str, object]]()
        start_timestamp, start_time = self._clock.timestamp(), self._clock.monotonic()
        while True:
            try:
                with _environment(self._spec.env):
                    loaded = Loaded(value=self._apply(args, kwargs))
            except bdb.BdbQuit:
                raise  # whoever leaves the debugger wants out of the job
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the call's outcome
                if attempt <= self._spec.retry.n and isinstance(error, self._spec.retry.on):
                    told.append(self._told(attempt, start_timestamp, start_time, error))
                    self._clock.sleep(random.uniform(0.0, self._spec.retry.longest_delay_time(attempt)))  # noqa: S311
                    attempt += 1
                    start_timestamp, start_time = self._clock.timestamp(), self._clock.monotonic()
                    continue
                loaded = Loaded(exception=error)
            break
        record = records.pack_record(
            index,
            records.SUCCESS if loaded.exception is None else records.FAILURE,
            b"",
            output=records.pack_output(records.STORY, json.dumps(told).encode()) if told else b"",
            attempt=attempt,
            start_timestamp=start_timestamp,
            run_time=self._clock.monotonic() - start_time,
        )
        self._job.deliver_loaded(index, record, loaded)
        return future

    def _told(self, attempt: int, start_timestamp: float, start_time: float, error: BaseException) -> dict[str, object]:
        return {
            "attempt": attempt,
            "slot": 0,
            "start": start_timestamp,
            "time": self._clock.monotonic() - start_time,
            "end": describe(error),
        }

    def _apply(self, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        if not self._objects:  # nothing was put, so there are no references to look for
            return self._spec.func(*args, **kwargs)
        if self._func is None:
            self._func = with_objects(self._spec.func, self._object)
        args, kwargs = with_objects((args, kwargs), self._object)
        return self._func(*args, **kwargs)

    def _object(self, sha256: str) -> object:
        try:
            return self._objects[sha256]
        except KeyError:
            raise RefUnavailable(
                "A Ref stands for an object that was not put by this executor: the inline backend keeps objects in "
                "its own process. Put it here.",
                sha256=sha256,
                bucket=_BUCKET,
            ) from None

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

    def cancel(self, job: Job, calls: Collection[int] | None) -> None:
        """Do nothing: no call waits."""

    def fetch(
        self,
        key: str,
        target: memoryview,  # noqa: ARG002
        seen: Callable[[memoryview], object],  # noqa: ARG002
        offset: int,  # noqa: ARG002
    ) -> bool | None:
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
