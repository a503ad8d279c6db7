"""What is said when somebody presses Ctrl-C: what goes on, how to come back to it, how to end it."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from wren_worker.client.job import Job

__all__ = ["given_up", "leaving", "left", "say", "waiting"]

_MOST_JOBS = 3


def say(text: str) -> None:
    """Print a line for people."""
    print(f"wren: {text}", file=sys.stderr, flush=True)


def waiting(jobs: Iterable[Job]) -> None:
    """Say what goes on, to somebody who does not want to wait for it now."""
    pending = sorted({job.job_id for job in jobs if job.futures})
    for job_id in pending[:_MOST_JOBS]:
        say(f"interrupted; the calls of job {job_id} go on: {_ways(job_id)}")
    if len(pending) > _MOST_JOBS:
        say(f"and {len(pending) - _MOST_JOBS} more jobs")


def given_up(job: Job, n_sent: int) -> str:
    """Return what is said of a job that was given up while it was sent."""
    return f"job {job.job_id} was given up while it was sent: {n_sent} of its calls are on their way and run; " + _ways(
        job.job_id, partial=True
    )


def leaving() -> str:
    """Return what is said while an executor that was interrupted sends what it took."""
    return "interrupted; sending what was submitted before leaving. Press Ctrl-C again to leave at once."


def left() -> str:
    """Return what is said when it left before everything was sent."""
    return "left before everything was sent: jobs that were on their way are incomplete (wren.attach says which)."


def _ways(job_id: str, *, partial: bool = False) -> str:
    more = ", partial=True" if partial else ""
    return f"wren.attach({job_id!r}{more}) reads them from anywhere, `wren-standalone cancel {job_id}` ends them."
