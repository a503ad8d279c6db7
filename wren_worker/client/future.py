"""The future of one call: a ``concurrent.futures.Future`` without the weight."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Any, TypeVar, cast

from wren_worker.client import interrupts, outcome
from wren_worker.client.attempts import Attempt, attempts_of
from wren_worker.client.resolve import ChunkBook
from wren_worker.client.transport import Ticket
from wren_worker.errors import CallCancelled
from wren_worker.protocol import records
from wren_worker.protocol.model import ChunkId
from wren_worker.protocol.serialize import Loaded
from wren_worker.protocol.wire import new_chunk_id

if TYPE_CHECKING:
    from wren_worker.client.job import Job

__all__ = ["Future"]

T = TypeVar("T")

# the standard library's words for states; its wait() and as_completed() compare them
_PENDING, _FINISHED = "PENDING", "FINISHED"

#: A pickled future carries its outcome along up to this size; a larger one is fetched from S3 again.
_CARRIED_BYTES = 64 * 1024


class Future(concurrent.futures.Future[T]):
    """What one call gives, once it is there. Safe from any thread; picklable at any time.

    It borrows its job's condition, and gets one of its own only when the standard library's ``wait`` or
    ``as_completed`` asks for it: those hold the conditions of many futures at once, in the order of their addresses,
    which two jobs that share conditions would turn into a deadlock. The outcome's bytes are unpickled when they are
    first asked for, in the thread that asks, and kept as the object.
    """

    __slots__ = ("_callbacks", "_job", "_loaded", "_own_condition", "_own_waiters", "_record", "_seen", "_state",
                 "call_index")  # fmt: skip

    def __init__(self, job: Job, call_index: int) -> None:
        # the base's __init__ would make a Condition: 1.6 KB for each of what may be a million futures
        self._job = job
        self.call_index = call_index
        self._state = _PENDING
        self._record: bytes | None = None
        self._loaded: Loaded | None = None
        self._seen = False
        self._callbacks: list[Callable[[Future[T]], object]] | None = None
        self._own_condition: threading.Condition | None = None
        self._own_waiters: list[Any] | None = None

    # What the outcome is

    def result(self, timeout: float | None = None, throw_except: bool = True) -> T:
        """Return the call's value, or raise its exception (with ``throw_except=False``: return None).

        Args:
            timeout: Seconds to wait for it; None waits for as long as it takes.
            throw_except: PyWren's: whether a failed call raises.

        Raises:
            TimeoutError: It is not there in time.
            CallError: The call has no outcome of its own: timeout, crash, cancelled, lost.
            StoreError: A large value cannot be fetched right now; asking again may help.
        """
        loaded = self._outcome(timeout)
        if loaded.exception is None:
            return cast("T", loaded.value)
        if not throw_except:
            return cast("T", None)
        try:
            raise loaded.exception
        finally:
            # the traceback of the exception names this frame, which names the exception
            del loaded, self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the call's exception, None when it has a value. Waits as ``result`` does."""
        return self._outcome(timeout).exception

    def done(self) -> bool:
        """Return whether the outcome is here."""
        if self._state is not _FINISHED:
            self._job.source.listen()
        return self._state is _FINISHED

    def running(self) -> bool:
        """Return whether the call's chunk was sent and its outcome is not here yet."""
        with self._job.condition:
            book = self._job.ledger.book_of_call(self.call_index)
            return self._state is not _FINISHED and book is not None and book.host_send_timestamp > 0

    def cancel(self) -> bool:
        """Cancel the call, queued or running, for every reader; return whether "cancelled" is its outcome.

        False when it had another outcome first. A running call is ended within seconds. In the thread of an event loop
        nothing is waited for: the verdict is recorded soon, and True only says so.

        Raises:
            StoreError: The verdict could not be recorded: the call goes on.
        """
        if self._state is not _FINISHED:
            self._job.source.cancel(self._job, [self.call_index])
        return self._state is not _FINISHED or self.cancelled()

    def cancelled(self) -> bool:
        """Return whether the recorded outcome is a cancellation."""
        if self._state is not _FINISHED:
            return False
        loaded = self._loaded
        if loaded is None and outcome.status(self._record or b"") != records.ERROR:
            return False
        return isinstance(self._outcome(None).exception, CallCancelled)

    @property
    def done_already(self) -> bool:
        """Return whether the outcome is here, without having anybody look for it."""
        return self._state is _FINISHED

    def succeeded(self) -> bool:
        """Return whether the call has a value and ``result()``, ``exception()`` or ``wait()`` has seen it (PyWren)."""
        return self._seen and self._outcome(None).exception is None

    def errored(self) -> bool:
        """Return whether the call failed and ``result()``, ``exception()`` or ``wait()`` has seen it (PyWren)."""
        return self._seen and self._outcome(None).exception is not None

    # What is known about the call

    @property
    def job_id(self) -> str:
        """Return the id of the job that the call belongs to."""
        return self._job.job_id

    @property
    def callset_id(self) -> str:
        """Return the job id under PyWren's name."""
        return self._job.job_id

    @property
    def call_id(self) -> str:
        """Return the call's index in PyWren's form, "00007"."""
        return f"{self.call_index:05d}"

    @property
    def stdout(self) -> str:
        """Return what the call wrote to stdout, "" while there is no outcome."""
        return outcome.output(self._completed() or b"", records.STDOUT)

    @property
    def stderr(self) -> str:
        """Return what the call wrote to stderr, "" while there is no outcome."""
        return outcome.output(self._completed() or b"", records.STDERR)

    @property
    def attempts(self) -> list[Attempt]:
        """Return the executions of the call within the delivery that gave the outcome; none while there is none."""
        instance_id = str(self.run_status.get("instance_id", ""))
        return attempts_of(self._completed(), self._loaded, instance_id)

    @property
    def lies_elsewhere(self) -> bool:
        """Return whether the outcome is known, and its value is in an object of its own that was not loaded yet."""
        return self._record is not None and self._loaded is None and outcome.is_elsewhere(self._record)

    @property
    def run_status(self) -> dict[str, object]:
        """Return remote facts (where it ran, seconds, bytes), {} while there is no outcome."""
        if not self._record:
            return {}
        with self._job.condition:
            book = self._job.ledger.book_of_call(self.call_index)
            return outcome.remote_facts(self._record, book, self.call_index)

    @property
    def invoke_status(self) -> dict[str, object]:
        """Return host facts: ids and, in unix seconds, when the call was submitted, sent and answered."""
        facts: dict[str, object] = {
            "job_id": self.job_id,
            "call_index": self.call_index,
            "host_submit_timestamp": self._job.host_submit_timestamp,
        }
        with self._job.condition:
            book = self._job.ledger.book_of_call(self.call_index)
            if book is not None:
                facts |= {
                    "chunk_id": new_chunk_id(book.number),
                    "host_send_timestamp": book.host_send_timestamp or None,
                    "host_receive_timestamp": book.host_receive_timestamp or None,
                }
        return facts

    # How others hear of it

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[T]], object]) -> None:
        """Call ``fn(future)`` once the outcome is here: now, or later from the thread that collects."""
        with self._job.condition:
            if self._state is not _FINISHED:
                self._callbacks = [*(self._callbacks or ()), fn]
                fn_runs_now = False
            else:
                fn_runs_now = True
        if fn_runs_now:
            self._run(fn)
        else:
            self._job.source.listen()

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self).__await__()

    def _book(self) -> ChunkBook | None:
        with self._job.condition:
            return self._job.ledger.book_of_call(self.call_index)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        book = self._book()
        if book is None and self._job.hasten is not None:
            self._job.hasten()
            book = self._book()
        with self._job.condition:
            loaded, record = self._loaded, self._record
        if book is None:
            raise InvalidStateError(f"{self!r} cannot be pickled before its chunk is cut: map() has not returned yet.")
        ticket = Ticket(
            job_id=self.job_id,
            call_index=self.call_index,
            chunk_id=ChunkId(new_chunk_id(book.number)),
            first_call=book.first_call,
            n_calls=book.n_calls,
            # once the value was asked for, the record is without its bytes
            record=record if record and loaded is None and len(record) <= _CARRIED_BYTES else None,
        )
        return self._job.source.restored(ticket, loaded)

    def __repr__(self) -> str:
        state = "done" if self._state is _FINISHED else "running" if self.running() else "pending"
        return f"<Future {self.job_id}/{self.call_id} {state}>"

    # How it gets its outcome: only its job may call these

    def _accept(self, record: bytes) -> bool:
        """Take the outcome, under the job's condition; False when ``_finish_under_own_condition`` must follow."""
        self._record = record
        if self._own_condition is None:
            self._state = _FINISHED
        return self._own_condition is None

    def _fail(self, error: BaseException) -> bool:
        """Take an error of this process as the outcome; as ``_accept``."""
        self._loaded = Loaded(exception=error)
        if self._own_condition is None:
            self._state = _FINISHED
        return self._own_condition is None

    def _finish_under_own_condition(self) -> None:
        failed = self._record is None or outcome.status(self._record) != records.SUCCESS
        with self._condition:
            self._state = _FINISHED
            for waiter in self._own_waiters or ():
                (waiter.add_exception if failed else waiter.add_result)(self)
            self._condition.notify_all()

    def _run_callbacks(self) -> None:
        with self._job.condition:
            callbacks, self._callbacks = self._callbacks or [], None
        for fn in callbacks:
            self._run(fn)

    def _run(self, fn: Callable[[Future[T]], object]) -> None:
        try:
            fn(self)
        except Exception:  # as the standard library does: the collector must not end because of it
            logging.getLogger("wren_worker").exception("exception calling callback for %r", self)

    def _outcome(self, timeout: float | None) -> Loaded:
        if self._state is not _FINISHED:
            self._wait(timeout)
        self._seen = True
        if self._loaded is not None:
            return self._loaded
        record: bytes | memoryview | None = self._record
        loaded = outcome.load_plain(self._record) if self._record else None
        if loaded is None:
            record = self._completed()
            loaded = outcome.load(record, job_id=self.job_id, call_index=self.call_index)
        with self._job.condition:
            # two readers may both have unpickled; every reader gets the object of the first
            if self._loaded is None:
                self._loaded = loaded
                if record is not None:
                    self._record = outcome.without_value(record)
            return self._loaded

    def _completed(self) -> bytes | memoryview | None:
        """Return the record with what lies elsewhere in S3 put in."""
        if not self._record:
            return None
        return outcome.complete(self._record, self._job.source.fetch, job_id=self.job_id)

    def _wait(self, timeout: float | None) -> None:
        if self._state is _FINISHED:
            return
        self._job.source.listen()
        # Condition.wait counts on the real clock, whatever clock the session was given
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            with self._job.condition:
                # the condition is the whole job's: it wakes for neighbours too
                while self._state is not _FINISHED:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError
                    self._job.condition.wait(left)
        except KeyboardInterrupt:
            interrupts.waiting([self._job])
            raise

    # What the standard library's wait(), as_completed() and wrap_future() reach for

    @property
    def _condition(self) -> threading.Condition:
        with self._job.condition:
            if self._own_condition is None:
                self._own_condition = threading.Condition()
            return self._own_condition

    @_condition.setter
    def _condition(self, _: threading.Condition) -> None:
        raise InvalidStateError("a future's condition is its own business")

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]  # made when asked for
        if self._state is not _FINISHED:
            self._job.source.listen()
        if self._own_waiters is None:
            self._own_waiters = []
        return self._own_waiters

    def _get_snapshot(self) -> tuple[bool, bool, BaseException | None, T | None]:
        """Return ``(done, cancelled, exception, value)``; asyncio asks for it from Python 3.14 on."""
        if self._state is not _FINISHED:
            return False, False, None, None
        loaded = self._outcome(None)
        return True, False, loaded.exception, cast("T | None", loaded.value)

    def set_running_or_notify_cancel(self) -> bool:
        """Refuse: outcomes come from S3."""
        raise InvalidStateError(f"{self!r}: only its job decides on a call")

    def set_result(self, result: T) -> None:  # noqa: ARG002 - the base's signature
        """Refuse: outcomes come from S3."""
        raise InvalidStateError(f"{self!r}: only its job decides on a call")

    def set_exception(self, exception: BaseException | None) -> None:  # noqa: ARG002 - the base's signature
        """Refuse: outcomes come from S3."""
        raise InvalidStateError(f"{self!r}: only its job decides on a call")
