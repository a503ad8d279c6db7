"""Asks for instances while calls are pending: one thread of a session, when it was given somebody to ask."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from wren_worker.client.future import Future
from wren_worker.client.job import Job
from wren_worker.errors import FleetError
from wren_worker.protocol.ports import Elastic

__all__ = ["Scaling"]

#: The first calls of a job come in a burst; how many they are is known a moment later.
_SETTLE_TIME = 0.3
_IDLE_INTERVAL = 20.0
#: Between two askings after a refusal: a job that comes then is refused soon, too.
_REFUSED_INTERVAL = 2.0


class Jobs(Protocol):
    """The jobs whose calls want instances."""

    def pending(self) -> list[Job]:
        """Return the jobs with unresolved calls."""
        ...


class Scaling:
    """Follows jobs and counts what gets done; ``run`` is one thread's work.

    Args:
        elastic: Is asked.
        jobs: Whose calls want instances.
        on_death: Is told why the thread ended, if it ends by a defect.
    """

    def __init__(self, elastic: Elastic, jobs: Jobs, *, on_death: Callable[[BaseException], None]) -> None:
        self._elastic = elastic
        self._jobs = jobs
        self._on_death = on_death
        self._condition = threading.Condition()
        self._n_finished = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

    def follow(self, job: Job) -> None:
        """Count a job's calls, and see to it that somebody asks for them."""
        with job.condition:
            if self not in job.watchers:
                job.watchers.append(self)
        with self._condition:
            if self._thread is None and not self._stopping:
                # a daemon: results are not waited for when the interpreter ends
                self._thread = threading.Thread(target=self._run, name="wren-scaling", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def resolved(self, futures: list[Future[object]]) -> None:
        """Take note of calls that are done (``job.Watcher``)."""
        with self._condition:
            self._n_finished += len(futures)

    def close(self) -> None:
        """Ask no more, and let what was started go if that was asked for. Returns when it is done."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self._elastic.close()

    def _run(self) -> None:
        try:
            while not self._pause(_SETTLE_TIME):
                if self._pause(self.tick()):
                    return
        except BaseException as error:  # noqa: BLE001 - whatever it is, futures wait for it
            self._on_death(error)

    def _pause(self, duration_time: float) -> bool:
        """Wait, while there are no calls for longer; return whether to stop."""
        with self._condition:
            self._condition.wait_for(lambda: self._stopping, duration_time)
            while not self._stopping and not self._jobs.pending():
                self._condition.wait(_IDLE_INTERVAL)
            return self._stopping

    def tick(self) -> float:
        """Ask once; return how long to wait before the next time."""
        jobs = self._jobs.pending()
        with self._condition:
            n_finished = self._n_finished
        try:
            return self._elastic.ensure(
                n_pending_calls=sum(len(job.futures) for job in jobs), n_finished_calls=n_finished
            )
        except FleetError as error:
            # here alone: what is in the queue stays there, for whoever starts instances
            for job in jobs:
                job.fail(error)
            return _REFUSED_INTERVAL
