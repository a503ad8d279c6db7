"""The books of a job: which chunks it has, which of their calls are unresolved. Pure: no threads, no I/O."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from wren_worker.errors import WireError
from wren_worker.protocol.model import ResultObject, call_key, result_key
from wren_worker.protocol.wire import new_chunk_id

__all__ = ["ChunkBook", "Ledger", "Resolved", "parse_result_key"]

#: Source: S3 "Naming objects", read 2026-11: bytes of a key.
_LONGEST_KEY = 1024
#: ``(call_index, record bytes)`` of a call that just got its outcome.
Resolved = tuple[int, bytes]


@dataclass(slots=True)
class ChunkBook:
    """What is known of one chunk.

    ``open_calls`` is None while either all calls are unresolved or none (``n_open`` tells); ``split`` says that the
    chunk's result object was seen, so the open calls have keys of their own. Timestamps are unix seconds, 0 for
    not yet.
    """

    number: int
    first_call: int
    n_calls: int
    n_open: int
    open_calls: set[int] | None = None
    split: bool = False
    host_send_timestamp: float = 0.0
    host_receive_timestamp: float = 0.0
    remote_write_timestamp: float = 0.0
    instance_id: str = ""
    delivery: int = 0
    own_instances: dict[int, str] = field(default_factory=dict)


class Ledger:
    """Chunks of one job by number; applies every result object exactly once."""

    __slots__ = ("_books", "_by_call", "_low", "_numbers", "highest_answered", "job_id")

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self._books: dict[int, ChunkBook] = {}
        self._numbers: list[int] = []
        self._by_call: list[tuple[int, int]] = []
        self._low = 0
        #: The highest chunk of which an instance wrote something, -1 for none.
        self.highest_answered = -1

    def add_chunk(self, number: int, first_call: int, n_calls: int) -> ChunkBook:
        """Open the book of a chunk; a chunk that is known keeps its book."""
        book = self._books.get(number)
        if book is None:
            book = ChunkBook(number, first_call, n_calls, n_calls)
            self._books[number] = book
            insort(self._numbers, number)  # in order but for futures that were unpickled one by one
            insort(self._by_call, (first_call, number))
            self._low = 0 if number < self._numbers[-1] else self._low
        return book

    def __len__(self) -> int:
        return len(self._books)

    def book(self, number: int) -> ChunkBook | None:
        """Return a chunk's book."""
        return self._books.get(number)

    def book_of_call(self, call_index: int) -> ChunkBook | None:
        """Return the book of the chunk that a call travels in; None before it is cut."""
        position = bisect_right(self._by_call, (call_index, 2**63)) - 1
        if position < 0:
            return None
        book = self._books[self._by_call[position][1]]
        return book if call_index < book.first_call + book.n_calls else None

    def apply(self, result: ResultObject, outcomes: list[Resolved]) -> list[Resolved]:
        """Return the outcomes in a result object that are news.

        Raises:
            WireError: The object does not belong to the chunk whose name it bears.
        """
        book = self._books.get(int(result.chunk_id)) if result.chunk_id.isdecimal() else None
        if book is None or (result.job_id, result.first_call, result.n_calls) != (
            self.job_id,
            book.first_call,
            book.n_calls,
        ):
            raise WireError("a result object that is none of this job's chunks")
        if result.writer == "daemon":
            self.highest_answered = max(self.highest_answered, book.number)
        if result.call_index is not None:
            book.own_instances[result.call_index] = result.instance_id
        elif book.split or not book.n_open:
            return []
        else:
            book.split = bool(result.left_out)
            book.instance_id, book.delivery = result.instance_id, result.delivery
            book.remote_write_timestamp = result.remote_write_timestamp
        return _take(book, outcomes)

    def give_up(self, book: ChunkBook, call_index: int | None = None) -> list[int]:
        """Take a chunk's calls, or the one, as resolved; return those that were open."""
        still_open = set(_open_calls(book))
        calls = still_open if call_index is None else still_open & {call_index}
        book.open_calls = still_open - calls
        book.n_open = len(book.open_calls)
        return sorted(calls)

    def reopen(self, book: ChunkBook, call_index: int) -> None:
        """Take a call as unresolved again: somebody new wants its outcome, which its keys still hold."""
        book.open_calls = set(_open_calls(book)) | {call_index}
        book.n_open = len(book.open_calls)
        book.split = False
        self._low = 0

    def open_books(self) -> Iterator[ChunkBook]:
        """Yield the books with unresolved calls, lowest chunk first."""
        numbers, books = self._numbers, self._books
        while self._low < len(numbers) and not books[numbers[self._low]].n_open:
            self._low += 1
        for position in range(self._low, len(numbers)):
            book = books[numbers[position]]
            if book.n_open:
                yield book

    def open_places(self, calls: Collection[int] | None = None) -> list[tuple[ChunkBook, list[int]]]:
        """Return the chunks with unresolved calls, those calls beside them; ``calls`` narrows it down."""
        if calls is None:
            return [(book, sorted(_open_calls(book))) for book in self.open_books()]
        found: dict[int, tuple[ChunkBook, list[int]]] = {}
        for index in sorted(calls):
            book = self.book_of_call(index)
            if book is not None and index in _open_calls(book):
                found.setdefault(book.number, (book, []))[1].append(index)
        return list(found.values())

    def missing_keys(self, limit: int) -> list[str]:
        """Return up to ``limit`` keys of sent chunks under which outcomes are still to appear, lowest first."""
        keys: list[str] = []
        for book in self.open_books():
            if not book.host_send_timestamp:
                continue
            chunk_id = new_chunk_id(book.number)
            if book.split:
                keys += (call_key(self.job_id, chunk_id, index) for index in sorted(_open_calls(book)))
            else:
                keys.append(result_key(self.job_id, chunk_id))
            if len(keys) >= limit:
                break
        return keys[:limit]

    def awaits(self, key: str) -> bool:
        """Return whether an object under ``key`` would bring news."""
        place = parse_result_key(key)
        if place is None or place[0] != self.job_id:
            return False
        _, number, call_index = place
        book = self._books.get(number)
        if book is None or not book.n_open:
            return False
        return not book.split if call_index is None else call_index in _open_calls(book)


def _open_calls(book: ChunkBook) -> set[int] | range:
    if not book.n_open:
        return range(0)
    if book.open_calls is None:
        return range(book.first_call, book.first_call + book.n_calls)
    return book.open_calls


def _take(book: ChunkBook, found: list[Resolved]) -> list[Resolved]:
    if book.open_calls is not None or len(found) < book.n_calls:
        still_open = set(_open_calls(book))
        found = [entry for entry in found if entry[0] in still_open]
        book.open_calls = still_open.difference(entry[0] for entry in found)
    book.n_open -= len(found)
    return found


def parse_result_key(key: str) -> tuple[str, int, int | None] | None:
    """Return ``(job_id, chunk number, call_index or None)`` of a result key, None for any other key."""
    parts = key.split("/")
    if len(parts) not in (3, 4) or parts[0] != "results" or not key.isascii() or len(key) > _LONGEST_KEY:
        return None
    if not all(part.isdecimal() for part in parts[2:]):
        return None
    number, call_index = int(parts[2]), int(parts[3]) if len(parts) == 4 else None
    # a chunk has one key: no other spelling of its number is it
    canonical = result_key(parts[1], new_chunk_id(number)) + ("" if call_index is None else f"/{call_index}")
    return (parts[1], number, call_index) if key == canonical else None
