"""Futures of jobs that another process sent: from S3 alone."""

from __future__ import annotations

import itertools

from wren_worker.client.future import Future
from wren_worker.client.job import Job
from wren_worker.client.session import Session
from wren_worker.client.stored import read_segments, sealed_calls
from wren_worker.client.transport import Ticket, Transport
from wren_worker.errors import JobIncomplete, StoreError, WireError
from wren_worker.protocol.jobs import decode_manifest
from wren_worker.protocol.model import JobManifest, manifest_key

__all__ = ["attach", "reading_session", "reattach"]


def reading_session(transport: Transport, *, progress: bool | None = None) -> Session:
    """Return a session for ``reattach``: it reads S3 and has no reply queue. One serves all unpickled futures."""
    return Session(transport, progress=progress, reads_only=True)


def attach(
    transport: Transport,
    job_id: str,
    *,
    partial: bool = False,
    progress: bool | None = None,
    session: Session | None = None,
) -> list[Future[object]]:
    """Return the futures of a job's calls, in order.

    Args:
        transport: The fleet.
        job_id: The job.
        partial: Whether to accept a job that is not stored in full.
        progress: Whether to show progress; None: where somebody looks.
        session: Collects the outcomes; default: one of its own.

    Raises:
        StoreError: There is no such job in the fleet's bucket.
        JobIncomplete: The job's client ended before all its calls were stored, or is storing them now;
            ``n_calls`` says how many there are, and ``partial=True`` returns their futures.
    """
    session = session or reading_session(transport, progress=progress)
    store = transport.store
    key = manifest_key(job_id)
    data = store.get(key)
    if data is None:
        raise StoreError(
            f"There is no job {job_id} in {transport.names.bucket}: another fleet, region or account, "
            "a job that is long gone, or a client that ended as it began to send.",
            job_id=job_id,
        )
    manifest = decode_manifest(key, data)[0]
    _refuse_other(manifest.job_id, job_id)
    n_expected = manifest.n_calls if manifest.n_calls is not None else sealed_calls(store, job_id)
    cuts = [cut for segment in read_segments(store, job_id, data) for cut in segment.cuts]
    del data
    cuts.sort(key=lambda cut: cut.first_call)
    if any(later.first_call < cut.first_call + cut.n_calls for cut, later in itertools.pairwise(cuts)):
        raise WireError(f"What is stored of job {job_id} contradicts itself: its chunks overlap.", job_id=job_id)
    n_calls = sum(cut.n_calls for cut in cuts)
    if n_calls != n_expected and not partial:
        raise JobIncomplete(
            f"Job {job_id} is not stored in full: its client ended while it was sending, or still sends. {n_calls} "
            "calls are there; attach(job_id, partial=True) returns their futures.",
            job_id=job_id,
            n_calls=n_calls,
        )
    job = _job(session, job_id, manifest)
    for cut in cuts:
        job.add_chunk(int(cut.chunk_id), cut.first_call, cut.n_calls)
    job.mark_sent([int(cut.chunk_id) for cut in cuts], manifest.host_submit_timestamp)
    futures = [job.new_future(index) for cut in cuts for index in range(cut.first_call, cut.first_call + cut.n_calls)]
    job.close()
    session.share(job)
    return futures


def _refuse_other(found: str, job_id: str) -> None:
    if found != job_id:
        raise WireError(f"What lies under the manifest's key of job {job_id} is of job {found}.", job_id=job_id)


def reattach(session: Session, ticket: Ticket) -> Future[object]:
    """Return the future of a ticket: what an unpickled future becomes. Asks S3 for nothing but the outcome."""
    job = _job(session, ticket.job_id, None)
    if ticket.record is None:
        return session.share(job).want(ticket)
    future = job.want(ticket)
    job.deliver([(ticket.call_index, ticket.record)])
    return future


def _job(session: Session, job_id: str, manifest: JobManifest | None) -> Job:
    return Job(
        job_id,
        name=manifest.name if manifest else "",
        source=session,
        host_submit_timestamp=(manifest.host_submit_timestamp if manifest else session.transport.clock.timestamp()),
    )
