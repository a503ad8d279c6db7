"""``cancel``: ends a job's calls, wherever they are."""

from __future__ import annotations

import click

from wren_worker.cli.main import Context, pass_context

__all__ = ["cancel"]


@click.command()
@click.argument("job")
@pass_context
def cancel(context: Context, job: str) -> None:
    """Cancel the calls of JOB that have no outcome yet.

    Calls that wait never start, those that run are ended within seconds; it needs no instance. Whoever reads the job
    gets CallCancelled for them.
    """
    from wren_worker.wiring.client import cancel as cancel_now  # noqa: PLC0415 - loads the client

    n_cancelled, n_calls = cancel_now(job, settings=context.settings)
    context.output.say(
        f"{n_cancelled} of {n_calls} calls of job {job} are cancelled"
        + ("" if n_cancelled == n_calls else f"; {n_calls - n_cancelled} had an outcome already")
    )
    context.output.data({"job_id": job, "n_calls": n_calls, "n_cancelled": n_cancelled})
