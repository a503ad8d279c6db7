"""Writes what becomes of calls that no instance will decide on: cancelled, lost, never sent.

By the rule for all outcomes: each key is written once, and what is found there already is what holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from wren_worker.client.job import Job
from wren_worker.client.resolve import ChunkBook
from wren_worker.client.settling import settle
from wren_worker.clock import Clock
from wren_worker.errors import StoreError, WireError
from wren_worker.protocol import records
from wren_worker.protocol.model import ChunkId, JobId, ResultObject, call_key, ranges, result_key
from wren_worker.protocol.ports import ObjectStore
from wren_worker.protocol.wire import decode_result, encode_result, error_value, new_chunk_id

__all__ = ["MakeRecord", "Place", "Verdicts", "places", "verdict"]

_THREADS = 8

#: Makes a call's outcome record.
MakeRecord = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Place:
    """Calls of one chunk that want a verdict; ``split`` when the chunk's object is known to leave calls out."""

    head: ResultObject
    calls: tuple[int, ...]
    split: bool


def places(job: Job, books: Iterable[tuple[ChunkBook, Sequence[int]]]) -> list[Place]:
    """Return where the calls of some chunks get their outcomes."""
    return [
        Place(
            ResultObject(
                job_id=JobId(job.job_id),
                chunk_id=ChunkId(new_chunk_id(book.number)),
                first_call=book.first_call,
                n_calls=book.n_calls,
                writer="client",
            ),
            tuple(calls),
            book.split,
        )
        for book, calls in books
    ]


class Verdicts:
    """Records verdicts, several at a time. Safe from any thread.

    Args:
        store: The fleet's bucket.
        clock: Says when.
    """

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def give_up(self, job: Job, books: Iterable[ChunkBook], make_record: MakeRecord) -> int:
        """Write outcomes for all unresolved calls of some chunks, as ``record``."""
        calls = {index for book in books for index in range(book.first_call, book.first_call + book.n_calls)}
        if not calls:
            return 0
        with job.condition:
            found = places(job, job.ledger.open_places(calls))
        return self.record(job, found, make_record)

    def record(self, job: Job, wanted: Sequence[Place], make_record: MakeRecord) -> int:
        """Write outcomes for calls that have none and give the job's futures what holds now; return how many got one.

        One request a chunk, or two and one for each call where an object leaves calls out already.

        Raises:
            StoreError: S3 did not take some of them; the others are recorded.
        """
        now = self._clock.timestamp()
        failures: list[StoreError] = []

        def attempt(work: Callable[[], list[Place]]) -> list[Place]:
            try:
                return work()
            except StoreError as error:
                failures.append(error)
                return []

        n_before = len(job.futures)
        tasks = [self._object_task(job, place, make_record, now) for place in wanted]
        left = [place for found in _side_by_side(attempt, tasks) for place in found]
        own = [self._own_task(job, place, index, make_record, now) for place in left for index in place.calls]
        _side_by_side(attempt, own)
        if failures:
            raise failures[0]
        return n_before - len(job.futures)

    def _object_task(self, job: Job, place: Place, make_record: MakeRecord, now: float) -> Callable[[], list[Place]]:
        def work() -> list[Place]:
            if place.split:
                return [place]
            head = replace(place.head, remote_write_timestamp=now)
            chunk = range(head.first_call, head.first_call + head.n_calls)
            calls = frozenset(place.calls)
            rest = ranges(index for index in chunk if index not in calls)
            data = encode_result(replace(head, left_out=rest), [make_record(index) for index in place.calls])
            key = result_key(head.job_id, head.chunk_id)
            found = self._put(key, data)
            settle(job, key, found, timestamp=now)
            if found is data:
                return []
            return [replace(place, calls=left, split=True)] if (left := _left_out(found, place.calls)) else []

        return work

    def _own_task(
        self, job: Job, place: Place, index: int, make_record: MakeRecord, now: float
    ) -> Callable[[], list[Place]]:
        def work() -> list[Place]:
            head = replace(place.head, remote_write_timestamp=now, call_index=index)
            key = call_key(head.job_id, head.chunk_id, index)
            settle(job, key, self._put(key, encode_result(head, [make_record(index)])), timestamp=now)
            return []

        return work

    def _put(self, key: str, data: bytes) -> bytes:
        """Return what lies under the key from now on: ``data`` itself, or what was there."""
        if self._store.put_once(key, data):
            return data
        found = self._store.get(key)
        if found is None:
            raise StoreError(f"{key} was taken, and then gone: somebody deletes results of this job.", key=key)
        return found


def verdict(kind: str, message: str, **data: object) -> MakeRecord:
    """Return what makes the record of each call that gets this verdict; ``{call}`` in the text is its index."""

    def make_record(index: int) -> bytes:
        text = message.replace("{call}", str(index))
        return records.pack_record(index, records.ERROR, error_value(kind, text, **data))

    return make_record


def _side_by_side(
    attempt: Callable[[Callable[[], list[Place]]], list[Place]], tasks: Sequence[Callable[[], list[Place]]]
) -> list[list[Place]]:
    if len(tasks) > 1:
        try:
            with ThreadPoolExecutor(min(_THREADS, len(tasks)), thread_name_prefix="wren-verdict") as threads:
                return list(threads.map(attempt, tasks))
        except RuntimeError:  # the interpreter is ending and starts no threads any more
            pass
    return [attempt(task) for task in tasks]


def _left_out(data: bytes, calls: Collection[int]) -> tuple[int, ...]:
    try:
        ranges = decode_result(data)[0].left_out
    except WireError:
        return ()  # no result object: its calls were resolved with that
    return tuple(index for index in calls if any(first <= index < end for first, end in ranges))
