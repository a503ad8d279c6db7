"""A fleet in memory for the client's tests: queue, bucket, and a daemon that runs chunks where it stands."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle

from wren_worker.client.attach import reading_session, reattach
from wren_worker.client.executor import Executor
from wren_worker.client.remote import Remote
from wren_worker.client.transport import Ticket, Transport
from wren_worker.clock import SystemClock
from wren_worker.config import Names, this_python
from wren_worker.errors import QueueError
from wren_worker.protocol import frames, records, wire
from wren_worker.protocol.envelope import sha256_hex
from wren_worker.protocol.jobs import decode_manifest
from wren_worker.protocol.model import Chunk, ResultObject, call_key, result_key
from wren_worker.protocol.ports import ObjectInfo, OutgoingMessage, QueueDepth, ReceivedMessage
from wren_worker.slot.values import dump_failure, dump_value, unpicklable_value

NAMES = Names(fleet="unit", account="123456789012", region="us-east-1")


class Store:
    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.before_put: Callable[[str], None] = lambda key: None

    def put(self, key: str, data: bytes | memoryview | Sequence[bytes | memoryview]) -> None:
        self.before_put(key)
        with self.lock:
            self.objects[key] = joined(data)
            self.log.append(("put", key))

    def put_once(self, key: str, data: bytes | memoryview | Sequence[bytes | memoryview] | Path) -> bool:
        assert not isinstance(data, Path)
        with self.lock:
            if key in self.objects:
                return False
            self.objects[key] = joined(data)
            return True

    def fill(self, key: str, target: memoryview, *, offset: int = 0, seen: Any = None) -> bool:
        data = self.get(key, offset=offset, length=len(target))
        if data is None or len(data) != len(target):
            return False
        target[:] = data
        if seen is not None:
            seen(target)
        return True

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes | None:
        with self.lock:
            self.log.append(("get", key))
            data = self.objects.get(key)
        return None if data is None else data[offset:][:length]

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        with self.lock:
            self.log.append(("list", prefix))
            keys = sorted(key for key in self.objects if key.startswith(prefix) and key > start_after)
        return (ObjectInfo(key=key, n_bytes=len(self.objects[key]), modified_timestamp=0.0) for key in keys)

    def download(self, key: str, path: Path, *, offset: int = 0, length: int | None = None) -> bool:
        raise NotImplementedError

    def exists(self, key: str) -> bool:
        return key in self.objects

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)


def joined(data: bytes | memoryview | Sequence[bytes | memoryview]) -> bytes:
    return bytes(data) if isinstance(data, bytes | memoryview) else b"".join(data)


class Tasks:
    name = "wren-unit-tasks"

    def __init__(self, log: list[tuple[str, str]]) -> None:
        self.messages: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.gate = threading.Event()
        self.gate.set()
        self.failure: QueueError | None = None
        self.batches: list[list[Chunk]] = []
        self.log = log

    def send(self, messages: Sequence[OutgoingMessage]) -> None:
        chunks = [wire.decode_chunk(message.body)[0] for message in messages]
        self.batches.append(chunks)
        assert self.gate.wait(30)
        if self.failure is not None:
            raise self.failure
        for message, chunk in zip(messages, chunks, strict=True):
            self.log.append(("send", f"{chunk.job_id}/{chunk.chunk_id}"))
            self.messages.put(message.body)

    def receive(self, *, max_messages: int, wait_time: float, lease_time: float) -> list[ReceivedMessage]:
        raise NotImplementedError

    def extend(self, receipt_handles: Sequence[str], *, lease_time: float) -> list[Any]:
        raise NotImplementedError

    def release(self, receipt_handles: Sequence[str], *, delay: float = 0.0) -> None:
        raise NotImplementedError

    def delete(self, receipt_handles: Sequence[str]) -> list[str]:
        raise NotImplementedError

    def depth(self) -> QueueDepth:
        raise NotImplementedError


class Replies:
    url = "memory://replies"

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.bodies: list[str] = []
        self.gone = False
        self.deleted = 0
        self.crash: BaseException | None = None

    def send(self, body: str) -> None:
        with self.condition:
            if not self.gone:
                self.bodies.append(body)
                self.condition.notify_all()

    def receive(self, *, wait_time: float) -> list[ReceivedMessage]:
        with self.condition:
            self.condition.wait_for(lambda: self.bodies or self.gone or self.crash, wait_time)
            if self.crash is not None:
                raise self.crash
            if self.gone:
                raise QueueError("no such queue", gone=True)
            taken, self.bodies = self.bodies[:10], self.bodies[10:]
        return [ReceivedMessage(body=body, receipt_handle="h", receive_count=1, sent_timestamp=0.0) for body in taken]

    def delete(self, receipt_handles: Sequence[str]) -> None:
        self.deleted += len(receipt_handles)

    def remove(self) -> None:
        with self.condition:
            self.gone = True
            self.condition.notify_all()


class World:
    """A fleet. ``run()`` starts a daemon; ``notify=False`` loses its notices."""

    def __init__(self) -> None:
        self.store = Store()
        self.tasks = Tasks(self.store.log)
        self.replies: list[Replies] = []
        self.why = ""
        self.notify = True
        self.run_time = 0.5
        self.functions: dict[str, Any] = {}
        self.chunks: list[Chunk] = []
        self.threads: list[threading.Thread] = []
        self.executors: list[Executor] = []
        self.reading = None

    def transport(self) -> Transport:
        return Transport(
            names=NAMES,
            backend="local",
            task_queue=self.tasks,
            store=self.store,
            new_reply_queue=self.new_reply_queue,
            why_nothing_runs=lambda: self.why,
            describe="backend unit",
            restore=restore,
            clock=SystemClock(),
            python=this_python(),
        )

    def new_reply_queue(self) -> Replies:
        self.replies.append(Replies())
        return self.replies[-1]

    def executor(self, *, progress: bool | None = False, **settings: Any) -> Executor:
        self.executors.append(Executor(Remote(self.transport(), progress=progress), **settings))
        return self.executors[-1]

    def run(self) -> None:
        thread = threading.Thread(target=self._daemon, name="unit-daemon")
        thread.start()
        self.threads.append(thread)

    def close(self) -> None:
        self.tasks.gate.set()
        for executor in self.executors:
            executor.close()
        for _ in self.threads:
            self.tasks.messages.put(None)
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()

    def _daemon(self) -> None:
        while (body := self.tasks.messages.get()) is not None:
            self.run_chunk(body)

    def args(self, chunk: Chunk, inline: bytes | None) -> bytes:
        data = inline
        if data is None:
            data = self.store.get(chunk.args.key, offset=chunk.args.offset, length=chunk.args.length)
        assert data is not None
        assert sha256_hex(data) == chunk.args.sha256
        # what is in S3, or about to be, is the same: anybody can send the chunk again
        until(lambda: chunk.args.key in self.store.objects)
        assert self.store.get(chunk.args.key, offset=chunk.args.offset, length=chunk.args.length) == data
        return data

    def records(self, chunk: Chunk, inline: bytes | None) -> list[bytes]:
        until(lambda: chunk.manifest_key in self.store.objects)
        manifest_data = self.store.objects[chunk.manifest_key]
        assert sha256_hex(manifest_data) == chunk.manifest_sha256
        if chunk.job_id not in self.functions:
            _, function, _, _ = decode_manifest(chunk.manifest_key, manifest_data)
            self.functions[chunk.job_id] = cloudpickle.loads(bytes(function))
        found = []
        for call_index, _, blob in frames.split_calls(self.args(chunk, inline)):
            args, kwargs = cloudpickle.loads(bytes(blob))
            found.append(self.execute(chunk.job_id, call_index, self.functions[chunk.job_id], args, kwargs))
        return found

    def execute(self, job_id: str, call_index: int, func: Any, args: Any, kwargs: Any) -> bytes:
        output = records.pack_output(records.STDOUT, b"hello\n")
        try:
            value = func(*args, **kwargs)
        except Exception as error:
            return records.pack_record(
                call_index, records.FAILURE, dump_failure(error, error.__traceback__), output=output
            )
        if isinstance(value, dict) and "wren error" in value:
            data = wire.error_value(value["wren error"], value["text"], **value["data"])
            return records.pack_record(call_index, records.ERROR, data)
        if isinstance(value, dict) and "elsewhere" in value:
            data = joined(dump_value(value["elsewhere"]))
            key = f"results/{job_id}/0/{call_index}.elsewhere"
            tail = b"" if not value.get("output") else records.pack_output(records.STDOUT, b"big\n")
            self.store.put(key, data + tail)
            place = {"key": key, "length": len(data + tail), "sha256": sha256_hex(data + tail)}
            text = wire.json.dumps(place | {"value_bytes": len(data)}).encode()
            return records.pack_record(call_index, records.SUCCESS, text, flags=records.FLAG_ELSEWHERE)
        try:
            data = dump_value(value)
        except Exception as error:
            return records.pack_record(call_index, records.FAILURE, unpicklable_value(value, error))
        return records.pack_record(call_index, records.SUCCESS, data, output=output, run_time=self.run_time, slot=1)

    def run_chunk(self, body: str) -> None:
        chunk, inline, _ = wire.decode_chunk(body)
        self.chunks.append(chunk)
        self.publish(chunk, self.records(chunk, inline))

    def publish(
        self,
        chunk: Chunk,
        found: list[bytes],
        *,
        left_out: tuple[tuple[int, int], ...] = (),
        call_index: int | None = None,
        inline: bool = True,
    ) -> str:
        result = ResultObject(
            job_id=chunk.job_id,
            chunk_id=chunk.chunk_id,
            first_call=chunk.first_call,
            n_calls=chunk.n_calls,
            left_out=left_out,
            call_index=call_index,
            instance_id="i-unit",
        )
        data = wire.encode_result(result, found)
        key = result_key(chunk.job_id, chunk.chunk_id)
        if call_index is not None:
            key = call_key(chunk.job_id, chunk.chunk_id, call_index)
        taken = not self.store.put_once(key, data)
        if self.notify and chunk.reply_queue:
            self.replies[-1].send(wire.encode_notices([(key, b"" if taken or not inline else data)]))
        return key


class Worlds:
    """Where an unpickled future finds its fleet: ``wiring`` does this for the real ones."""

    current: World | None = None


def restore(backend: str, names: Names, ticket: Ticket) -> object:
    assert (backend, names) == ("local", NAMES)
    world = Worlds.current
    assert world is not None
    if world.reading is None:
        world.reading = reading_session(world.transport(), progress=False)
    return reattach(world.reading, ticket)


def until(condition: Callable[[], Any], timeout: float = 20.0) -> None:
    """Block until it holds; for what no event announces."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.005)


def pickled_by_value(module: str) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[module])
