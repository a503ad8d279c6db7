"""The publisher's threads: PUT, then notify, then delete; a slot never waits for any of them.

A few threads PUT. One more, the announcer, sends notices and deletes messages in the order in which it was told, many
in a request: a notice never overtakes its PUT, a deletion never its notice.
"""

from __future__ import annotations

import json
import queue
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from wren_worker.clock import Clock
from wren_worker.daemon.events import Inbox, Removed, Stored
from wren_worker.daemon.holding import Holding, Put
from wren_worker.daemon.settle import check_object
from wren_worker.errors import QueueError, WireError, WrenError
from wren_worker.log import EventLog
from wren_worker.protocol import records
from wren_worker.protocol.envelope import sha256_file
from wren_worker.protocol.model import ResultObject, call_key, result_key
from wren_worker.protocol.ports import ObjectStore, ReplySender, TaskQueue
from wren_worker.protocol.wire import decode_result, encode_notices, encode_result

__all__ = ["Publisher"]

_PUT_THREADS = 8
#: Within one unit of 64 KB that SQS bills, base64 included.
_INLINE_RESULT_BYTES = 46 * 1024
_NOTICE_BYTES = 140 * 1024
#: A queue that is said not to exist is tried again after this.
_STRIKE_TIME = 1.0


@dataclass(frozen=True, slots=True)
class _Notice:
    url: str
    key: str
    data: bytes


@dataclass(frozen=True, slots=True)
class _Deletion:
    receipt_handle: str


@dataclass(frozen=True, slots=True)
class _Release:
    receipt_handle: str
    delay: float


class Publisher:
    """Makes outcomes durable and says so.

    Args:
        store: The fleet's bucket.
        replies: Sends notices.
        queue_: The task queue, for deletions.
        inbox: Where Stored and Removed go.
        clock: Monotonic time.
        log: For what goes wrong without harm.
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        replies: ReplySender,
        queue_: TaskQueue,
        inbox: Inbox,
        clock: Clock,
        log: EventLog,
    ) -> None:
        self._store = store
        self._replies = replies
        self._queue = queue_
        self._inbox = inbox
        self._clock = clock
        self._log = log
        self._pool = ThreadPoolExecutor(_PUT_THREADS, thread_name_prefix="wren-put")
        self._orders: queue.SimpleQueue[_Notice | _Deletion | _Release | None] = queue.SimpleQueue()
        self._announcer = threading.Thread(target=self._announce, name="wren-announcer", daemon=True)
        #: When a reply queue was first said not to exist, and those that were said so again a while later.
        self._strikes: dict[str, float] = {}
        self._gone: set[str] = set()
        self._writing_state = False
        #: Whether the last state object was written, as far as is known.
        self.state_written = True

    def start(self) -> None:
        """Start the announcer."""
        self._announcer.start()

    def put(self, holding: Holding, put: Put) -> None:
        """Store a result object or an own key; a Stored event follows."""
        self._pool.submit(self._put, holding.receipt_handle, holding.chunk.reply_queue, put)

    def put_state(self, key: str, data: bytes) -> None:
        """Write the instance's state object; best effort."""
        if not self._writing_state:
            self._writing_state = True
            self._pool.submit(self._put_state, key, data)

    def notify(self, holding: Holding) -> None:
        """Say again that a chunk found done is done: its reader may have missed the first notice."""
        chunk = holding.chunk
        self._tell(chunk.reply_queue, result_key(chunk.job_id, chunk.chunk_id), b"")

    def delete(self, holding: Holding) -> None:
        """Delete a message after every notice told so far; a Removed event follows."""
        self._orders.put(_Deletion(holding.receipt_handle))

    def release(self, receipt_handle: str, *, delay: float) -> None:
        """Give a delivery back in ``delay`` seconds, after every PUT's notice told so far; best effort."""
        self._orders.put(_Release(receipt_handle, delay))

    def stop(self, *, timeout: float) -> None:
        """Finish what was ordered, for at most so long."""
        self._orders.put(None)
        self._announcer.join(timeout)
        self._pool.shutdown(wait=False, cancel_futures=True)

    # --- PUT ----------------------------------------------------------------------------------------------------------

    def _put(self, receipt_handle: str, url: str, put: Put) -> None:
        head = put.result
        key = (
            result_key(head.job_id, head.chunk_id)
            if put.call_index is None
            else call_key(head.job_id, head.chunk_id, put.call_index)
        )
        free, found, error, refused = False, None, "", False
        try:
            outcomes = [
                self._move_out(record, head.job_id, head.chunk_id)
                if record[records.FLAGS_AT] & records.FLAG_ELSEWHERE
                else record
                for record in put.records
            ]
            data = encode_result(head, outcomes)
            free = self._store.put_once(key, data)
            if not free and put.call_index is None:
                found = decode_result(self._store.get(key) or b"")[0]
                check_object(found, head)
            # taken: by an earlier try of ours or by another, never ask which; the key alone is the truth
            self._tell(url, key, data if free else b"")
            _drop_files(put, found)
        except WireError as problem:
            # written once, it will not get better; whoever waits for it is to look
            error, refused = str(problem), True
            self._tell(url, key, b"")
        except (WrenError, OSError) as problem:
            error = str(problem)
        except Exception as problem:  # noqa: BLE001 - the loop must hear of it, or the chunk would never end
            error = f"{type(problem).__name__}: {problem}"
        self._inbox.put(
            Stored(
                receipt_handle=receipt_handle,
                key=key,
                call_index=put.call_index,
                free=free,
                found=found,
                error=error,
                refused=refused,
            )
        )

    def _move_out(self, record: bytes, job_id: str, chunk_id: str) -> bytes:
        """Return the record with a value that lies in a file moved to an object of its own.

        The key holds the content's hash, so two deliveries of the same call never write over each other's.
        """
        head = list(records.HEAD.unpack_from(record))
        value = record[records.HEAD.size : records.HEAD.size + head[9]]
        if b'"path"' not in value:
            return record
        where = json.loads(value)
        path = Path(where["path"])
        digest, length = sha256_file(path), path.stat().st_size
        key = f"{call_key(job_id, chunk_id, head[0])}.{digest[:32]}"
        self._store.put_once(key, path)
        pointer = {"key": key, "length": length, "sha256": digest, "value_bytes": where["value_bytes"]}
        value = json.dumps(pointer).encode()
        head[9], head[10] = len(value), 0
        return records.HEAD.pack(*head) + value

    def _put_state(self, key: str, data: bytes) -> None:
        try:
            self._store.put(key, data)
            self.state_written = True
        except Exception as error:  # noqa: BLE001 - whatever it is, the state is not written
            self.state_written = False
            self._log.event("state_not_written", error=str(error))
        finally:
            self._writing_state = False

    # --- notify and delete --------------------------------------------------------------------------------------------

    def _tell(self, url: str, key: str, data: bytes) -> None:
        if url and url not in self._gone:
            self._orders.put(_Notice(url, key, data if len(data) <= _INLINE_RESULT_BYTES else b""))

    def _announce(self) -> None:
        stopping = False
        while not stopping:
            orders = [self._orders.get()]
            while True:
                try:
                    orders.append(self._orders.get_nowait())
                except queue.Empty:
                    break
            stopping = None in orders
            self._send([order for order in orders if isinstance(order, _Notice)])
            self._delete([order.receipt_handle for order in orders if isinstance(order, _Deletion)])
            self._release([order for order in orders if isinstance(order, _Release)])

    def _send(self, notices: list[_Notice]) -> None:
        by_url: dict[str, list[_Notice]] = defaultdict(list)
        for notice in notices:
            by_url[notice.url].append(notice)
        for url, group in by_url.items():
            if url in self._gone:
                continue
            try:
                self._replies.send(url, list(_bodies(group)))
                self._strikes.pop(url, None)
            except Exception as error:  # noqa: BLE001 - this thread deletes too, and must not end
                # a hint that is lost costs the reader latency, never a result
                self._log.event("notice_not_sent", reply_queue=url, error=str(error))
                if isinstance(error, QueueError) and getattr(error, "gone", False):
                    self._strike(url, group)

    def _strike(self, url: str, notices: list[_Notice]) -> None:
        """Believe that a reply queue is gone once SQS has said so twice, a while apart."""
        now = self._clock.monotonic()
        if now - self._strikes.setdefault(url, now) >= _STRIKE_TIME:
            self._gone.add(url)
            return
        for notice in notices:
            again = threading.Timer(_STRIKE_TIME, self._orders.put, (notice,))
            again.daemon = True
            again.start()

    def _delete(self, handles: list[str]) -> None:
        if not handles:
            return
        try:
            failed = set(self._queue.delete(handles))
        except Exception as error:  # noqa: BLE001 - the loop must hear of it, or the chunk would never end
            failed = set(handles)
            self._log.event("messages_not_deleted", error=str(error))
        for handle in handles:
            self._inbox.put(Removed(receipt_handle=handle, deleted=handle not in failed))

    def _release(self, orders: list[_Release]) -> None:
        if not orders:
            return
        try:
            self._queue.release([order.receipt_handle for order in orders], delay=max(order.delay for order in orders))
        except Exception as error:  # noqa: BLE001 - the leases run out by themselves
            self._log.event("messages_not_released", error=str(error))


def _drop_files(put: Put, found: ResultObject | None) -> None:
    """Remove the files of values that are durable now, or will never be: all but of calls that need own keys yet."""
    wanted = found.left_out if found is not None else ()
    for record in put.records:
        if not record[records.FLAGS_AT] & records.FLAG_ELSEWHERE:
            continue
        head = records.HEAD.unpack_from(record)
        value = record[records.HEAD.size : records.HEAD.size + head[9]]
        if b'"path"' not in value:
            continue
        if not any(first <= head[0] < end for first, end in wanted):
            Path(json.loads(value)["path"]).unlink(missing_ok=True)


def _bodies(notices: list[_Notice]) -> list[str]:
    bodies: list[str] = []
    group: list[tuple[str, bytes]] = []
    size = 0
    for notice in notices:
        if group and size + len(notice.data) > _NOTICE_BYTES:
            bodies.append(encode_notices(group))
            group, size = [], 0
        group.append((notice.key, notice.data))
        size += len(notice.data) + len(notice.key)
    bodies.append(encode_notices(group))
    return bodies
