"""What the threads of one client share: its jobs, its reply queue, its end."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Collection

from wren_worker.client.cancelling import cancel_calls
from wren_worker.client.collector import Collector
from wren_worker.client.hints import Hints
from wren_worker.client.job import Job, Restored
from wren_worker.client.looking import Looker
from wren_worker.client.recovery import Recovery
from wren_worker.client.resend import Resender
from wren_worker.client.scaling import Scaling
from wren_worker.client.sender import Sender
from wren_worker.client.transport import Ticket, Transport
from wren_worker.errors import QueueError, StoreError, WrenError
from wren_worker.protocol.ports import ReplyQueue
from wren_worker.protocol.serialize import Loaded

__all__ = ["Session"]


class Session:
    """Collects the outcomes of jobs for as long as somebody waits for them. Safe from any thread.

    One thread long-polls the reply queue (``Collector``), a few store and send (``Sender``). If one of them ends by an
    exception, every pending future gets a ``WrenError`` with that cause. In a forked child a session refuses: it has
    the parent's futures, but none of its threads.

    Args:
        transport: The fleet.
        progress: Whether to show progress; False keeps the hints silent too.
        reads_only: Whether to collect from S3 alone, without a reply queue.
    """

    def __init__(self, transport: Transport, *, progress: bool | None = None, reads_only: bool = False) -> None:
        self.transport = transport
        self.sender = Sender(on_death=self._on_death)
        self._progress = progress
        self._process_id = os.getpid()
        self._condition = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._collector: Collector | None = None
        self._reply_queue: ReplyQueue | None = None
        self._reads_only = reads_only
        self._reply_known = threading.Event()
        self._to_cancel: dict[Job, set[int]] = {}
        elastic = transport.elastic
        self._scaling = None if elastic is None else Scaling(elastic, self, on_death=self._on_death)

    # for jobs (job.Source)

    @property
    def progress(self) -> bool | None:
        """Return whether to show progress: yes, no, or as the place suggests."""
        return self._progress

    def listen(self) -> None:
        """See to it that the collector's thread runs.

        Raises:
            WrenError: This is a forked child.
        """
        self.check_process()
        if self._collector is not None:
            return
        with self._condition:
            if self._collector is not None:
                return
            collector = self._collector = self._new_collector()
        # a daemon: results are not waited for when the interpreter ends
        threading.Thread(target=self._collect, args=[collector], name="wren-collector", daemon=True).start()

    def _new_collector(self) -> Collector:
        transport = self.transport
        hints = Hints(transport.why_nothing_runs, enabled=self._progress is not False)
        resender = Resender(
            store=transport.store,
            task_queue=transport.task_queue,
            audience=transport.names.audience(transport.task_queue.name),
            reply_url=self.reply_url,
            clock=transport.clock,
        )
        recovery = Recovery(
            store=transport.store,
            task_queue=transport.task_queue,
            clock=transport.clock,
            hints=hints,
            resender=resender,
            patience=transport.patience,
        )
        return Collector(
            self,
            store=transport.store,
            clock=transport.clock,
            hints=hints,
            reply_queue=self._open_reply_queue,
            recovery=recovery,
        )

    def look(self, job: Job) -> None:
        """Take what S3 has of a job's outcomes, in the caller's thread.

        Raises:
            StoreError: S3 did not say.
        """
        looker = Looker(self.job, store=self.transport.store, clock=self.transport.clock)
        try:
            looker.look_for(job)
        finally:
            looker.close()

    def expect(self) -> None:
        """Wake the collector: a job has unresolved calls again."""
        with self._condition:
            self._condition.notify_all()

    def fetch(self, key: str, target: memoryview, seen: Callable[[memoryview], object], offset: int) -> bool | None:
        """Fill a buffer with bytes of an object of the bucket; False when it has fewer, None when it is gone."""
        store = self.transport.store
        if store.fill(key, target, offset=offset, seen=seen):
            return True
        return False if store.exists(key) else None

    def restored(self, ticket: Ticket, loaded: Loaded | None) -> Restored:  # noqa: ARG002 - S3 has it for all
        """Return how to make a future again in another process."""
        transport = self.transport
        return transport.restore, (transport.backend, transport.names, ticket)

    def finished(self, job: Job) -> None:
        """Forget a job whose calls are all resolved."""
        with self._condition:
            self._jobs.pop(job.job_id, None)

    def cancel(self, job: Job, calls: Collection[int] | None) -> None:
        """Record that calls of a job, or all, are cancelled; in an event loop's thread soon, else before it returns.

        Raises:
            StoreError: Not all of it could be recorded.
        """
        self.check_process()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            cancel_calls(self.transport, job, calls)
            return
        # a loop that is torn down cancels its futures one by one, and must not wait for S3 at each
        with self._condition:
            is_first = not self._to_cancel
            self._to_cancel.setdefault(job, set()).update(job.futures if calls is None else calls)
        if is_first:
            self.sender.post(self._cancel_gathered)

    def _cancel_gathered(self) -> None:
        with self._condition:
            gathered, self._to_cancel = self._to_cancel, {}
        for job, calls in gathered.items():
            try:
                cancel_calls(self.transport, job, calls)
            except StoreError as error:
                print(f"wren: calls of job {job.job_id} could not be cancelled: {error}", file=sys.stderr, flush=True)

    # for the collector (collector.Jobs)

    def job(self, job_id: str) -> Job | None:
        """Return a job by its id."""
        return self._jobs.get(job_id)

    def pending(self) -> list[Job]:
        """Return the jobs with unresolved calls."""
        with self._condition:
            return [job for job in self._jobs.values() if job.futures]

    def wait_for_pending(self, timeout: float) -> bool:
        """Block until a job has unresolved calls; False when none has in that many seconds."""
        with self._condition:
            return self._condition.wait_for(
                lambda: self._collector is None or any(job.futures for job in self._jobs.values()), timeout
            )

    # for writers and the executor

    def check_process(self) -> None:
        """Refuse in a forked child.

        Raises:
            WrenError: This is a forked child.
        """
        if os.getpid() != self._process_id:
            raise WrenError(
                "This executor, or this future, belongs to the process that was forked: its threads did not come "
                "along. Make a new executor here, or wren.attach(job_id) to read the job's results."
            )

    def share(self, job: Job) -> Job:
        """Take a job on, for when somebody listens; return the one that is known by its id, if there is one."""
        with self._condition:
            known = self._jobs.setdefault(job.job_id, job)
        if self._scaling is not None:
            self._scaling.follow(known)
        return known

    def reply_url(self) -> str:
        """Return the reply queue's address, waiting until it is made; "" when there is none."""
        self._reply_known.wait()
        queue = self._reply_queue
        return queue.url if queue is not None else ""

    def close(self) -> None:
        """Wait until everything posted is sent, then end the threads and remove the reply queue.

        Futures stay good: who asks a pending one starts a collector that reads S3 alone.
        """
        self.check_process()
        self.sender.wait_until_idle()
        with self._condition:
            collector, self._collector = self._collector, None
            queue, self._reply_queue = self._reply_queue, None
            self._reads_only = True
            self._condition.notify_all()
        if collector is not None:
            collector.stop()
        if queue is not None:
            queue.remove()
        if self._scaling is not None:
            self._scaling.close()

    # threads

    def _collect(self, collector: Collector) -> None:
        try:
            collector.run()
        except BaseException as error:  # noqa: BLE001 - whatever it is, futures wait for it
            self._on_death(error)
        finally:
            with self._condition:
                if self._collector is collector:
                    self._collector = None
            self._reply_known.set()

    def _open_reply_queue(self) -> ReplyQueue | None:
        try:
            if not self._reads_only and not self._reply_known.is_set():
                self._reply_queue = self.transport.new_reply_queue()
        except QueueError as error:
            # it only brings hints: without it outcomes come a little later, from S3
            Hints(lambda: "", enabled=self._progress is not False).trouble(error, now=self.transport.clock.monotonic())
        finally:
            self._reply_known.set()
        return self._reply_queue

    def _on_death(self, error: BaseException) -> None:
        thread = threading.current_thread().name
        failure = WrenError(
            f"The client's thread {thread} ended by {type(error).__name__}: {error}. The jobs go on; "
            "wren.attach(job_id) reads their results. This is a defect: please report it."
        )
        failure.__cause__ = error
        for job in list(self._jobs.values()):
            job.fail(failure)
