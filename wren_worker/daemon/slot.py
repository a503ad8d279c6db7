"""One slot as the daemon sees it: its keeper, the child that runs now, and the calls that child has.

Runs on the loop's thread; nothing here blocks. Bytes of a slot are counted and cut, never unpickled.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wren_worker.daemon.calls import Run
from wren_worker.daemon.events import JobFiles
from wren_worker.daemon.link import Link
from wren_worker.daemon.predecessor import SLOT_MARK, end_slot
from wren_worker.protocol.frames import (
    OUTPUT_HEAD,
    FrameError,
    FrameReader,
    Kind,
    join_sections,
    pack_frame,
)
from wren_worker.protocol.records import SUCCESS, RecordError, iter_records

__all__ = ["Ended", "Finished", "Given", "Printed", "Slot", "SlotEvent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A call that a slot was given: whose it is, and which attempt."""

    receipt_handle: str
    call_index: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Calls ended by themselves.

    ``plain`` are the outcome records by call index of those that just succeeded, ``attempts`` which attempt each was;
    ``others`` are failures, values that lie elsewhere, truncated outputs. ``run_time`` is what all took together, in
    seconds.
    """

    slot: Slot
    receipt_handle: str
    plain: dict[int, bytes]
    attempts: dict[int, int]
    others: Sequence[tuple[Given, bytes]]
    run_time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """Something was written; ``given`` is None when no call ran."""

    slot: Slot
    given: Given | None
    stream: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The child is gone, with everything it had started.

    ``running`` is the call it was in, since ``start`` on the machine's monotonic clock (0 when nobody knows), ``left``
    the calls it never reached; ``status`` is an exit code or, negative, a signal.
    """

    slot: Slot
    running: Given | None
    left: tuple[Given, ...]
    status: int
    peak_rss_bytes: int
    start: float = 0.0


#: A larger outcome is looked at by itself: it may have to become an object of its own.
MAX_PLAIN_BYTES = 64 * 1024
_LONGEST_TIME = 1e9
_DISMISSAL_TIME = 2.0

SlotEvent = Finished | Printed | Ended


class Slot:
    """Numbered place for one child.

    Args:
        number: 0 … S−1.
        folder: The slot's own folder.
        modules: Where jobs' module files go, shared by the slots.
        command: How to start a keeper, without its last two arguments.
        environ: The keeper's environment.
        selector: Of the loop; its data is the callable to call when ready.
    """

    def __init__(
        self,
        *,
        number: int,
        folder: Path,
        modules: Path,
        command: Sequence[str],
        environ: dict[str, str],
        selector: selectors.BaseSelector,
    ) -> None:
        self.number = number
        self.folder = folder
        self._modules = modules
        self._command = command
        self._environ = environ | {SLOT_MARK: str(number)}
        self._selector = selector
        self._keeper: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._control_reader = FrameReader()
        self._link: Link | None = None
        self._generation = 0
        #: Calls the child has, in the order in which it runs them, and the attempt each is; all of one delivery.
        self._given: dict[int, int] = {}
        self.receipt_handle = ""
        #: Told what the child asks for, as ``(slot, generation, question)``; ``answer`` answers it.
        self.on_need: Callable[[Slot, int, bytes], None] = lambda *_: None
        self.killing: str = ""  # why the child is being killed, "" when it is not

    # --- keeper -------------------------------------------------------------------------------------------------------

    @property
    def keeper_pid(self) -> int:
        """Return the keeper's pid, 0 when it has none."""
        return self._keeper.pid if self._keeper else 0

    def start_keeper(self) -> None:
        """Start the keeper; only from the main thread, since its life hangs on the thread that started it."""
        ours, theirs = socket.socketpair()
        self._control_reader = FrameReader()
        for name in ("cwd", "outbox"):  # now, while the disk has room for them
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        command = [*self._command, str(theirs.fileno()), str(os.getpid())]
        self._keeper = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env=self._environ, cwd=self.folder, start_new_session=True
        )
        theirs.close()
        ours.setblocking(False)
        self._control = ours
        self._selector.register(ours, selectors.EVENT_READ, self._read_control)

    def dismiss(self) -> None:
        """Have the keeper end everything of the slot, and itself."""
        self._drop_child()
        if self._control is not None:
            self._selector.unregister(self._control)
            self._control.close()
            self._control = None

    def stop(self) -> None:
        """End keeper and child and what they started, and wait for it."""
        self.dismiss()
        if self._keeper is not None:
            try:
                self._keeper.wait(_DISMISSAL_TIME)
            except subprocess.TimeoutExpired:
                self._drop_keeper()
                end_slot(self._environ)
            self._keeper = None

    def _drop_keeper(self) -> None:
        if self._control is not None:
            self._selector.unregister(self._control)
            self._control.close()
            self._control = None
        if self._keeper is not None:
            self._keeper.kill()
            self._keeper.wait()
            self._keeper = None

    def _read_control(self, _mask: int) -> Iterator[SlotEvent]:
        assert self._control is not None  # noqa: S101 - registered only while there is one
        try:
            data = self._control.recv(65536)
        except ConnectionError:
            data = b""
        except BlockingIOError:
            return
        if not data:
            # the keeper was killed, and by PDEATHSIG its child with it, but not what that had started
            self._drop_keeper()
            end_slot(self._environ)
            yield from self._ended(-signal.SIGKILL, 0)
            return
        try:
            ended = [
                (facts["generation"], int(facts["status"]), int(facts["peak_rss_bytes"]))
                for kind, body in self._control_reader.feed(data)
                if isinstance(facts := json.loads(body), dict) and kind == Kind.EXITED
            ]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            self.kill_keeper()  # something writes to its socket that is not it; the end of file tells the rest
            return
        for generation, status, peak_rss_bytes in ended:
            if self._link is not None and generation == self._link.generation:
                yield from self._drain()
                yield from self._ended(status, peak_rss_bytes)

    # --- child --------------------------------------------------------------------------------------------------------

    @property
    def job(self) -> tuple[str, str] | None:
        """Return the identity of the job the child serves, None when it is fresh or there is no child."""
        return self._link.job if self._link else None

    @property
    def free(self) -> bool:
        """Return whether the slot can be given calls."""
        return not self._given and not self.killing

    @property
    def n_given(self) -> int:
        """Return how many calls the child has and has not finished."""
        return len(self._given)

    def give(self, job: JobFiles, run: Run, frame: tuple[Kind, bytes], receipt_handle: str) -> None:
        """Have the child run calls of ``job``; a child of another job makes room for a fresh one."""
        if self._link is not None and (self._link.hung_up or self._link.job not in (None, job.identity)):
            self._drop_child()
        link = self._link or self._spawn()
        if link.job is None:
            link.job = job.identity
            header: dict[str, object] = {
                "job_id": job.job_id,
                "env": dict(job.env),
                "retry_on": list(job.retry_on),
                "slot": self.number,
                "folder": str(self.folder),
                "modules_folder": str(self._modules / job.modules_sha256),
            }
            link.send(Kind.JOB, join_sections(header, [job.function, job.modules]))
        self.receipt_handle = receipt_handle
        self._given = dict.fromkeys(run.calls, 1) | dict(run.attempts)
        link.send(*frame)

    def _named(self, call_index: int) -> Given:
        return Given(receipt_handle=self.receipt_handle, call_index=call_index, attempt=self._given[call_index])

    def running(self) -> tuple[Given, float] | None:
        """Return the call that runs and since when, on the machine's monotonic clock."""
        found = self._link.page.running() if self._link else None
        if found is None or found[0] not in self._given:
            return None
        return self._named(found[0]), found[1]

    def kill(self, number: int, why: str) -> None:
        """Signal the child's process group; an Ended event follows."""
        self.killing = why
        self._signal(number)

    @property
    def hung_up(self) -> bool:
        """Return whether a child with calls has closed its channel: it is dead, or has another socket in its place."""
        return self._link is not None and self._link.hung_up and bool(self._given)

    def end_child(self) -> None:
        """Kill a child that hung up; whose fault that is, is for the Ended event that follows."""
        self._signal(signal.SIGKILL)

    def kill_keeper(self) -> None:
        """End a keeper that does not obey any more, and by that its child; an Ended event follows."""
        if self._keeper is not None:
            self._keeper.kill()

    def _signal(self, number: int) -> None:
        if self._control is None:
            return
        try:
            self._control.send(pack_frame(Kind.KILL, json.dumps({"signal": int(number)}).encode()))
        except OSError:
            pass  # the keeper is gone, which _read_control will see

    def let_go(self) -> None:
        """End a child that has nothing to do, which clears away the files that its job left where it stood."""
        if self.free:
            self._drop_child()

    def answer(self, generation: int, body: bytes) -> None:
        """Answer a question of the child, if it is still the one that asked."""
        if self._link is not None and self._link.generation == generation:
            self._link.send(Kind.NEED_ANSWER, body)

    def _spawn(self) -> Link:
        if self._keeper is None:
            self.start_keeper()
        assert self._control is not None  # noqa: S101 - start_keeper made it
        self._generation += 1
        link = Link(
            generation=self._generation,
            folder=self.folder,
            selector=self._selector,
            on_channel=self._channel_ready,
            on_pipe=self._read_pipe,
        )
        order = pack_frame(Kind.SPAWN, json.dumps({"generation": self._generation}).encode())
        socket.send_fds(self._control, [order], link.childs_descriptors)
        link.handed_over()
        self._link = link
        return link

    def _drop_child(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _ended(self, status: int, peak_rss_bytes: int) -> Iterator[SlotEvent]:
        found = self.running()
        running = found[0] if found else None
        left = tuple(self._named(index) for index in self._given if running is None or index != running.call_index)
        self._drop_child()
        self._given = {}
        start = found[1] if found else 0.0
        yield Ended(slot=self, running=running, left=left, status=status, peak_rss_bytes=peak_rss_bytes, start=start)
        self.killing = ""

    # --- what the child says ------------------------------------------------------------------------------------------

    def _channel_ready(self, mask: int) -> Iterator[SlotEvent]:
        link = self._link
        if link is None:
            return
        if mask & selectors.EVENT_WRITE:
            link.flush()
        if mask & selectors.EVENT_READ:
            yield from self._told(link.receive())

    def _told(self, frames: Iterator[tuple[int, bytes]]) -> Iterator[SlotEvent]:
        try:
            for kind, body in frames:
                yield from self._frame(kind, body)
        except (FrameError, RecordError, struct.error) as error:
            self.kill(signal.SIGKILL, f"it wrote what is no frame: {error}")

    def _frame(self, kind: int, body: bytes) -> Iterator[SlotEvent]:
        if kind == Kind.OUTCOMES:
            yield self._finished(body)
        elif kind == Kind.OUTPUT:
            index, _, stream = OUTPUT_HEAD.unpack_from(body)
            given = self._named(index) if index in self._given else None
            yield Printed(slot=self, given=given, stream=stream, data=body[OUTPUT_HEAD.size :])
        elif kind == Kind.NEED and self._link is not None:
            self.on_need(self, self._link.generation, body)

    def _finished(self, body: bytes) -> Finished:
        plain: dict[int, bytes] = {}
        others: list[tuple[Given, bytes]] = []
        run_time = 0.0
        for start, end, head in iter_records(body):
            index = head[0]
            if index not in self._given or index in plain:
                continue
            run_time += head[6] if 0.0 <= head[6] < _LONGEST_TIME else 0.0  # it may be no number at all
            if head[1] == SUCCESS and not head[2] and end - start <= MAX_PLAIN_BYTES:
                plain[index] = body[start:end]
            else:
                others.append((self._named(index), body[start:end]))
                del self._given[index]
        attempts = {index: self._given.pop(index) for index in plain}
        return Finished(
            slot=self,
            receipt_handle=self.receipt_handle,
            plain=plain,
            attempts=attempts,
            others=others,
            run_time=run_time,
        )

    def _read_pipe(self, descriptor: int) -> Iterator[SlotEvent]:
        if self._link is None:
            return
        # before the read: the child does not leave its call before the pipe is empty
        found = self.running()
        read = self._link.read_pipe(descriptor)
        if read is not None:
            yield Printed(slot=self, given=found[0] if found else None, stream=read[0], data=read[1])

    def _drain(self) -> Iterator[SlotEvent]:
        # the child is dead: what it wrote before is all there, and worth as much as from a living one
        link = self._link
        if link is None:
            return
        for descriptor in link.pipes:
            yield from self._read_pipe(descriptor)
        yield from self._told(link.receive_all())
