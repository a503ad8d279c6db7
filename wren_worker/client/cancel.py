"""Cancelling as a user asks for it: futures of any jobs, or a job by its id."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from wren_worker.client.attach import attach, reading_session
from wren_worker.client.future import Future
from wren_worker.client.job import Job
from wren_worker.client.transport import Transport

__all__ = ["cancel_futures", "cancel_job"]


def cancel_futures(futures: Iterable[Future[Any]]) -> int:
    """Cancel the calls of futures, of any jobs; return how many of them are cancelled now.

    Raises:
        StoreError: Not all of it could be recorded; to cancel again does no harm.
    """
    by_job: dict[Job, list[Future[Any]]] = {}
    for future in futures:
        by_job.setdefault(future._job, []).append(future)
    for job, group in by_job.items():
        calls = {future.call_index for future in group if not future.done()}
        if calls:
            job.source.cancel(job, calls)
    return sum(future.cancelled() for group in by_job.values() for future in group if future.done())


def cancel_job(transport: Transport, job_id: str) -> tuple[int, int]:
    """Cancel what is unresolved of a job that anybody sent; return ``(calls cancelled now, calls it has)``.

    Raises:
        StoreError: There is no such job, or not all of it could be recorded.
    """
    session = reading_session(transport, progress=False)
    futures = attach(transport, job_id, partial=True, session=session)
    job = session.job(job_id)
    if job is None:
        return 0, 0
    session.look(job)
    unresolved = [future for future in futures if not future.done_already]
    session.cancel(job, None)
    return sum(future.cancelled() for future in unresolved), len(futures)
