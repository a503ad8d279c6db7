"""Jobs on a fleet: the backend behind every executor but the inline one."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterable

from wren_worker.client.cancel import cancel_futures, cancel_job
from wren_worker.client.future import Future
from wren_worker.client.garbage import collector_at_rest
from wren_worker.client.interrupts import given_up, leaving, left, say
from wren_worker.client.job import Job
from wren_worker.client.refs import Putter
from wren_worker.client.session import Session
from wren_worker.client.shipping import Shipping
from wren_worker.client.spec import JobSpec, OpenJob
from wren_worker.client.transport import Transport
from wren_worker.client.verdicts import Verdicts
from wren_worker.client.writer import JobWriter
from wren_worker.errors import WrenError
from wren_worker.protocol.envelope import sha256_hex
from wren_worker.protocol.model import JobId, JobManifest
from wren_worker.protocol.modules import LocalModules
from wren_worker.protocol.refs import Ref
from wren_worker.protocol.serialize import PickledFunction, dump_call, dump_function
from wren_worker.protocol.wire import new_job_id

__all__ = ["Remote"]

#: A burst of submits ends when so many seconds pass without one.
_BURST_PAUSE_TIME = 5.0
#: Calls that a map hands over together: few at first, so that they leave while the rest is pickled.
_FIRST_CALLS, _CALLS_TOGETHER, _BYTES_TOGETHER = 16, 512, 1024 * 1024


class Remote:
    """Sends jobs to a fleet. Safe from any thread.

    Args:
        transport: The fleet.
        runtime: The runtime that calls run in, "" for the instances' own.
        progress: Whether to show progress; None: where somebody looks.
        entropy: Gives random bytes, for job ids.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        runtime: str = "",
        progress: bool | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._transport = transport
        self._runtime = runtime
        self._entropy = entropy
        self._session = Session(transport, progress=progress)
        self._modules = LocalModules()
        self._verdicts = Verdicts(transport.store, transport.clock)
        self._putter = Putter(
            transport.store, bucket=transport.names.bucket, modules=self._modules, clock=transport.clock
        )
        self._lock = threading.Lock()
        self._bursts: dict[bytes, _Sending] = {}
        self._closed = False
        # the interpreter has waited for the senders by then; what is left are seals and the reply queue
        atexit.register(self._close_at_exit)

    @property
    def describe(self) -> str:
        """Return one line: backend, fleet, account, region."""
        return self._transport.describe

    @property
    def longest_call_time(self) -> float:
        """Return the largest timeout the fleet can honour, in seconds."""
        return self._transport.longest_call_time

    def open(self, spec: JobSpec) -> OpenJob:
        """Start a job."""
        self._check_open()
        return self._open(spec, dump_function(spec.func), burst=False)

    def submit(self, spec: JobSpec, args: tuple[object, ...], kwargs: dict[str, object]) -> Future[object]:
        """Send one call; calls of one function that follow closely share a job."""
        self._check_open()
        function = dump_function(spec.func)
        blob = dump_call(args, kwargs)
        modules = self._modules.mentioned(blob)
        with self._lock:
            self._check_open()
            self._end_stale_bursts()
            sending = self._bursts.get(function.data)
            if sending is None or not sending.writer.covers(modules):
                if sending is not None:
                    sending.finish()
                sending = self._bursts[function.data] = self._open(spec, function, burst=True)
            try:
                return sending.writer.add([blob], modules)[0]
            except BaseException:
                self._bursts.pop(function.data).abort()
                raise

    def put(self, obj: object) -> Ref:
        """Store an object in the fleet's bucket, by its content; return what stands for it."""
        self._check_open()
        return self._putter.put(obj)

    def cancel(self, job_id: str) -> int:
        """Cancel what is unresolved of a job, ours or anybody's; return how many calls that were."""
        self._session.check_process()
        job = self._session.job(job_id)
        if job is None:
            return cancel_job(self._transport, job_id)[0]
        with job.condition:
            futures = list(job.futures.values())
        return cancel_futures(futures)

    def close(self) -> None:
        """Wait until everything is sent, then end threads and remove the reply queue; jobs go on."""
        self._session.check_process()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            bursts, self._bursts = self._bursts, {}
        atexit.unregister(self._close_at_exit)
        for sending in bursts.values():
            sending.finish()
        try:
            self._session.close()
        except KeyboardInterrupt:
            self._session.sender.abandon()
            say(left())
            raise

    def unresolved(self) -> list[Future[object]]:
        """Return the futures of its calls that have no outcome yet."""
        found: list[Future[object]] = []
        for job in self._session.pending():
            with job.condition:
                found += job.futures.values()
        return found

    def interrupted(self) -> None:
        """Say what closing now waits for, after a Ctrl-C."""
        if self._session.sender.busy:
            say(leaving())

    def _close_at_exit(self) -> None:
        if self._session.sender.busy:
            # the interpreter has waited for the sender; that it is busy means that somebody ended the wait
            self._session.sender.abandon()
            say(left())
            return
        try:
            self.close()
        except WrenError:
            pass  # a forked child has nothing of its own to close

    def _check_open(self) -> None:
        self._session.check_process()
        if self._closed:
            raise WrenError("This executor is closed: make a new one to send more calls.")

    def _end_stale_bursts(self) -> None:
        now = self._transport.clock.monotonic()
        for data, sending in list(self._bursts.items()):
            if now - sending.writer.last_call_time > _BURST_PAUSE_TIME:
                self._bursts.pop(data).finish()

    def _open(self, spec: JobSpec, function: PickledFunction, *, burst: bool) -> _Sending:
        now = self._transport.clock.timestamp()
        job = Job(new_job_id(now, self._entropy(12)), name=spec.name, source=self._session, host_submit_timestamp=now)
        # makes the reply queue while arguments are pickled
        self._session.share(job)
        self._session.listen()
        needed = self._modules.mentioned(function.data) | function.imports
        writer = JobWriter(
            job,
            sender=self._session.sender,
            clock=self._transport.clock,
            prepare=lambda names: self._shipping(job, spec, function, needed | names),
            n_expected=spec.n_expected,
            chunksize=spec.chunksize,
            burst=burst,
            modules=needed,
            verdicts=self._verdicts,
        )
        return _Sending(writer, self._modules, n_expected=spec.n_expected)

    def _shipping(self, job: Job, spec: JobSpec, function: PickledFunction, modules: set[str]) -> Shipping:
        transport = self._transport
        archive = self._modules.archive(sorted(modules), exclude=spec.exclude_modules)
        manifest = JobManifest(
            job_id=JobId(job.job_id),
            name=spec.name,
            python=transport.python,
            host_submit_timestamp=job.host_submit_timestamp,
            limits=spec.limits,
            retry_on=spec.retry.names,
            env=spec.env,
            meta=spec.meta,
            modules_sha256=sha256_hex(archive) if archive else "",
            audience=transport.names.audience(transport.task_queue.name),
        )
        return Shipping(
            transport,
            manifest=manifest,
            function=function.data,
            modules=archive,
            runtime=self._runtime,
            reply_url=self._session.reply_url,
        )


class _Sending:
    """One job on its way: pickles calls into its writer."""

    def __init__(self, writer: JobWriter, modules: LocalModules, *, n_expected: int | None) -> None:
        self.writer = writer
        self._modules = modules
        self._n_expected = n_expected

    def calls(self, calls: Iterable[tuple[object, ...]]) -> list[Future[object]]:
        if self._n_expected is None:
            return self._take(calls)  # a generator: code of the user's, which may leave any garbage
        with collector_at_rest():
            return self._take(calls)

    def _take(self, calls: Iterable[tuple[object, ...]]) -> list[Future[object]]:
        futures: list[Future[object]] = []
        blobs: list[bytes] = []
        few = self._n_expected is not None and self._n_expected <= _CALLS_TOGETHER
        n_together, n_bytes = _CALLS_TOGETHER if few else _FIRST_CALLS, 0
        for index, args in enumerate(calls):
            blob = dump_call(args, {}, call_index=index)
            blobs.append(blob)
            n_bytes += len(blob)
            if len(blobs) >= n_together or n_bytes > _BYTES_TOGETHER:
                futures += self._add(blobs)
                blobs, n_together, n_bytes = [], _CALLS_TOGETHER, 0
        return futures + self._add(blobs) if blobs else futures

    def _add(self, blobs: list[bytes]) -> list[Future[object]]:
        modules: set[str] = set()
        for blob in blobs:
            if b"\x93" in blob:  # LocalModules' own first question, without the call
                modules |= self._modules.mentioned(blob)
        return self.writer.add(blobs, modules)

    def finish(self) -> None:
        self.writer.finish()

    def abort(self) -> None:
        n_sent = self.writer.abort()
        if n_sent:
            say(given_up(self.writer.job, n_sent))
