"""Stores what a job consists of, then sends its chunks. Runs on the sender's threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from wren_worker.client.transport import Transport
from wren_worker.errors import StoreError
from wren_worker.protocol.envelope import sha256_hex
from wren_worker.protocol.jobs import encode_manifest, encode_seal, encode_segment
from wren_worker.protocol.model import (
    ArgsLocation,
    Chunk,
    Cut,
    JobManifest,
    Seal,
    Segment,
    args_key,
    manifest_key,
    sealed_key,
)
from wren_worker.protocol.ports import OutgoingMessage, Pieces
from wren_worker.protocol.wire import INLINE_ARGS_BYTES, encode_chunk

__all__ = ["EXPIRY_TIME", "Batch", "Shipping", "travels_inline"]

#: A task queue keeps messages for 14 days, SQS's longest.
EXPIRY_TIME = 14 * 86400.0
#: Every instance that works on a job loads its manifest, so only few arguments may ride in it.
TAIL_BYTES = 256 * 1024
#: A larger manifest is not repeated in every message that leaves before it is stored.
_TRAVELLING_MANIFEST_BYTES = 8 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Chunks that are stored together; offsets of ``cuts`` count from the start of ``payload``."""

    cuts: tuple[Cut, ...]
    payload: bytes


class Shipping:
    """The way of one job's bytes to S3 and SQS.

    What is needed to send a chunk again is stored beside sending it, not before: a message that brings everything along
    need not wait for S3. One that does not is sent when what it names is there.

    Args:
        transport: The fleet.
        manifest: The job; ``n_calls`` and ``reply_queue`` are filled in when it is encoded.
        function: The function's bytes.
        modules: The module archive.
        runtime: The runtime the chunks ask for.
        reply_url: Gives the reply queue's address, waiting for the queue if need be; "" when there is none.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        manifest: JobManifest,
        function: bytes,
        modules: bytes,
        runtime: str,
        reply_url: Callable[[], str],
    ) -> None:
        self._transport = transport
        self._manifest = manifest
        self._function, self._modules = function, modules
        self._runtime = runtime
        self._reply_url = reply_url
        self._encoded, self._stored = threading.Event(), threading.Event()
        self._is_stored = False
        self._manifest_data = b""
        self._manifest_sha256 = ""
        self._n_segments = 0
        self._lock = threading.Lock()

    def encode_manifest(self, tail: Batch | None, *, n_calls: int | None) -> Segment:
        """Settle the manifest, with ``tail`` in it; ``n_calls`` when there is nothing to come."""
        try:
            self._manifest_data, segment = encode_manifest(
                manifest_key(self._manifest.job_id),
                replace(self._manifest, n_calls=n_calls, reply_queue=self._reply_url()),
                function=self._function,
                modules=self._modules,
                cuts=tail.cuts if tail else (),
                payload=tail.payload if tail else b"",
            )
            self._manifest_sha256 = sha256_hex(self._manifest_data)
        finally:
            self._function = self._modules = b""
            self._encoded.set()
        return segment

    def store_manifest(self) -> None:
        """Store the manifest.

        Raises:
            StoreError: S3 did not take it.
        """
        try:
            self._transport.store.put(manifest_key(self._manifest.job_id), self._manifest_data)
            self._is_stored = True
        finally:
            self._manifest_data = b""
            self._stored.set()

    def encode_segment(self, batch: Batch) -> tuple[Pieces, Segment]:
        """Return chunks' arguments as the bytes of an object of their own, and where in it they lie."""
        with self._lock:
            self._n_segments += 1
            number = self._n_segments
        return encode_segment(args_key(self._manifest.job_id, number), batch.cuts, batch.payload)

    def store_segment(self, segment: Segment, data: Pieces) -> None:
        """Store an encoded segment.

        Raises:
            StoreError: S3 did not take it.
        """
        self._transport.store.put(segment.key, data)

    def send(
        self,
        segment: Segment,
        cuts: Sequence[Cut],
        payload: bytes,
        *,
        first_offset: int,
        settled: Collection[int] = (),
    ) -> None:
        """Send the chunks of some cuts of a segment: stored, or with arguments that travel inline.

        Args:
            segment: Where the cuts lie.
            cuts: The cuts, placed in the segment.
            payload: The segment's arguments.
            first_offset: Where in the segment's object its payload starts.
            settled: Numbers of the chunks that have a result object already: whoever receives them must look at it.

        Raises:
            StoreError: The manifest could not be stored.
            QueueError: SQS did not take some of the messages.
        """
        self._encoded.wait()  # by another thread, to which it was posted first
        manifest = self._manifest_data if self.manifest_travels(cuts) else b""
        if not manifest:
            self._stored.wait()
            if not self._is_stored:
                raise StoreError(f"The manifest of job {self._manifest.job_id} could not be stored; not sent.")
        now = self._transport.clock.timestamp()
        reply_queue = self._reply_url()
        view = memoryview(payload)
        messages = []
        for cut in cuts:
            start = cut.offset - first_offset
            args = view[start : start + cut.length] if travels_inline(cut) else None
            chunk = self._chunk(segment.key, cut, reply_queue=reply_queue, now=now)
            if int(cut.chunk_id) in settled:
                chunk = replace(chunk, resent=1)
            body = encode_chunk(chunk, args, manifest)
            messages.append(OutgoingMessage(body=body, group_id=self._manifest.job_id))
        self._transport.task_queue.send(messages)

    def manifest_travels(self, cuts: Sequence[Cut]) -> bool:
        """Return whether the manifest is small and not stored yet, so that these chunks bring it along."""
        n_bytes = len(self._manifest_data)
        fits = n_bytes + max(cut.length for cut in cuts) <= INLINE_ARGS_BYTES
        return 0 < n_bytes <= _TRAVELLING_MANIFEST_BYTES and fits

    def _chunk(self, key: str, cut: Cut, *, reply_queue: str, now: float) -> Chunk:
        return Chunk(
            job_id=self._manifest.job_id,
            chunk_id=cut.chunk_id,
            first_call=cut.first_call,
            n_calls=cut.n_calls,
            python=self._manifest.python,
            manifest_key=manifest_key(self._manifest.job_id),
            manifest_sha256=self._manifest_sha256,
            args=ArgsLocation(key=key, offset=cut.offset, length=cut.length, sha256=cut.sha256),
            reply_queue=reply_queue,
            audience=self._manifest.audience,
            host_send_timestamp=now,
            expiry_timestamp=now + EXPIRY_TIME,
            limits=self._manifest.limits,
            runtime=self._runtime,
        )

    def seal(self, *, n_calls: int, n_chunks: int) -> None:
        """Say in S3 that all calls of the job are there."""
        seal = Seal(n_calls=n_calls, n_chunks=n_chunks, n_segments=self._n_segments)
        self._transport.store.put(sealed_key(self._manifest.job_id), encode_seal(seal))


def travels_inline(cut: Cut) -> bool:
    """Return whether a chunk's arguments are small enough to travel in its message."""
    return cut.length <= INLINE_ARGS_BYTES
