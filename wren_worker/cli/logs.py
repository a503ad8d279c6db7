"""``logs``: what calls print and what daemons say."""

from __future__ import annotations

import click

from wren_worker.cli.main import Context, pass_context
from wren_worker.clock import parse_time
from wren_worker.fleet.logs import LogFilter, fields_of, format_line
from wren_worker.wiring.operator import Operator

__all__ = ["logs"]


@click.command()
@click.argument("job", required=False)
@click.option("--call", "call_index", type=click.IntRange(0), help="Only this call.")
@click.option("--instance", "instance_id", help="Only this instance.")
@click.option("--stream", type=click.Choice(["daemon", "tasks", "boot"]), help="Only these lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines as they come.")
@click.option("--since", default="1h", show_default=True, help="How far back.")
@pass_context
def logs(
    context: Context,
    job: str | None,
    *,
    call_index: int | None,
    instance_id: str | None,
    stream: str | None,
    follow: bool,
    since: str,
) -> None:
    """Show log lines, of one JOB or of all."""
    operator = Operator(context.settings)
    wanted = LogFilter(
        fleet=operator.names.fleet, job_id=job, call_index=call_index, instance_id=instance_id, stream=stream
    )
    start = operator.clock.timestamp() - parse_time(since)
    read = operator.logs.follow if follow else operator.logs.events
    for event in read(streams=wanted.streams, start_timestamp=start, pattern=wanted.pattern):
        if wanted.keeps(event):
            context.output.say(format_line(event))
            context.output.data({"stream": event.stream, "timestamp": event.timestamp, **fields_of(event)})
