"""``launch``, ``ls``, ``status``, ``terminate``: instances."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from wren_worker.cli.main import Context, pass_context
from wren_worker.errors import FleetError
from wren_worker.fleet import launch as fleet_launch
from wren_worker.fleet.prices import price_per_hour
from wren_worker.fleet.roster import Row
from wren_worker.fleet.spec import Launch, parse_time
from wren_worker.wiring.operator import Operator

__all__ = ["launch", "ls", "status", "terminate"]

_WAIT_TIMEOUT = 600.0
F = TypeVar("F", bound=Callable[..., Any])


class _Time(click.ParamType[float]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ARG002
        return value if isinstance(value, float) else parse_time(str(value))


def _advanced(function: F) -> F:
    """Add the options that tests and rehearsals turn."""
    for name, default, text in (
        ("--lease-time", "90s", "How long an instance may be silent before its calls go to another."),
        ("--stale-timeout", "5m", "How old a heartbeat may be before the machine ends itself."),
        ("--boot-timeout", "15m", "How long a boot may take before the machine ends itself."),
        ("--deadman-interval", "30s", "How often the machine looks at its heartbeat."),
    ):
        function = click.option(name, type=_Time(), default=default, show_default=True, help=text)(function)
    return function


@click.command()
@click.option("--count", type=int, default=1, show_default=True, help="How many instances.")
@click.option("--type", "types", multiple=True, default=["c5.xlarge"], show_default=True, help="May be repeated.")
@click.option("--spot/--on-demand", default=False, show_default=True, help="Spot costs less and may be taken away.")
@click.option("--idle-timeout", type=_Time(), default="5m", show_default=True, help="They end themselves after this.")
@click.option("--max-lifetime", type=_Time(), default="8h", show_default=True, help="And after this whatever they do.")
@click.option("--max-price", default="", help="Dollars an hour, for spot.")
@click.option("--slots", default="auto", show_default=True, help="Calls at a time on an instance; auto: one a core.")
@click.option("--image", default="auto", show_default=True, help="An AMI id; auto: yours tagged for your Python.")
@click.option("--subnet", "subnets", multiple=True, help="May be repeated.")
@click.option("--wait", is_flag=True, help="Wait until they take calls.")
@_advanced
@pass_context
def launch(context: Context, /, *, types: Sequence[str], subnets: Sequence[str], wait: bool, **options: Any) -> None:
    """Start instances that take calls, and end themselves when there are none."""
    spec = Launch(types=tuple(types), subnets=tuple(subnets), **options)
    operator = Operator(context.settings)
    _show_price(context, spec)
    report = fleet_launch.launch(
        operator.machines, spec, operator.names, python=operator.python, launch_id=secrets.token_hex(8)
    )
    context.output.data({"started": report.instance_ids, "shortfalls": report.shortfalls})
    context.output.say(f"started {len(report.instance_ids)} of {spec.count}: {' '.join(report.instance_ids)}")
    for code, text in report.shortfalls:
        context.output.note(f"not started: {text} ({code})")
    if wait:
        _wait(context, operator, set(report.instance_ids))
    if len(report.instance_ids) < spec.count:
        sys.exit(3)


def _show_price(context: Context, spec: Launch) -> None:
    prices = {kind: price_per_hour(kind) for kind in spec.types}
    known = [price for price in prices.values() if price is not None]
    if spec.spot or len(known) < len(prices):
        return
    context.output.say(
        f"{spec.count} × {' or '.join(spec.types)}, at most ${spec.count * max(known):.2f} an hour "
        f"(on demand in us-east-1), idle for {spec.idle_timeout:g} s they end themselves"
    )


def _wait(context: Context, operator: Operator, wanted: set[str]) -> None:
    began = time.monotonic()
    while True:
        rows = [row for row in operator.roster(alive_only=False) if row.instance_id in wanted]
        gone = [row for row in rows if row.state in ("terminated", "stopped")]
        if gone:
            reasons = "; ".join(f"{row.instance_id} {row.reason}" for row in gone)
            raise FleetError(f"Instances ended before they took calls: {reasons}. `logs --stream boot` may say why.")
        if len(rows) == len(wanted) and all(row.doing == "running" for row in rows):
            context.output.say(f"ready after {time.monotonic() - began:.1f} s")
            return
        if time.monotonic() - began > _WAIT_TIMEOUT:
            raise FleetError(
                f"Not all instances were ready within {_WAIT_TIMEOUT:.0f} s; `status` shows how far they are."
            )
        time.sleep(0.2)


def _shown(row: Row) -> dict[str, object]:
    left = None
    if row.idle_time is not None and row.idle_timeout is not None:
        left = max(0, round(row.idle_timeout - row.idle_time))
    return {
        "instance": row.instance_id,
        "type": row.instance_type,
        "state": row.doing,
        "slots": row.slots,
        "busy": row.busy,
        "python": row.python,
        "age_s": round(row.age),
        "heard_s": None if row.report_age is None else round(row.report_age),
        "idle_end_s": left if row.state == "running" else None,
        "usd_h": None if row.spot else price_per_hour(row.instance_type),
        "reason": row.reason or row.last_error or None,
    }


_COLUMNS = ["instance", "type", "state", "slots", "busy", "python", "age_s", "heard_s", "idle_end_s", "usd_h", "reason"]


@click.command()
@click.option("--all", "everything", is_flag=True, help="Those that ended, too.")
@pass_context
def ls(context: Context, *, everything: bool) -> None:
    """List the fleet's instances."""
    operator = Operator(context.settings)
    rows = [_shown(row) for row in operator.roster(alive_only=not everything)]
    context.output.table(_COLUMNS, rows, empty=f"no instances in fleet '{operator.names.fleet}', {operator.place}")


@click.command()
@pass_context
def status(context: Context) -> None:
    """Show the fleet: instances, what they do, and the task queue."""
    operator = Operator(context.settings)
    rows, depth = operator.roster(), operator.depth()
    shown = [_shown(row) for row in rows]
    facts = {"fleet": operator.names.fleet, "place": operator.place, "waiting": depth.visible, "held": depth.in_flight}
    if context.output.as_json:
        context.output.data({**facts, "instances": shown})
        return
    context.output.say(f"fleet '{operator.names.fleet}', {operator.place}")
    context.output.say(f"queue {operator.task_queue.name}: {depth.visible} waiting, {depth.in_flight} held")
    context.output.table(_COLUMNS, shown, empty="no instances")


@click.command()
@click.argument("instance_ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of the fleet.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
def terminate(context: Context, instance_ids: Sequence[str], *, everything: bool, yes: bool) -> None:
    """End instances now. What they were doing runs again elsewhere."""
    operator = Operator(context.settings)
    alive = {info.instance_id for info in operator.machines.instances(operator.names.fleet)}
    if not instance_ids and not everything:
        raise click.UsageError("Name instances, or pass --all.")
    unknown = set(instance_ids) - alive
    if unknown:
        raise FleetError(f"Not in fleet '{operator.names.fleet}', or ended already: {', '.join(sorted(unknown))}.")
    wanted = sorted(alive if everything else instance_ids)
    for instance_id in wanted:
        context.output.say(f"  {instance_id}")
    if wanted and not yes:
        click.confirm(f"End {len(wanted)} instances?", abort=True, err=True)
    failed = operator.machines.terminate(wanted)
    context.output.data({"terminated": [one for one in wanted if one not in failed], "failed": failed})
    context.output.say(f"ended {len(wanted) - len(failed)} of {len(wanted)}")
    for instance_id, reason in failed.items():
        context.output.note(f"{instance_id} could not be ended: {reason}")
    if failed:
        sys.exit(1)
