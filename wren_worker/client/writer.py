"""Gathers the calls of one job, cuts them into chunks, and has them stored and sent while more are coming."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from wren_worker.client.future import Future
from wren_worker.client.job import Job
from wren_worker.client.pacing import HOLD_TIME, NEVER, WIDEN_TIME, Pacer
from wren_worker.client.sender import Sender
from wren_worker.client.shipping import TAIL_BYTES, Batch, Shipping, travels_inline
from wren_worker.client.verdicts import Verdicts, verdict
from wren_worker.clock import Clock
from wren_worker.errors import SerializationError, StoreError, WrenError
from wren_worker.protocol.envelope import sha256_hex
from wren_worker.protocol.frames import pack_new_calls
from wren_worker.protocol.model import Cut, Segment
from wren_worker.protocol.wire import new_chunk_id

__all__ = ["JobWriter"]

#: Arguments of one chunk, in bytes; a single call may have more.
_CHUNK_BYTES = 4 * 1024 * 1024
#: Chunks are stored together up to so many bytes.
_SEGMENT_BYTES = 8 * 1024 * 1024
#: So many bytes of arguments may wait for outcomes to tell how to cut them.
_WAITING_BYTES = 16 * 1024 * 1024
#: Messages of one piece of sending work; pieces go out side by side.
_SEND_MESSAGES = 40
#: Seconds between two looks whether a cancellation is recorded, so that what it leaves may be sent.
_WITHHELD_INTERVAL = 0.05


class JobWriter:
    """One job while it takes calls. Safe from any thread.

    Args:
        job: What the futures share.
        sender: Does the storing and sending.
        clock: Tells how long calls have been waiting.
        prepare: Makes the job's shipping from the module names seen so far, when the first chunks leave.
        n_expected: How many calls will come, if that is known.
        chunksize: Calls per chunk, None for "auto".
        burst: Whether single calls come, one by one, for as long as the caller likes; those that come while a send is
            in the air gather.
        modules: The module names that the function needs.
        verdicts: Records what becomes of calls that cannot be sent.
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
        verdicts: Verdicts,
    ) -> None:
        self.job = job
        self._verdicts = verdicts
        self._sender = sender
        self._clock = clock
        self._prepare = prepare
        self._n_expected = n_expected
        self._burst = burst
        self._pacer = Pacer(n_expected=n_expected, chunksize=chunksize)
        self._lock = threading.RLock()  # the sender may run work in the thread that posts it
        self._shipping: Shipping | None = None
        self._modules = set(modules)
        self._n_calls = self._n_chunks = 0
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._wake_at = 1
        self._held_since = 0.0
        self._widen_time = WIDEN_TIME
        self._timed = False
        self._cuts: list[Cut] = []
        self._parts: list[bytes] = []
        self._part_bytes = 0
        self._in_air = 0
        self._closing = self._aborted = self._broken = self._sealed = False
        self.last_call_time = clock.monotonic()
        job.hasten = self.hasten
        if self._pacer.learning:
            job.learn = self._learn

    def covers(self, modules: set[str]) -> bool:
        """Return whether arguments that need these local modules may still join the job."""
        with self._lock:
            return not (self._closing or self._broken) and (self._shipping is None or modules <= self._modules)

    def add(self, blobs: Sequence[bytes], modules: set[str]) -> list[Future[object]]:
        """Take calls' argument bytes, which need these local modules; return their futures.

        Raises:
            SerializationError: The job's modules have left already, without one of these.
        """
        self._sender.wait_for_room()
        with self._lock:
            if modules and not modules <= self._modules:
                self._need(modules)
            futures = self.job.new_futures(self._n_calls, len(blobs))
            self._n_calls += len(blobs)
            self.last_call_time = self._clock.monotonic()
            if not self._waiting:
                self._held_since = self.last_call_time
            self._waiting += blobs
            self._waiting_bytes += sum(map(len, blobs))
            if self._n_calls == self._n_expected:
                pass  # the last of them: ``finish`` is next, and then one object may hold the whole job
            elif len(self._waiting) >= self._wake_at or self._waiting_bytes > _WAITING_BYTES:
                self._advance()
            elif not self._timed:
                self._look_later()
        return futures

    def hasten(self) -> None:
        """Cut everything that waits now: somebody wants to know which chunk a call is in."""
        with self._lock:
            self._held_since = self._clock.monotonic() - HOLD_TIME
            self._advance()

    def finish(self) -> None:
        """Say that no more calls come: what is left is sent, at the latest in HOLD_TIME, and the job is sealed."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._advance()
            self._settle_down()
        self.job.close()

    def abort(self) -> int:
        """Drop what was not sent yet and leave the job unsealed; return how many calls are on their way."""
        with self._lock:
            self._closing = self._aborted = True
            self._waiting, self._cuts, self._parts = [], [], []
        with self.job.condition:
            n_sent = sum(book.n_calls for book in self.job.ledger.open_books() if book.host_send_timestamp)
        self.job.fail(WrenError(f"Job {self.job.job_id} was given up before all its calls were there."))
        self.job.close()
        return n_sent

    def _need(self, modules: set[str]) -> None:
        if self._shipping is not None:
            missing = sorted(modules - self._modules)
            raise SerializationError(
                f"A call from {self._n_calls} on needs the local module '{missing[0]}', which neither the function nor "
                "any argument before it needed, and the job's modules have been sent. Import the module where the "
                "function is defined.",
                modules=missing,
                call_index=self._n_calls,
            )
        self._modules |= modules

    # news that may let more be cut

    def _learn(self, instance_id: str, calls: list[tuple[int, float]]) -> None:
        """Take what came back; on the collector's thread."""
        with self._lock:
            self._pacer.back(instance_id, calls)
            self._widen_time = WIDEN_TIME
            if self._waiting:
                self._advance()

    def _look_later(self) -> None:
        self._timed = True
        left = self._held_since + HOLD_TIME - self._clock.monotonic()
        self._sender.post_later(self._look, delay=max(0.0, min(self._widen_time, left)))

    def _look(self) -> None:
        """Let more out when nothing came back for a while, and everything when that has lasted."""
        with self._lock:
            self._timed = False
            if self._waiting and not self._aborted:
                self._pacer.widen()
                self._widen_time *= 2
                self._advance()

    # cutting; the lock is held

    def _advance(self) -> None:
        """Cut what is to be cut now, and have it stored and sent."""
        waiting, position = self._waiting, 0
        hurry = self._waiting_bytes > _WAITING_BYTES or self._clock.monotonic() - self._held_since >= HOLD_TIME
        while position < len(waiting):
            n_left = len(waiting) - position
            wanted = self._pacer.size(n_left, complete=self._closing, hurry=hurry)
            if wanted > n_left and (wanted >= NEVER or not (self._closing or hurry)):
                self._wake_at = wanted
                break
            position += self._cut(waiting, position, min(wanted, n_left))
            if self._part_bytes >= _SEGMENT_BYTES:
                self._flush()
        if position:
            del waiting[:position]
            if self._pacer.settled:
                self._held_since = self._clock.monotonic()  # what is left waits for company, not for knowledge
        if not waiting:
            self._wake_at = 1
            if self._closing:
                self.job.learn = self.job.hasten = None
        elif not self._timed:
            self._look_later()
        if self._cuts and (not self._burst or not self._in_air or self._closing):
            self._flush()

    def _cut(self, waiting: list[bytes], position: int, n_wanted: int) -> int:
        """Make a chunk of waiting calls, fewer than wanted if their arguments are large; return how many."""
        n_calls, n_bytes = 0, 0
        for blob in islice(waiting, position, position + n_wanted):
            if n_calls and n_bytes + len(blob) > _CHUNK_BYTES:
                break
            n_calls += 1
            n_bytes += len(blob)
        first = self._n_calls - len(waiting) + position
        data = pack_new_calls(first, waiting[position : position + n_calls])
        self._cuts.append(
            Cut(
                chunk_id=new_chunk_id(self._n_chunks),
                first_call=first,
                n_calls=n_calls,
                offset=self._part_bytes,
                length=len(data),
                sha256=sha256_hex(data),
            )
        )
        self.job.add_chunk(self._n_chunks, first, n_calls)
        self._parts.append(data)
        self._part_bytes += len(data)
        self._waiting_bytes -= n_bytes
        self._n_chunks += 1
        self._pacer.cut(n_calls)
        return n_calls

    def _flush(self) -> None:
        shipping, is_first = self._shipping, self._shipping is None
        if shipping is None:
            shipping = self._shipping = self._prepare(frozenset(self._modules))
        batch = Batch(
            cuts=tuple(self._cuts), payload=self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        )
        self._cuts, self._parts, self._part_bytes = [], [], 0
        if is_first:
            if len(batch.payload) <= TAIL_BYTES:
                # a manifest that holds all calls is its own seal
                self._sealed = self._closing and batch.cuts[-1].first_call + batch.cuts[-1].n_calls == self._n_calls
                n_calls = self._n_calls if self._sealed else None
                self._post(functools.partial(self._start, shipping, batch, n_calls), batch)
                return
            self._post(functools.partial(self._start, shipping, None, None), None)
        self._post(functools.partial(self._ship_segment, shipping, batch), batch)

    # storing and sending; on the sender's threads
    def _post(self, work: Callable[[], None], batch: Batch | None, *, delay: float = 0.0) -> None:
        """Have work done, with the lock held; the chunks of ``batch`` fail with it."""
        self._in_air += 1
        cuts, n_bytes = (batch.cuts, len(batch.payload)) if batch else ((), 0)
        guarded = functools.partial(self._guarded, work, cuts)
        if delay:
            self._sender.post_later(guarded, delay=delay)
        else:
            self._sender.post(guarded, n_bytes=n_bytes)

    def _guarded(self, work: Callable[[], None], cuts: tuple[Cut, ...]) -> None:
        try:
            if not self._aborted:
                work()
        except Exception as error:  # noqa: BLE001 - the futures of these chunks say it
            self._fail(error, cuts)
        except BaseException as error:
            self._fail(error, cuts)
            raise
        finally:
            with self._lock:
                self._in_air -= 1
                self._settle_down()

    def _fail(self, error: BaseException, cuts: Sequence[Cut]) -> None:
        """Give up the chunks of some cuts that were not sent. What was sent runs, whatever could not be stored."""
        self._broken = True  # a job with a hole in it is never sealed
        numbers = [int(cut.chunk_id) for cut in cuts]
        with self.job.condition:
            books = [book for number in numbers if (book := self.job.ledger.book(number)) is not None]
            books = [book for book in books if not book.host_send_timestamp]
        if not isinstance(error, StoreError):  # with S3 out of reach nothing can be recorded, nor read by others
            text = f"call {{call}} of job {self.job.job_id} could not be sent: {error}"
            with contextlib.suppress(StoreError):
                self._verdicts.give_up(self.job, books, verdict("ChunkLost", text, resent=0))
        self.job.fail_chunks(error, [book.number for book in books])

    def _settle_down(self) -> None:
        if self._in_air or self._aborted:
            return
        if self._cuts:
            # what gathered while the last send was in the air
            self._flush()
        elif self._closing and not (self._waiting or self._sealed or self._broken) and self._shipping is not None:
            self._sealed = True
            shipping, n_calls, n_chunks = self._shipping, self._n_calls, self._n_chunks
            self._post(functools.partial(shipping.seal, n_calls=n_calls, n_chunks=n_chunks), None)

    def _start(self, shipping: Shipping, tail: Batch | None, n_calls: int | None) -> None:
        segment = shipping.encode_manifest(tail, n_calls=n_calls)
        if tail and shipping.manifest_travels(tail.cuts):
            self._send(shipping, segment, tail, then=shipping.store_manifest)
            return
        shipping.store_manifest()
        if tail:
            self._send(shipping, segment, tail)

    def _ship_segment(self, shipping: Shipping, batch: Batch) -> None:
        data, segment = shipping.encode_segment(batch)
        store = functools.partial(shipping.store_segment, segment, data)
        if all(map(travels_inline, batch.cuts)):
            self._send(shipping, segment, batch, then=store)
        else:
            store()
            self._send(shipping, segment, batch)

    def _send(
        self, shipping: Shipping, segment: Segment, batch: Batch, *, then: Callable[[], None] | None = None
    ) -> None:
        """Send a batch's messages; ``then`` stores what they brought along: first things first."""
        first_offset = segment.cuts[0].offset - batch.cuts[0].offset
        pieces = [segment.cuts[at : at + _SEND_MESSAGES] for at in range(0, len(segment.cuts), _SEND_MESSAGES)]
        work = functools.partial(self._send_piece, shipping, segment, batch.payload, first_offset)
        with self._lock:
            for piece in pieces[1:]:
                self._post(functools.partial(work, piece), None)
        try:
            work(pieces[0])
        finally:
            if then is not None:
                then()

    def _send_piece(
        self, shipping: Shipping, segment: Segment, payload: bytes, first_offset: int, cuts: tuple[Cut, ...]
    ) -> None:
        if self.job.withheld:
            again = functools.partial(self._send_piece, shipping, segment, payload, first_offset, cuts)
            with self._lock:
                self._post(again, None, delay=_WITHHELD_INTERVAL)
            return
        wanted, settled = self.job.unsettled(int(cut.chunk_id) for cut in cuts)
        cuts = tuple(cut for cut in cuts if int(cut.chunk_id) in wanted)
        if not cuts:
            return  # cancelled before they left
        unsent: set[int] = set()
        timestamp = self._clock.timestamp()
        try:
            shipping.send(segment, cuts, payload, first_offset=first_offset, settled=settled)
        except Exception as error:  # noqa: BLE001 - the futures of these chunks say it
            unsent = set(getattr(error, "unsent", range(len(cuts))))
            self._fail(error, [cut for at, cut in enumerate(cuts) if at in unsent])
        self.job.mark_sent((int(cut.chunk_id) for at, cut in enumerate(cuts) if at not in unsent), timestamp)
