"""Gives a job's futures what an object under one of its result keys says."""

from __future__ import annotations

from wren_worker.client.job import Job
from wren_worker.client.resolve import parse_result_key
from wren_worker.errors import ResultTampered, WireError
from wren_worker.protocol.model import result_key
from wren_worker.protocol.wire import decode_result

__all__ = ["settle", "settle_if_ours"]


def settle_if_ours(job: Job, key: str, data: bytes, *, timestamp: float) -> int | None:
    """Apply an object and return how many calls that resolved; None when its bytes do not belong under the key."""
    try:
        result, outcomes = decode_result(data)
        name = result_key(result.job_id, result.chunk_id)
        if key != (name if result.call_index is None else f"{name}/{result.call_index}"):
            return None
        return job.settle(result, outcomes, timestamp=timestamp)
    except (WireError, ValueError):
        return None


def settle(job: Job, key: str, data: bytes, *, timestamp: float) -> int:
    """Apply what S3 holds under a key. What is no result there fails its calls: it will not get better."""
    settled = settle_if_ours(job, key, data, timestamp=timestamp)
    if settled is not None:
        return settled
    place = parse_result_key(key)
    assert place is not None  # noqa: S101 - callers pass result keys
    _, number, call_index = place
    failure = ResultTampered(
        f"What lies under {key} is not a result of job {job.job_id}: it was changed, or another version wrote it. "
        "Run the call again.",
        job_id=job.job_id,
        key=key,
    )
    return job.fail_chunks(failure, [number], call_index=call_index)
