"""A slot's child: runs the calls of one job until it is ended.

Runs in a process forked by the keeper, on its main thread. A second thread only sends outcomes that a long call would
keep waiting: a finished call is never more than 0.1 s away from the daemon, whatever its neighbour does.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import pickle
import resource
import signal
import socket
import sys
import threading
import time
import types
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from ..protocol.frames import Kind, pack_frame, split_calls, split_sections
from ..protocol.page import Page
from ..protocol.records import (
    FAILURE,
    FLAG_ELSEWHERE,
    FLAG_FINAL,
    FLAG_OUTPUT_TRUNCATED,
    HEAD,
    SUCCESS,
)
from .capture import Capture, Channel
from .job import Job
from .orders import Orders
from .refs import Arrivals
from .surroundings import Surroundings
from .values import dump_end, dump_failure, dump_value, unpicklable_value

__all__ = ["Child", "main"]

_FLUSH_INTERVAL = 0.1
_FLUSH_BYTES = 256 * 1024
#: A larger value is left in a file, so that the daemon's memory does not grow with it.
_INLINE_VALUE_BYTES = 1024 * 1024
#: getrusage tells kilobytes, on macOS bytes.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Outbox:
    """Outcomes on their way to the daemon, many in one frame. ``add`` is the main thread's; anybody may ``flush``."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._records: deque[bytes] = deque()
        self._n_bytes = 0
        self._next_flush = 0.0
        self._busy = threading.Event()
        threading.Thread(target=self._flush_behind, name="wren-outbox", daemon=True).start()

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Send everything at the end, and meanwhile at least every _FLUSH_INTERVAL."""
        self._next_flush = time.perf_counter() + _FLUSH_INTERVAL
        self._busy.set()
        try:
            yield
        finally:
            self._busy.clear()
            self.flush()

    def add(self, record: bytes, now: float) -> None:
        """Take one outcome; ``now`` is perf_counter's, roughly."""
        # no lock: a deque's append and popleft are one step each
        self._records.append(record)
        self._n_bytes += len(record)
        if self._n_bytes > _FLUSH_BYTES or now > self._next_flush:
            self.flush()

    def flush(self) -> None:
        """Send what is there."""
        with self._lock:
            records: list[bytes] = []
            while self._records:
                records.append(self._records.popleft())
            self._n_bytes = 0
            self._next_flush = time.perf_counter() + _FLUSH_INTERVAL
            if records:
                # under the lock, so that outcomes leave in the order in which they were made
                self._channel.send(pack_frame(Kind.OUTCOMES, *records))

    def _flush_behind(self) -> None:
        while self._busy.wait():
            time.sleep(_FLUSH_INTERVAL)
            if self._records:
                self.flush()


class Child:
    """Obeys frames: a job first, then its calls."""

    def __init__(self, channel: socket.socket, page: Page) -> None:
        self.channel = Channel(channel)
        self._page = page
        self._capture = Capture(self.channel)
        self._outbox = Outbox(self.channel)
        self._orders = Orders(self.channel)
        Arrivals(self._orders.ask).install()
        self._slot = 0
        self._folder = Path()
        self._job: Job | None = None
        self._surroundings: Surroundings | None = None
        self._cpu_time = 0.0
        self._end = 0.0
        #: ``(job_id, call_index, attempt)`` of the call that runs, for ``wren_worker.current()``.
        self.current: tuple[str, int, int] | None = None

    def serve(self) -> None:
        """Run what comes until the daemon closes the channel."""
        while (order := self._orders.next()) is not None:
            kind, body = order
            if kind == Kind.JOB:
                self._take_job(body)
            elif kind == Kind.CALLS:
                self._run(split_calls(body))
            elif kind == Kind.CALLS_FILE:
                self._run(self._calls_of_file(json.loads(body)))

    def _take_job(self, body: bytes) -> None:
        header, (function, modules) = split_sections(body)
        self._slot = int(str(header["slot"]))
        self._folder = Path(str(header["folder"]))
        self._job = Job(header, bytes(function), bytes(modules))
        try:
            (self._folder / "cwd").mkdir(parents=True, exist_ok=True)
            (self._folder / "outbox").mkdir(exist_ok=True)
            os.chdir(self._folder / "cwd")
            self._job.enter()
        except Exception as error:  # noqa: BLE001 - a full disk, say: each call says so; a crash would say nothing
            self._job.fail(error)
        self._surroundings = Surroundings()
        self._surroundings.fresh_seeds()

    def _calls_of_file(self, order: dict[str, object]) -> Iterator[tuple[int, int, memoryview]]:
        calls: list[tuple[int, int, int, int]] = order["calls"]  # type: ignore[assignment]
        with open(str(order["path"]), "rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for call_index, attempt, offset, length in calls:
                view = memoryview(data)[offset : offset + length]
                yield call_index, attempt, view
                view.release()

    def _run(self, calls: Iterable[tuple[int, int, memoryview]]) -> None:
        job, surroundings = self._job, self._surroundings
        if job is None or surroundings is None:
            raise RuntimeError("calls came before their job")
        outbox, channel, mark, begin = self._outbox, self.channel, self._page.mark, self._capture.begin
        with outbox.batch():
            for call_index, attempt, arguments in calls:
                mark(call_index)
                begin(call_index, attempt)
                self.current = (job.job_id, call_index, attempt)
                record = self._call(job, call_index, attempt, arguments)
                if os.getpid() != channel.owner_pid:
                    os._exit(0)  # a fork that the call made and that came back here
                if not channel.open:
                    os._exit(1)  # the call closed what was not its own, and nobody else shall be blamed for it
                outbox.add(record, self._end)
                surroundings.put_back()
        self._page.clear()
        self.current = None

    def _call(self, job: Job, call_index: int, attempt: int, arguments: memoryview) -> bytes:
        start_timestamp, start = time.time(), time.perf_counter()
        status, flags, loaded = SUCCESS, 0, False
        value: bytes | list[bytes | memoryview]
        try:
            function = job.function()
            args, kwargs = pickle.loads(arguments)
            loaded = True
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self._end = end = time.perf_counter()
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises is its outcome
            self._end = end = time.perf_counter()
            # our own two frames say nothing to the user
            trace = error.__traceback__.tb_next if error.__traceback__ else None
            status, value = dump_end(error, trace)
            # a module that is missing will be missing again
            flags = 0 if loaded and job.retries(error) else FLAG_FINAL
        else:
            try:
                value = dump_value(result)
            except BaseException as error:  # noqa: BLE001 - whatever the user's class raises
                status, value, flags = FAILURE, unpicklable_value(result, error), FLAG_FINAL
        self._capture.end()
        if self._capture.n_dropped_bytes:
            flags |= FLAG_OUTPUT_TRUNCATED
        if isinstance(value, list) or len(value) > _INLINE_VALUE_BYTES:
            try:
                value, flags = self._leave_in_file(call_index, attempt, value), flags | FLAG_ELSEWHERE
            except OSError as error:  # the disk is full, most likely
                status, value = FAILURE, dump_failure(error, None)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu_time = usage.ru_utime + usage.ru_stime
        cpu_time, self._cpu_time = cpu_time - self._cpu_time, cpu_time
        # pack_record, without the keywords
        head = HEAD.pack(
            call_index, status, flags, self._slot, attempt, start_timestamp, end - start, cpu_time,
            usage.ru_maxrss * _RSS_UNIT, len(value), 0,
        )  # fmt: skip
        return head + value

    def _leave_in_file(self, call_index: int, attempt: int, value: bytes | list[bytes | memoryview]) -> bytes:
        name = f"{call_index}-{attempt}-{os.getpid()}"
        path = self._folder / "outbox" / name
        try:
            with path.open("wb") as file:
                file.writelines([value] if isinstance(value, bytes) else value)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return json.dumps({"path": name}).encode()


def main(descriptors: list[int]) -> NoReturn:
    """Serve the daemon in a freshly forked process; does not return."""
    channel_fd, out_fd, err_fd, page_fd = descriptors
    os.dup2(out_fd, 1)
    os.dup2(err_fd, 2)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for descriptor in (out_fd, err_fd, null):
        os.close(descriptor)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # users' pickles may look at __main__; ours is none of their business
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = [""]
    page = Page(page_fd)
    os.close(page_fd)
    child = Child(socket.socket(fileno=channel_fd), page)
    sys.modules["_wren"].child = child  # type: ignore[attr-defined]
    with contextlib.suppress(ConnectionError):
        child.serve()
    os._exit(0)
