"""From a received message to a delivery that can run: checked, fetched, and settled with what is stored already.

Runs on the receiver's thread. Bytes are checked before they are parsed further, and never unpickled.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from wren_worker.clock import Clock
from wren_worker.config import InstanceConfig
from wren_worker.daemon.calls import CallTable
from wren_worker.daemon.events import Arrived, JobFiles, Rejected
from wren_worker.daemon.fetch import Mismatch, fetch_file
from wren_worker.daemon.settle import read_settled
from wren_worker.errors import StoreError, WireError
from wren_worker.protocol.envelope import sha256_hex
from wren_worker.protocol.frames import FrameError
from wren_worker.protocol.jobs import decode_manifest
from wren_worker.protocol.model import Chunk, ResultObject, result_key, result_prefix
from wren_worker.protocol.ports import ObjectStore, ReceivedMessage
from wren_worker.protocol.wire import decode_chunk, encode_result

__all__ = ["Intake"]

#: Larger arguments stream into a file of the instance instead of the daemon's memory.
_INLINE_LIMIT_BYTES = 8 * 1024 * 1024
_JOB_CACHE_BYTES = 256 * 1024 * 1024
#: A reason may quote what a stranger wrote.
_REASON_LENGTH = 500
_TABLE_BYTES = 2 * 1024 * 1024


class _Refusal(Exception):
    """The message must not run here."""


class _Missing(_Refusal):
    """What the message needs is not in the bucket."""


class Intake:
    """Prepares deliveries.

    Args:
        config: The instance's.
        audience: What chunk messages of this queue are bound to.
        instance_id: Written into the empty object of a redelivery.
        store: The fleet's bucket.
        folder: Where large arguments go.
        clock: For expiry.
        rung: Tells whether calls of a job are known to have been cancelled.
    """

    def __init__(
        self,
        *,
        config: InstanceConfig,
        audience: str,
        instance_id: str,
        store: ObjectStore,
        folder: Path,
        clock: Clock,
        rung: Callable[[str], bool],
    ) -> None:
        self._config = config
        self._audience = audience
        self._instance_id = instance_id
        self._store = store
        self._folder = folder
        self._clock = clock
        self._rung = rung
        #: Under which prefix something could not be read; "" as long as all is well.
        self._doubtful = ""
        # nothing a message says sends outcomes out of the fleet
        prefix = re.escape(config.names.reply_queue(""))
        self._replies = re.compile(rf"https?://[^/\s@]+/(?:[^/\s]+/)*{prefix}[A-Za-z0-9_-]+")
        self._jobs: OrderedDict[str, JobFiles] = OrderedDict()

    def check(self) -> None:
        """Ask the bucket for something again after it failed, before more messages are spent on it.

        Raises:
            StoreError: It still does not answer or refuses.
        """
        if self._doubtful:
            next(iter(self._store.list(self._doubtful)), None)
            self._doubtful = ""

    def prepare(self, message: ReceivedMessage) -> Arrived | Rejected:
        """Return the delivery, or why it must not run here.

        Raises:
            StoreError: The bucket does not answer or refuses; the message is to be kept.
        """
        try:
            chunk, inline, manifest = decode_chunk(message.body)
            self._check(chunk)
            known, resolved = self._settle(chunk, message.receive_count)
            if message.receive_count > chunk.limits.max_deliveries or (
                known is not None and self._done(known, resolved)
            ):
                return self._arrived(message, chunk, known=known, resolved=resolved)
            job = self._job(chunk, manifest)
            args = self._args(chunk, inline, message.receipt_handle)
            table = self._table(chunk, args)
        except _Missing as error:
            # S3 says so, too, to whom it forbids to know
            self._doubtful = result_prefix(chunk.job_id)
            self.check()
            return Rejected(receipt_handle=message.receipt_handle, reason=str(error))
        except (WireError, FrameError, _Refusal) as error:
            return Rejected(receipt_handle=message.receipt_handle, reason=str(error)[:_REASON_LENGTH])
        except StoreError:
            self._doubtful = result_prefix(chunk.job_id)
            raise
        return self._arrived(message, chunk, job=job, args=args, table=table, known=known, resolved=resolved)

    @staticmethod
    def _arrived(
        message: ReceivedMessage,
        chunk: Chunk,
        *,
        job: JobFiles | None = None,
        args: bytes | Path = b"",
        table: CallTable | None = None,
        known: ResultObject | None,
        resolved: frozenset[int],
    ) -> Arrived:
        return Arrived(
            chunk=chunk,
            receipt_handle=message.receipt_handle,
            delivery=message.receive_count,
            job=job,
            args=args,
            table=table,
            known=known,
            resolved=resolved,
        )

    def _check(self, chunk: Chunk) -> None:
        if chunk.audience != self._audience:
            raise _Refusal(f"the message is meant for {chunk.audience}, this is {self._audience}")
        if chunk.python != self._config.python:
            raise _Refusal(f"python version {chunk.python} cannot run here, this is {self._config.python}")
        if chunk.runtime:
            raise _Refusal(f"runtime {chunk.runtime} is not here")
        if chunk.reply_queue and not self._replies.fullmatch(chunk.reply_queue):
            raise _Refusal(f"the reply queue {chunk.reply_queue} is none of this fleet's")
        if chunk.expiry_timestamp < self._clock.timestamp():
            raise _Refusal("the message has expired")

    def _settle(self, chunk: Chunk, delivery: int) -> tuple[ResultObject | None, frozenset[int]]:
        """Find or make the result object of a chunk that may have been run before, or cancelled.

        An empty object first: from then on every call has a key of its own, so that two holders of the chunk, each
        with some of its calls, never have to agree on more than one call at a time.
        """
        if delivery == 1 and not chunk.resent and not self._rung(chunk.job_id):
            return None, frozenset()
        empty = ResultObject(
            job_id=chunk.job_id,
            chunk_id=chunk.chunk_id,
            first_call=chunk.first_call,
            n_calls=chunk.n_calls,
            left_out=((chunk.first_call, chunk.first_call + chunk.n_calls),),
            instance_id=self._instance_id,
            delivery=delivery,
            remote_write_timestamp=self._clock.timestamp(),
        )
        key = result_key(chunk.job_id, chunk.chunk_id)
        if self._store.put_once(key, encode_result(empty, ())):
            return empty, frozenset()
        settled = read_settled(self._store, chunk)
        if settled is None:
            raise _Missing("the result object vanished")
        return settled

    @staticmethod
    def _done(known: ResultObject, resolved: frozenset[int]) -> bool:
        return all(index in resolved for first, end in known.left_out for index in range(first, end))

    def _job(self, chunk: Chunk, inline: bytes) -> JobFiles:
        job = self._jobs.get(chunk.manifest_sha256)
        if job is None or job.job_id != chunk.job_id:
            data = inline or self._store.get(chunk.manifest_key)
            if data is None:
                raise _Missing(f"the job's manifest {chunk.manifest_key} does not exist (any more)")
            if sha256_hex(data) != chunk.manifest_sha256:
                raise _Refusal("the job's manifest does not match its sha256")
            manifest, function, modules, _ = decode_manifest(chunk.manifest_key, data)
            if (manifest.job_id, manifest.python) != (chunk.job_id, chunk.python):
                raise _Refusal("the manifest is of another job")
            job = JobFiles(
                job_id=manifest.job_id,
                function=bytes(function),
                modules=bytes(modules),
                modules_sha256=manifest.modules_sha256,
                env=manifest.env,
                retry_on=manifest.retry_on,
            )
            self._jobs[chunk.manifest_sha256] = job
            while len(self._jobs) > 1 and self._n_cached_bytes() > _JOB_CACHE_BYTES:
                self._jobs.popitem(last=False)
        self._jobs.move_to_end(chunk.manifest_sha256)
        return job

    def _n_cached_bytes(self) -> int:
        return sum(len(job.function) + len(job.modules) for job in self._jobs.values())

    def _args(self, chunk: Chunk, inline: bytes | None, receipt_handle: str) -> bytes | Path:
        if inline is not None:
            return inline
        at = chunk.args
        if at.length <= _INLINE_LIMIT_BYTES:
            data = self._store.get(at.key, offset=at.offset, length=at.length)
            if data is None:
                raise _Missing(f"the arguments {at.key} do not exist (any more)")
            if sha256_hex(data) != at.sha256:
                raise _Refusal("the arguments do not match their sha256")
            return data
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / hashlib.sha256(receipt_handle.encode()).hexdigest()
        try:
            fetch_file(self._store, at.key, path, offset=at.offset, length=at.length, sha256=at.sha256)
        except Mismatch as error:
            raise _Refusal(str(error)) from error
        return path

    @staticmethod
    def _table(chunk: Chunk, args: bytes | Path) -> CallTable:
        if isinstance(args, Path):
            with args.open("rb") as source:
                head, n_bytes = source.read(_TABLE_BYTES), chunk.args.length
        else:
            head, n_bytes = args, len(args)
        return CallTable.read(head, n_bytes=n_bytes, first_call=chunk.first_call, n_calls=chunk.n_calls)
