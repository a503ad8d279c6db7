"""Sends chunks again from what S3 has of their job; needs nothing of the client that sent them first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from wren_worker.client.shipping import EXPIRY_TIME
from wren_worker.client.stored import read_segments
from wren_worker.clock import Clock
from wren_worker.errors import QueueError, WireError
from wren_worker.protocol.envelope import sha256_hex
from wren_worker.protocol.jobs import decode_manifest
from wren_worker.protocol.model import ArgsLocation, Chunk, Cut, JobManifest, manifest_key
from wren_worker.protocol.ports import ObjectStore, OutgoingMessage, TaskQueue
from wren_worker.protocol.wire import encode_chunk

__all__ = ["Resender", "Resent"]

_TOGETHER = 500


@dataclass(frozen=True, slots=True)
class Resent:
    """The chunks that are on their way again, and those of which S3 has no arguments."""

    numbers: frozenset[int]
    missing: frozenset[int]


class Resender:
    """Sends chunks again, under the names they had.

    Args:
        store: The fleet's bucket.
        task_queue: The fleet's queue for this Python.
        audience: What chunk messages of that queue are bound to.
        reply_url: Gives the address of the reply queue of whoever sends, "" for none: then the first sender's.
        clock: Says when.
    """

    def __init__(
        self, *, store: ObjectStore, task_queue: TaskQueue, audience: str, reply_url: Callable[[], str], clock: Clock
    ) -> None:
        self._store = store
        self._queue = task_queue
        self._audience = audience
        self._reply_url = reply_url
        self._clock = clock

    def resend(self, job_id: str, numbers: Mapping[int, int]) -> Resent:
        """Send chunks of a job again; ``numbers`` says for each how often that makes it.

        A job that is meant for another queue (another Python, another fleet) is left alone.

        Raises:
            QueueError: SQS did not take them.
            StoreError: S3 did not answer.
        """
        key = manifest_key(job_id)
        data = self._store.get(key)
        if data is None:
            return Resent(frozenset(), frozenset(numbers))
        try:
            manifest, _, _, _ = decode_manifest(key, data)
        except WireError:
            return Resent(frozenset(), frozenset(numbers))
        if manifest.audience != self._audience:
            return Resent(frozenset(), frozenset())
        if self._clock.timestamp() - manifest.host_submit_timestamp > EXPIRY_TIME:
            return Resent(frozenset(), frozenset(numbers))  # what is missing may just be no longer kept
        missing, sent = set(numbers), set[int]()
        messages: list[OutgoingMessage] = []
        waiting: list[int] = []
        for place, cut in self._cuts(job_id, data, missing):
            number = int(cut.chunk_id)
            missing.discard(number)
            chunk = self._chunk(manifest, sha256_hex(data), place, cut, numbers[number])
            messages.append(OutgoingMessage(body=encode_chunk(chunk, None), group_id=job_id))
            waiting.append(number)
            if len(messages) >= _TOGETHER:
                sent |= self._send(messages, waiting)
                messages, waiting = [], []
        sent |= self._send(messages, waiting)
        return Resent(frozenset(sent), frozenset(missing))

    def _cuts(self, job_id: str, manifest: bytes, missing: set[int]) -> Iterator[tuple[str, Cut]]:
        try:
            for segment in read_segments(self._store, job_id, manifest):
                for cut in segment.cuts:
                    if int(cut.chunk_id) in missing:
                        yield segment.key, cut
                if not missing:
                    return
        except WireError:
            return  # what cannot be read cannot be sent

    def _send(self, messages: list[OutgoingMessage], numbers: list[int]) -> set[int]:
        if not messages:
            return set()
        try:
            self._queue.send(messages)
        except QueueError as error:
            unsent = getattr(error, "unsent", None)
            if unsent is None or len(unsent) == len(messages):
                raise
            return {number for position, number in enumerate(numbers) if position not in unsent}
        return set(numbers)

    def _chunk(self, manifest: JobManifest, sha256: str, key: str, cut: Cut, n_resent: int) -> Chunk:
        now = self._clock.timestamp()
        return Chunk(
            job_id=manifest.job_id,
            chunk_id=cut.chunk_id,
            first_call=cut.first_call,
            n_calls=cut.n_calls,
            python=manifest.python,
            manifest_key=manifest_key(manifest.job_id),
            manifest_sha256=sha256,
            args=ArgsLocation(key=key, offset=cut.offset, length=cut.length, sha256=cut.sha256),
            reply_queue=self._reply_url() or manifest.reply_queue,
            audience=manifest.audience,
            host_send_timestamp=now,
            expiry_timestamp=now + EXPIRY_TIME,
            limits=manifest.limits,
            resent=n_resent,
        )
