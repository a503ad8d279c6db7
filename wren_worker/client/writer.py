"""Gathers the calls of one job, cuts them into chunks, and has them stored and sent while more are coming."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from wren_worker.client.chunking import CHUNK_BYTES, chunk_size
from wren_worker.client.future import Future
from wren_worker.client.job import Job
from wren_worker.client.sender import Sender
from wren_worker.client.shipping import TAIL_BYTES, Batch, Shipping
from wren_worker.clock import Clock
from wren_worker.errors import SerializationError, WrenError
from wren_worker.protocol.envelope import sha256_hex
from wren_worker.protocol.frames import pack_calls
from wren_worker.protocol.model import Cut, Segment
from wren_worker.protocol.wire import new_chunk_id

__all__ = ["JobWriter"]

#: Chunks are stored together once they are so many bytes, or the first of them is so old (seconds).
SEGMENT_BYTES, SEGMENT_TIME = 8 * 1024 * 1024, 1.0
#: Messages of one piece of sending work; pieces go out side by side.
_SEND_MESSAGES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    n_expected: int | None
    chunksize: int | None
    #: a burst of single calls: each is a chunk, and they gather while a send is in the air
    burst: bool


class JobWriter:
    """One job while it takes calls. Safe from any thread.

    Args:
        job: What the futures share.
        sender: Does the storing and sending.
        clock: Tells how old the gathered chunks are.
        prepare: Makes the job's shipping from the module names seen so far, when the first chunks leave.
        n_expected: How many calls will come, if that is known.
        chunksize: Calls per chunk, None for "auto".
        burst: Whether single calls come, one by one, for as long as the caller likes.
        modules: The module names that the function needs.
    """

    def __init__(
        self,
        job: Job,
        *,
        sender: Sender,
        clock: Clock,
        prepare: Callable[[frozenset[str]], Shipping],
        n_expected: int | None,
        chunksize: int | None,
        burst: bool = False,
        modules: Iterable[str] = (),
    ) -> None:
        self.job = job
        self._sender = sender
        self._clock = clock
        self._prepare = prepare
        self._plan = _Plan(n_expected=n_expected, chunksize=1 if burst else chunksize, burst=burst)
        self._lock = threading.RLock()  # the sender may run work in the thread that posts it
        self._shipping: Shipping | None = None
        self._modules = set(modules)
        self._n_calls = self._n_chunks = 0
        self._blobs: list[bytes] = []
        self._blob_bytes = 0
        self._target = chunk_size(0, n_expected=self._plan.n_expected, chunksize=self._plan.chunksize)
        self._cuts: list[Cut] = []
        self._parts: list[bytes] = []
        self._part_bytes = 0
        self._first_cut_time = 0.0
        self._in_air = 0
        self._closing = self._aborted = self._broken = self._sealed = False
        self.last_call_time = clock.monotonic()

    def covers(self, modules: set[str]) -> bool:
        """Return whether arguments that need these local modules may still join the job."""
        with self._lock:
            return not (self._closing or self._broken) and (self._shipping is None or modules <= self._modules)

    def add(self, blob: bytes, modules: set[str]) -> Future[object]:
        """Take one call's argument bytes, which need these local modules; return its future.

        Raises:
            SerializationError: The job's modules have left already, without one of these.
        """
        self._sender.wait_for_room()
        with self._lock:
            if modules and not modules <= self._modules:
                self._need(modules)
            if self._blobs and self._blob_bytes + len(blob) > CHUNK_BYTES:
                self._cut()
            future = self.job.new_future(self._n_calls)
            self._n_calls += 1
            self._blobs.append(blob)
            self._blob_bytes += len(blob)
            if len(self._blobs) >= self._target:
                self._cut()
                self._flush_if_due()
        return future

    def finish(self) -> None:
        """Say that no more calls come: what is left is sent, and the job is sealed."""
        with self._lock:
            if self._closing:
                return
            if self._blobs:
                self._cut()
            self._closing = True
            self._flush()
            self._settle_down()
        self.job.close()

    def abort(self) -> None:
        """Drop what was not sent yet and leave the job unsealed."""
        with self._lock:
            self._closing = self._aborted = True
            self._blobs, self._cuts, self._parts = [], [], []
        self.job.fail(WrenError(f"Job {self.job.job_id} was given up before all its calls were there."))
        self.job.close()

    def _need(self, modules: set[str]) -> None:
        if self._shipping is not None:
            missing = sorted(modules - self._modules)
            raise SerializationError(
                f"Call {self._n_calls} needs the local module '{missing[0]}', which neither the function nor any "
                "argument before it needed, and the job's modules have been sent. Import the module where the "
                "function is defined.",
                modules=missing,
                call_index=self._n_calls,
            )
        self._modules |= modules

    # cutting; the lock is held

    def _cut(self) -> None:
        first = self._n_calls - len(self._blobs)
        data = pack_calls((first + offset, 1, blob) for offset, blob in enumerate(self._blobs))
        if not self._cuts:
            self._first_cut_time = self._clock.monotonic()
        self._cuts.append(
            Cut(
                chunk_id=new_chunk_id(self._n_chunks),
                first_call=first,
                n_calls=len(self._blobs),
                offset=self._part_bytes,
                length=len(data),
                sha256=sha256_hex(data),
            )
        )
        self.job.add_chunk(self._n_chunks, first, len(self._blobs))
        self._parts.append(data)
        self._part_bytes += len(data)
        self._blobs, self._blob_bytes = [], 0
        self._n_chunks += 1
        self._target = chunk_size(self._n_chunks, n_expected=self._plan.n_expected, chunksize=self._plan.chunksize)

    def _flush_if_due(self) -> None:
        now = self.last_call_time = self._clock.monotonic()
        if self._part_bytes >= SEGMENT_BYTES or (
            not self._in_air if self._plan.burst else now - self._first_cut_time >= SEGMENT_TIME
        ):
            self._flush()

    def _flush(self) -> None:
        if not self._cuts:
            return
        is_first = self._shipping is None
        shipping = self._shipping = self._shipping or self._prepare(frozenset(self._modules))
        batch = Batch(cuts=tuple(self._cuts), payload=b"".join(self._parts))
        self._cuts, self._parts, self._part_bytes = [], [], 0
        if is_first:
            if len(batch.payload) <= TAIL_BYTES:
                # a manifest that holds all calls is its own seal
                self._sealed = self._closing
                n_calls = self._n_calls if self._sealed else None
                self._post(functools.partial(self._store_manifest, shipping, batch, n_calls), batch)
                return
            self._post(functools.partial(self._store_manifest, shipping, None, None), None)
        self._post(functools.partial(self._store_segment, shipping, batch), batch)

    # storing and sending; on the sender's threads

    def _post(self, work: Callable[[], None], batch: Batch | None) -> None:
        """Have work done, with the lock held; the chunks of ``batch`` fail with it."""
        self._in_air += 1
        cuts, n_bytes = (batch.cuts, len(batch.payload)) if batch else ((), 0)
        self._sender.post(functools.partial(self._guarded, work, cuts), n_bytes=n_bytes)

    def _guarded(self, work: Callable[[], None], cuts: tuple[Cut, ...]) -> None:
        try:
            if not self._aborted:
                work()
        except Exception as error:  # noqa: BLE001 - the futures of these chunks say it
            self._fail(error, cuts)
        with self._lock:
            self._in_air -= 1
            self._settle_down()

    def _fail(self, error: Exception, cuts: Sequence[Cut]) -> None:
        self._broken = True  # a job with a hole in it is never sealed
        self.job.fail_chunks(error, [int(cut.chunk_id) for cut in cuts])

    def _settle_down(self) -> None:
        if self._in_air or self._aborted:
            return
        if self._cuts and self._plan.burst:
            # what gathered while the last send was in the air
            self._flush()
        elif self._closing and not (self._sealed or self._broken) and self._shipping is not None:
            self._sealed = True
            shipping, n_calls, n_chunks = self._shipping, self._n_calls, self._n_chunks
            self._post(functools.partial(shipping.seal, n_calls=n_calls, n_chunks=n_chunks), None)

    def _store_manifest(self, shipping: Shipping, tail: Batch | None, n_calls: int | None) -> None:
        segment = shipping.store_manifest(tail, n_calls=n_calls)
        if tail:
            self._send(shipping, segment, tail)

    def _store_segment(self, shipping: Shipping, batch: Batch) -> None:
        self._send(shipping, shipping.store_segment(batch), batch)

    def _send(self, shipping: Shipping, segment: Segment, batch: Batch) -> None:
        first_offset = segment.cuts[0].offset - batch.cuts[0].offset
        pieces = [segment.cuts[at : at + _SEND_MESSAGES] for at in range(0, len(segment.cuts), _SEND_MESSAGES)]
        work = functools.partial(self._send_piece, shipping, segment, batch.payload, first_offset)
        with self._lock:
            for piece in pieces[1:]:
                self._post(functools.partial(work, piece), None)
        work(pieces[0])

    def _send_piece(
        self, shipping: Shipping, segment: Segment, payload: bytes, first_offset: int, cuts: tuple[Cut, ...]
    ) -> None:
        unsent: set[int] = set()
        timestamp = self._clock.timestamp()
        try:
            shipping.send(segment, cuts, payload, first_offset=first_offset)
        except Exception as error:  # noqa: BLE001 - the futures of these chunks say it
            unsent = set(getattr(error, "unsent", range(len(cuts))))
            self._fail(error, [cut for at, cut in enumerate(cuts) if at in unsent])
        self.job.mark_sent((int(cut.chunk_id) for at, cut in enumerate(cuts) if at not in unsent), timestamp)
