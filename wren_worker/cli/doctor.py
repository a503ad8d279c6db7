"""``doctor``: why nothing runs, and how to mend it."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from wren_worker.cli.main import Context, pass_context
from wren_worker.cli.reap import operator_of
from wren_worker.errors import ConfigError
from wren_worker.fleet.doctor import Finding, Verdict

__all__ = ["doctor"]

_COLOURS = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.PROBLEM: "red"}


@click.command()
@pass_context
def doctor(context: Context) -> None:
    """Say why nothing runs, and how to mend it. Changes nothing; exit code 1 when there is a problem."""
    found: list[Finding] = []
    try:
        for finding in operator_of(context).doctor().examine():
            found.append(finding)
            _show(context, finding)
    except ConfigError as error:  # no region, no credentials: nothing else can be looked at
        found.append(Finding(check="credentials", verdict=Verdict.PROBLEM, text=str(error)))
        _show(context, found[-1])
    context.output.data([{**asdict(finding), "verdict": finding.verdict.value} for finding in found])
    n_problems = sum(finding.verdict is Verdict.PROBLEM for finding in found)
    context.output.say(f"{n_problems} problem{'' if n_problems == 1 else 's'}")
    if n_problems:
        sys.exit(1)


def _show(context: Context, finding: Finding) -> None:
    mark = click.style(f"{finding.verdict.value:8}", fg=_COLOURS[finding.verdict])
    mend = f" → {finding.mend}" if finding.mend else ""
    context.output.say(f"{mark} {finding.check:13} {finding.text}{mend}")
    if finding.detail:
        context.output.say(finding.detail)
