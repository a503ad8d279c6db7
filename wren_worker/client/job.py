"""One job as its futures see it: what they share, and how outcomes reach them in bulk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Protocol

from wren_worker.client.resolve import ChunkBook, Ledger, Resolved
from wren_worker.client.transport import Ticket
from wren_worker.errors import WrenError
from wren_worker.protocol import records
from wren_worker.protocol.model import ResultObject
from wren_worker.protocol.serialize import Loaded

if TYPE_CHECKING:
    from wren_worker.client.future import Future

__all__ = ["Job", "Source", "Watcher"]

Restored = tuple[Callable[..., object], tuple[object, ...]]


class Source(Protocol):
    """Where a job's outcomes come from: a session, or this process."""

    def listen(self) -> None:
        """See to it that outcomes are being collected. Raises WrenError in a forked child."""
        ...

    def expect(self) -> None:
        """Take note that a job without unresolved calls has one again."""
        ...

    def fetch(self, key: str, target: memoryview, seen: Callable[[memoryview], object], offset: int) -> bool | None:
        """Fill a buffer with an object of the fleet's bucket, see ``outcome.Fetch``."""
        ...

    def restored(self, ticket: Ticket, loaded: Loaded | None) -> Restored:
        """Return what ``__reduce__`` of a future returns; ``loaded`` is its outcome if that was asked for."""
        ...

    def finished(self, job: Job) -> None:
        """Take note that every call of the job is resolved and no more will come."""
        ...

    def cancel(self, job: Job, calls: Collection[int] | None) -> None:
        """Record that calls of the job, or all, are cancelled unless they have an outcome. Raises StoreError."""
        ...

    @property
    def progress(self) -> bool | None:
        """Return whether to show progress: yes, no, or as the place suggests."""
        ...


class Watcher(Protocol):
    """Wants to know of futures that get their outcome. Called from the collector's thread, without locks held."""

    def resolved(self, futures: list[Future[object]], /) -> None:
        """Take futures that are done."""
        ...


class Job:
    """What the futures of one job share. Safe from any thread.

    ``condition`` guards the ledger, the futures' states and callbacks, and is notified once per result object.
    A future is held here until it is resolved, and no longer.
    """

    __slots__ = (
        "closed",
        "condition",
        "failure",
        "futures",
        "hasten",
        "host_submit_timestamp",
        "job_id",
        "learn",
        "ledger",
        "n_news",
        "name",
        "source",
        "watchers",
        "withheld",
    )

    def __init__(self, job_id: str, *, name: str, source: Source, host_submit_timestamp: float) -> None:
        self.job_id = job_id
        self.name = name
        self.source = source
        self.host_submit_timestamp = host_submit_timestamp
        self.condition = threading.Condition()
        self.ledger = Ledger(job_id)
        self.futures: dict[int, Future[object]] = {}
        self.watchers: list[Watcher] = []
        #: While its calls are still being cut. Cuts what waits, now; takes an instance id, and ``(slot, run time)`` of
        #: calls that came back.
        self.hasten: Callable[[], None] | None = None
        self.learn: Callable[[str, list[tuple[int, float]]], None] | None = None
        self.failure: BaseException | None = None
        self.closed = False
        #: How many cancellations are being recorded; meanwhile nothing of the job is sent.
        self.withheld = 0
        #: How many objects brought news; whoever sees it change knows that the job is alive.
        self.n_news = 0

    def new_futures(self, first_call: int, n_calls: int) -> list[Future[object]]:
        """Return the futures of calls that are new."""
        from wren_worker.client.future import Future  # noqa: PLC0415 - a future names its job, a job makes futures

        calls = range(first_call, first_call + n_calls)
        with self.condition:
            futures = [Future[object](self, call) for call in calls]
            if self.failure is None:
                waited = bool(self.futures)
                self.futures.update(zip(calls, futures, strict=True))
            else:
                waited = True
                for future in futures:
                    future._fail(_local_error(self.failure))
        if not waited:
            self.source.expect()
        return futures

    def new_future(self, call_index: int) -> Future[object]:
        """Return the future of a call; the same one while it is pending."""
        from wren_worker.client.future import Future  # noqa: PLC0415 - a future names its job, a job makes futures

        with self.condition:
            future = self.futures.get(call_index)
            if future is None:
                future = Future(self, call_index)
                if self.failure is None:
                    self.futures[call_index] = future
                else:
                    future._fail(_local_error(self.failure))
            is_first = len(self.futures) == 1
        if is_first:
            self.source.expect()
        return future

    def close(self) -> None:
        """Note that no more calls will come."""
        with self.condition:
            self.closed = True
            finished = not self.futures
        if finished:
            self.source.finished(self)

    def add_chunk(self, number: int, first_call: int, n_calls: int) -> ChunkBook:
        """Open the book of a chunk."""
        with self.condition:
            return self.ledger.add_chunk(number, first_call, n_calls)

    def want(self, ticket: Ticket) -> Future[object]:
        """Return the future of one call of a job whose other calls are of no interest here."""
        number = int(ticket.chunk_id)
        with self.condition:
            book = self.ledger.book(number)
            if book is None:
                book = self.ledger.add_chunk(number, ticket.first_call, ticket.n_calls)
                self.ledger.give_up(book)
                book.host_send_timestamp = self.host_submit_timestamp
            if ticket.call_index not in self.futures:
                self.ledger.reopen(book, ticket.call_index)
            return self.new_future(ticket.call_index)

    def mark_sent(self, numbers: Iterable[int], timestamp: float) -> None:
        """Note that chunks are on their way."""
        with self.condition:
            for number in numbers:
                book = self.ledger.book(number)
                if book is not None:
                    book.host_send_timestamp = timestamp

    def unsettled(self, numbers: Iterable[int]) -> tuple[set[int], set[int]]:
        """Return which chunks have unresolved calls, and which of those have an object already."""
        with self.condition:
            books = [book for number in numbers if (book := self.ledger.book(number)) is not None and book.n_open]
        return {book.number for book in books}, {book.number for book in books if book.split}

    def settle(self, result: ResultObject, outcomes: list[Resolved], *, timestamp: float) -> int:
        """Give the calls of a result object their outcomes; return how many were news.

        Raises:
            WireError: The object is none of this job's.
        """
        with self.condition:
            news = self.ledger.apply(result, outcomes)
            book = self.ledger.book(int(result.chunk_id))
            if book is not None and news:
                book.host_receive_timestamp = timestamp
                self.n_news += 1
        learn = self.learn
        if learn is not None and news:
            heads = (records.HEAD.unpack_from(record) for _, record in news)
            learn(result.instance_id, [(head[3], head[6]) for head in heads])
        self.deliver(news)
        return len(news)

    def deliver(self, news: list[Resolved]) -> None:
        """Finish futures in one go."""
        done: list[Future[object]] = []
        owned: list[Future[object]] = []
        with self.condition:
            for index, record in news:
                future = self.futures.pop(index, None)
                if future is not None:
                    (done if future._accept(record) else owned).append(future)
        self._announce(done, owned)

    def deliver_loaded(self, call_index: int, record: bytes, loaded: Loaded) -> None:
        """Finish a future whose outcome is an object of this process already."""
        with self.condition:
            future = self.futures[call_index]
            future._loaded = loaded
        self.deliver([(call_index, record)])

    def fail(self, failure: BaseException, calls: Iterable[int] | None = None) -> None:
        """Finish pending futures with a local error: these calls', or all and all to come."""
        done: list[Future[object]] = []
        owned: list[Future[object]] = []
        with self.condition:
            if calls is None:
                self.failure = self.failure or failure
                calls = list(self.futures)
                for book in self.ledger.open_books():
                    self.ledger.give_up(book)
            for index in calls:
                future = self.futures.pop(index, None)
                if future is not None:
                    (done if future._fail(_local_error(failure)) else owned).append(future)
        self._announce(done, owned)

    def fail_chunks(self, failure: BaseException, numbers: Iterable[int], *, call_index: int | None = None) -> int:
        """Finish the futures of chunks, or of one call of a chunk, with a local error; return how many."""
        with self.condition:
            books = [book for number in numbers if (book := self.ledger.book(number)) is not None]
            calls = [call for book in books for call in self.ledger.give_up(book, call_index)]
        self.fail(failure, calls)
        return len(calls)

    def _announce(self, done: list[Future[object]], owned: list[Future[object]]) -> None:
        # A future with a condition of its own changes state under that one, because the standard library's wait and
        # as_completed look at the state and install their waiters under it. Never under both: those functions hold
        # the own conditions of many futures while they ask for the next.
        for future in owned:
            future._finish_under_own_condition()
        done += owned
        if not done:
            return
        with self.condition:
            self.condition.notify_all()
            watchers = list(self.watchers)
            with_callbacks = [future for future in done if future._callbacks]
            finished = self.closed and not self.futures
        for watcher in watchers:
            watcher.resolved(done)
        for future in with_callbacks:
            future._run_callbacks()
        if finished:
            self.source.finished(self)


def _local_error(failure: BaseException) -> WrenError:
    """Return an error of its own for one future: exceptions collect tracebacks where they are raised."""
    kind = type(failure) if isinstance(failure, WrenError) else WrenError
    facts = {name: value for name, value in vars(failure).items() if name != "message"}
    error = kind(str(failure), **facts)
    error.__cause__ = failure.__cause__ or failure
    return error
