"""The words of the system as frozen data. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NewType

__all__ = [
    "MAX_CALLS_PER_CHUNK",
    "MAX_CALLS_PER_JOB",
    "ArgsLocation",
    "Chunk",
    "ChunkId",
    "Cut",
    "InstanceId",
    "JobId",
    "JobManifest",
    "Limits",
    "OutcomeStatus",
    "ResultObject",
    "Seal",
    "Segment",
    "args_key",
    "call_key",
    "cancel_key",
    "is_args_key",
    "job_prefix",
    "manifest_key",
    "ranges",
    "result_key",
    "result_prefix",
    "sealed_key",
    "state_key",
]

JobId = NewType("JobId", str)
ChunkId = NewType("ChunkId", str)
InstanceId = NewType("InstanceId", str)

MAX_CALLS_PER_JOB = 2**32 - 1
MAX_CALLS_PER_CHUNK = 100_000


class OutcomeStatus(IntEnum):
    """How a call ended; the numbers are those of ``records``."""

    SUCCESS = 0
    FAILURE = 1
    ERROR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a call may use. Times in seconds.

    Before its n-th retry a call waits for a random time up to ``retry_delay`` × 2^(n−1), ``retry_max_delay`` at most.
    """

    timeout: float = 3600.0
    retries: int = 0
    retry_delay: float = 1.0
    retry_max_delay: float = 60.0
    max_attempts: int = 3
    max_deliveries: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgsLocation:
    """Where a chunk's arguments lie: a byte range of an S3 object, checked by sha256 (hex)."""

    key: str
    offset: int
    length: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What one SQS message carries: calls ``first_call`` .. ``first_call + n_calls - 1`` of a job.

    ``audience`` is ``region/account/queue name``; instants are unix seconds. ``job_key`` is reserved for the key
    that authenticates results. ``resent`` counts how often the client sent this chunk again.
    """

    job_id: JobId
    chunk_id: ChunkId
    first_call: int
    n_calls: int
    python: str
    manifest_key: str
    manifest_sha256: str
    args: ArgsLocation
    reply_queue: str
    audience: str
    host_send_timestamp: float
    expiry_timestamp: float
    limits: Limits = field(default_factory=Limits)
    runtime: str = ""
    job_key: str = ""
    resent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One chunk within a segment; ``offset`` counts from the start of the object."""

    chunk_id: ChunkId
    first_call: int
    n_calls: int
    offset: int
    length: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """An S3 object (or the manifest's own tail) that holds the arguments of consecutive chunks."""

    key: str
    cuts: tuple[Cut, ...]

    @property
    def n_calls(self) -> int:
        """Return how many calls the segment's chunks hold."""
        return sum(cut.n_calls for cut in self.cuts)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobManifest:
    """What a job is: its function and how its calls are run.

    ``n_calls`` is known when the manifest is also the job's seal, else None. ``modules_sha256`` names the bytes of
    the local modules that travel along ("" for none). ``env`` is set around each call, ``meta`` is the user's own.
    ``retry_on`` are the classes ("module.QualifiedName") whose instances are retried; empty for all.
    """

    job_id: JobId
    name: str
    python: str
    host_submit_timestamp: float
    limits: Limits
    n_calls: int | None = None
    env: dict[str, str] = field(default_factory=dict)
    meta: dict[str, object] = field(default_factory=dict)
    modules_sha256: str = ""
    audience: str = ""
    reply_queue: str = ""
    retry_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """All calls of the job are in S3: so many calls, chunks and segments (the manifest's tail not counted)."""

    n_calls: int
    n_chunks: int
    n_segments: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultObject:
    """The head of a result object; the outcome records follow it in the bytes.

    ``left_out`` holds ranges ``(first, end)`` of calls that have keys of their own. ``call_index`` is set when the
    object is such an own key.
    """

    job_id: JobId
    chunk_id: ChunkId
    first_call: int
    n_calls: int
    left_out: tuple[tuple[int, int], ...] = ()
    call_index: int | None = None
    instance_id: str = ""
    delivery: int = 1
    writer: str = "daemon"
    remote_write_timestamp: float = 0.0


def ranges(indexes: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Return sorted ``(first, end)`` ranges that cover exactly ``indexes``."""
    found: list[list[int]] = []
    for index in sorted(indexes):
        if found and found[-1][1] == index:
            found[-1][1] = index + 1
        else:
            found.append([index, index + 1])
    return tuple((first, end) for first, end in found)


def job_prefix(job_id: str) -> str:
    """Return the prefix of what a client stores for a job."""
    return f"jobs/{job_id}/"


def manifest_key(job_id: str) -> str:
    """Return the key of a job's manifest."""
    return f"jobs/{job_id}/manifest"


def sealed_key(job_id: str) -> str:
    """Return the key that says all calls of the job are in S3."""
    return f"jobs/{job_id}/sealed"


def cancel_key(job_id: str) -> str:
    """Return the key of a job's doorbell: whoever records cancellations of running calls writes it anew."""
    return f"jobs/{job_id}/cancelled"


def args_key(job_id: str, number: int) -> str:
    """Return the key of an arguments segment, numbered from 1 (the manifest's tail is 0)."""
    return f"jobs/{job_id}/args-{number:06d}"


def is_args_key(job_id: str, key: str) -> bool:
    """Return whether arguments of the job may lie under the key: in its manifest or in a segment."""
    number = key.removeprefix(f"jobs/{job_id}/args-")
    return key == manifest_key(job_id) or (
        len(number) <= 10 and number.isascii() and number.isdecimal() and key == args_key(job_id, int(number))
    )


def result_prefix(job_id: str) -> str:
    """Return the prefix of a job's result objects."""
    return f"results/{job_id}/"


def result_key(job_id: str, chunk_id: str) -> str:
    """Return a chunk's result key."""
    return f"results/{job_id}/{chunk_id}"


def call_key(job_id: str, chunk_id: str, call_index: int) -> str:
    """Return the own key of a call that its chunk's result object leaves out."""
    return f"results/{job_id}/{chunk_id}/{call_index}"


def state_key(instance_id: str) -> str:
    """Return the key of an instance's state object."""
    return f"state/{instance_id}"
