"""``launch``, ``ls``, ``status``, ``terminate``: instances."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import click

from wren_worker.cli.main import Context, pass_context
from wren_worker.cli.reap import operator_of, reaping
from wren_worker.clock import parse_time
from wren_worker.errors import FleetError
from wren_worker.fleet import launch as fleet_launch
from wren_worker.fleet.drain import drain as drain_instances
from wren_worker.fleet.prices import Price, ceiling, price_per_hour
from wren_worker.fleet.roster import Row
from wren_worker.fleet.spec import Launch
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
@click.option("--count", type=int, help="How many instances.  [default: 1]")
@click.option("--type", "types", multiple=True, default=["c5.xlarge"], show_default=True, help="May be repeated.")
@click.option("--spot/--on-demand", default=False, show_default=True, help="Spot costs less and may be taken away.")
@click.option("--idle-timeout", type=_Time(), default="5m", show_default=True, help="They end themselves after this.")
@click.option("--max-lifetime", type=_Time(), default="8h", show_default=True, help="And after this whatever they do.")
@click.option("--max-price", default="", help="Dollars an hour, for spot.")
@click.option("--slots", default="auto", show_default=True, help="Calls at a time on an instance; auto: one a core.")
@click.option(
    "--image", default="auto", show_default=True, help="An AMI id; auto: your own for your Python, else stock."
)
@click.option("--subnet", "subnets", multiple=True, help="May be repeated.  [default: the default VPC's]")
@click.option("--security-group", "security_groups", multiple=True, help="May be repeated.  [default: the fleet's own]")
@click.option("--anyway", is_flag=True, help="Launch although the last ones did not come up.")
@click.option("--wait", is_flag=True, help="Wait until they take calls.")
@_advanced
@pass_context
def launch(context: Context, /, *, wait: bool, anyway: bool, **options: Any) -> None:
    """Start instances that take calls, and end themselves when there are none."""
    spec = Launch(**options)
    operator = operator_of(context)
    with reaping(context, operator):
        notes = [*fleet_launch.remarks(spec), *operator.open_groups(spec.security_groups)]
        prices = _show_price(context, operator, spec)
        for remark in notes:
            context.output.note(remark)
        report = operator.launch(spec, launch_id=secrets.token_hex(8), anyway=anyway)
        n_started = len(report.instance_ids)
        context.output.data(
            {"started": report.instance_ids, "shortfalls": report.shortfalls, "prices": [asdict(p) for p in prices]}
        )
        context.output.say(f"started {n_started} of {spec.n_wanted}: {' '.join(report.instance_ids)}")
        for code, text in report.shortfalls:
            context.output.note(f"not started: {text} ({code})")
        if report.mend:
            context.output.note(report.mend)
        if wait:
            _wait(context, operator, set(report.instance_ids))
    if n_started < spec.n_wanted:
        sys.exit(3)


def _show_price(context: Context, operator: Operator, spec: Launch) -> list[Price]:
    """Show what the types cost and the bound of it all, before anything is started."""
    prices = operator.prices(spec.types)
    if not context.output.as_json:
        if any(price.on_demand is not None or price.spot is not None for price in prices):
            context.output.table(_PRICE_COLUMNS, [_shown_price(price) for price in prices])
        context.output.say(ceiling(spec, prices, count=spec.n_wanted))
        context.output.say(f"idle for {spec.idle_timeout:g} s they end themselves")
    return prices


_PRICE_COLUMNS = ["type", "vcpus", "gib", "usd_h", "spot_usd_h", "note"]


def _shown_price(price: Price) -> dict[str, object]:
    spot = price.spot
    return {
        "type": price.instance_type,
        "vcpus": price.n_vcpus,
        "gib": price.memory_gib,
        "usd_h": price.on_demand,
        "spot_usd_h": f"{spot[0]:.4g} to {spot[1]:.4g}" if spot else None,
        "note": price.note or None,
    }


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
    operator = operator_of(context)
    with reaping(context, operator):
        rows = [_shown(row) for row in operator.roster(alive_only=not everything)]
    context.output.table(_COLUMNS, rows, empty=f"no instances in fleet '{operator.names.fleet}', {operator.place}")


@click.command()
@pass_context
def status(context: Context) -> None:
    """Show the fleet: instances, what they do, and the task queue."""
    operator = operator_of(context)
    with reaping(context, operator):
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
@click.option("--drain", is_flag=True, help="Let them finish what they hold; they take nothing new and leave.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
def terminate(context: Context, instance_ids: Sequence[str], *, everything: bool, drain: bool, yes: bool) -> None:
    """End instances now, or let them finish first. What they were doing runs again elsewhere."""
    operator = operator_of(context)
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
        click.confirm(f"{'Drain' if drain else 'End'} {len(wanted)} instances?", abort=True, err=True)
    if drain:
        failed = drain_instances(operator.machines, wanted, timestamp=operator.clock.timestamp())
        key, verb = "draining", "asked to finish and leave:"
    else:
        failed = operator.machines.terminate(wanted)
        key, verb = "terminated", "ended"
    context.output.data({key: [one for one in wanted if one not in failed], "failed": failed})
    context.output.say(f"{verb} {len(wanted) - len(failed)} of {len(wanted)}")
    for instance_id, reason in failed.items():
        context.output.note(f"{instance_id} could not be {'drained' if drain else 'ended'}: {reason}")
    if failed:
        sys.exit(1)
