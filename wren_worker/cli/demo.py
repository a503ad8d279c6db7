"""``wren-standalone demo``: the whole story on this machine, as a user would type it, through the real parts."""

from __future__ import annotations

import collections
import json
import os
import runpy
import time
from collections.abc import Callable
from typing import Any

import click

from wren_worker.chaos.surroundings import clean_environment
from wren_worker.cli import main as cli
from wren_worker.config import shared_file
from wren_worker.errors import FleetError
from wren_worker.sandbox import control

__all__ = ["demo"]

_IDLE_TIMEOUT = 10.0
_GONE_TIMEOUT = 40.0


def _failing(x: int) -> float:
    numbers = [x, x - 1, x - 2]
    print(f"dividing {x} by {numbers[-1]}")
    return x / numbers[-1]


class _Story:
    """What was shown so far, and whether all of it was true."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.untrue: list[str] = []

    def chapter(self, title: str) -> None:
        click.echo()
        click.secho(f"— {title}", bold=True, nl=False)
        click.secho(f"   [{time.monotonic() - self.started:.1f} s]", dim=True)

    def check(self, fact: str, *, holds: bool) -> None:
        click.echo(f"  {'✓' if holds else '✗'} {fact}")
        if not holds:
            self.untrue.append(fact)

    @staticmethod
    def command(*arguments: str) -> None:
        """Run a command of ours as typed, and show it."""
        click.secho(f"$ wren-standalone {' '.join(arguments)}", fg="cyan")
        cli.main(list(arguments), standalone_mode=False)


@click.command()
def demo() -> None:
    """Show the whole story on this machine: sandbox, launch, jobs, logs, idle termination, nothing left running."""
    story = _Story()
    with clean_environment(), control.private() as sandbox:
        os.environ.update(sandbox.info.exports)
        story.chapter("AWS on this machine")
        click.echo(f"  SQS, S3, EC2, IAM and CloudWatch Logs answer at {sandbox.info.endpoint}")
        story.chapter("A fleet of two instances")
        story.command("setup")
        story.command(
            "launch", "--count", "2", "--type", "c5.xlarge", "--idle-timeout", f"{_IDLE_TIMEOUT:g}s", "--wait"
        )
        job_id = _job(story)
        _failure(story)
        _logs(story, job_id)
        _farewell(story, sandbox.info)
        counts = control.request_counts(sandbox.info)
    _summary(story, counts, sandbox.info)
    if story.untrue:
        raise FleetError("The demo did not show what it should: " + "; ".join(story.untrue))


def _executor() -> Any:
    import wren_worker as wren  # noqa: PLC0415 - the face a user would import

    return wren.executor(backend="sqs")


def _job(story: _Story) -> str:
    import wren_worker as wren  # noqa: PLC0415

    script = shared_file("examples/intricate.py")
    story.chapter("A job on real files: every module of the standard library is parsed and measured")
    click.secho("  futures = executor.map(measure, standard_library())        # examples/intricate.py", fg="cyan")
    # a script's own functions travel by value, as they would from `python examples/intricate.py`
    example = runpy.run_path(str(script), run_name="__main_example__")
    measure: Callable[..., Any] = example["measure"]
    measure.__module__ = "__main__"
    modules = example["standard_library"]()
    began = time.monotonic()
    with _executor() as executor:
        futures = executor.map(measure, modules)
        measures = wren.get_all_results(futures)
    took = time.monotonic() - began
    story.check(
        f"{len(measures)} modules, {sum(m['lines'] for m in measures):,} lines, in {took:.1f} s",
        holds=[m["module"] for m in measures] == [name for name, _ in modules],
    )
    click.echo("  the ten most intricate:")
    for row in example["most_intricate"](measures):
        sizes = f"{row['lines']:5} lines {row['functions']:4} functions {row['branches']:4} branches"
        click.echo(f"    {row['module']:30} {sizes}, {row['worst_branches']} in {row['worst']}()")
    places = collections.Counter(future.run_status["instance_id"] for future in futures)
    click.echo("  where: " + ", ".join(f"{n} calls on {place}" for place, n in sorted(places.items())))
    story.check("both instances ran calls", holds=len(places) == 2)
    job_id: str = futures[0].job_id
    return job_id


def _failure(story: _Story) -> None:
    story.chapter("A call that fails brings its own exception and the remote traceback")
    click.secho("  executor.call_async(failing, 2).result()", fg="cyan")
    failing: Callable[..., Any] = _failing
    failing.__module__ = "__main__"
    with _executor() as executor:
        future = executor.call_async(failing, 2)
        error = future.exception()
    text = str(error.__cause__) if error is not None else ""
    for line in text.strip().splitlines():
        click.echo(f"    {line}")
    click.echo(f"  and what it had printed: {future.stdout.strip()!r}")
    story.check("ZeroDivisionError, with the line it happened on", holds=isinstance(error, ZeroDivisionError))
    story.check("the remote traceback names the function", holds="in _failing" in text)


def _logs(story: _Story, job_id: str) -> None:
    story.chapter("The CloudWatch lines of one call")
    story.command("logs", job_id, "--call", "7")


def _farewell(story: _Story, info: control.SandboxInfo) -> None:
    story.chapter(f"Nothing to do for {_IDLE_TIMEOUT:g} s: the instances power themselves off")
    story.command("status")
    folders = {machine["instance_id"]: machine["folder"] for machine in control.machines(info)}
    from wren_worker.config import load_settings  # noqa: PLC0415
    from wren_worker.wiring.operator import Operator  # noqa: PLC0415

    operator = Operator(load_settings())
    deadline = time.monotonic() + _GONE_TIMEOUT
    while operator.machines.instances(operator.names.fleet) and time.monotonic() < deadline:
        time.sleep(0.2)
    story.command("ls", "--all")
    gone = operator.machines.instances(operator.names.fleet, alive_only=False)
    story.check(
        "both are terminated, by their own hand",
        holds=len(gone) == 2
        and all(one.state == "terminated" for one in gone)
        and all(one.state_reason_code == "Client.InstanceInitiatedShutdown" for one in gone),
    )
    callers = [_who_powered_off(folder) for folder in folders.values()]
    story.check(
        "who called systemctl poweroff: " + ", ".join(callers),
        holds=bool(callers) and all("wren_worker daemon" in caller for caller in callers),
    )


def _who_powered_off(folder: str) -> str:
    with open(os.path.join(folder, "log", "systemctl.log"), encoding="utf-8") as log:
        for line in log:
            entry = json.loads(line)
            if entry["arguments"][:1] == ["poweroff"]:
                return " ".join(str(entry["caller"]).split()[-3:])
    return "nobody"


def _summary(story: _Story, counts: dict[str, int], info: control.SandboxInfo) -> None:
    from wren_worker.sandbox import processes  # noqa: PLC0415

    story.chapter("What it took")
    top = collections.Counter(counts).most_common(8)
    click.echo(f"  {sum(counts.values())} AWS requests: " + ", ".join(f"{n} {name}" for name, n in top) + ", …")
    left = processes.marked(f"IN_WREN_SANDBOX={info.directory}")
    story.check("nothing is left running", holds=not left)
    click.echo(f"  {time.monotonic() - story.started:.1f} seconds")
