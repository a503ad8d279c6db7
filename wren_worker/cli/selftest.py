"""``wren-standalone selftest``: does it work here, and does it hold when things break."""

from __future__ import annotations

import sys

import click

from wren_worker.chaos.report import Report
from wren_worker.chaos.run import selftest as run_selftest
from wren_worker.cli.main import Context, pass_context

__all__ = ["selftest"]

_SHOWN = 20


@click.command()
@click.option("--chaos", is_flag=True, help="Break things all the while: processes, instances, requests, answers.")
@click.option(
    "--seconds", type=click.FloatRange(min=5), default=60.0, show_default=True, help="How long, with --chaos."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="What breaks when, with --chaos."
)
@pass_context
def selftest(context: Context, *, chaos: bool, seconds: float, seed: int) -> None:
    """Check on a sandbox of its own that everything works here.

    Without options: a sandbox, an instance, a job, and the instance's end when nothing is left to do; 20 seconds.
    With --chaos: jobs of every kind while daemons, slots and instances are killed, hung and cut off, answers are lost,
    and messages come twice; then whether every call had exactly one outcome, and nothing was left running.
    """
    report = run_selftest(seconds=seconds, seed=seed, chaos=chaos, tell=lambda line: click.echo(f"  {line}", err=True))
    context.output.data(report.as_json())
    if not context.output.as_json:
        _show(report, chaos=chaos)
    if not report.holds:
        sys.exit(1)


def _show(report: Report, *, chaos: bool) -> None:
    if chaos:
        click.secho(f"\n{report.n_injected} faults were injected", bold=True)
        for name, count in report.injected.items():
            click.echo(f"  {count:5}  {name}")
    click.secho(f"\n{report.n_jobs} jobs, {report.n_calls:,} calls, {report.n_instances} instances, "
                f"{report.n_requests:,} requests", bold=True)  # fmt: skip
    lines = {
        "every call has an outcome": report.lost,
        "every call came back to who waited for it": report.hung,
        "no call has two": report.duplicated,
        "every outcome is right, and the same for a second reader": report.wrong,
        "no process is left": report.orphan_processes,
        "no instance is left": report.orphan_instances,
    }
    for text, count in lines.items():
        click.secho(f"  {'✗' if count else '✓'} {text}" + (f": {count} exceptions" if count else ""),
                    fg="red" if count else None)  # fmt: skip
    kinds = sorted({violation.invariant for violation in report.violations})
    held = "leases are kept, stored before deleted, requests within budget, slots die with their daemon, off in time"
    click.secho(f"  {'✗ broken: ' + ', '.join(kinds) if kinds else '✓ ' + held}", fg="red" if kinds else None)
    for violation in report.violations[:_SHOWN]:
        click.echo(f"      {violation}")
    verdict = f"seed {report.seed}: " if chaos else ""
    click.secho(f"\n{verdict}{'everything holds' if report.holds else 'something does not hold'}", bold=True)
