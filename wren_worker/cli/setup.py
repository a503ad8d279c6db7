"""``setup`` and ``teardown``: a fleet's resources."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

import click

from wren_worker.cli.main import Context, pass_context
from wren_worker.cli.reap import operator_of
from wren_worker.fleet import setup as fleet_setup
from wren_worker.fleet.policies import client_policy, instance_policy, role_commands, setup_policy

__all__ = ["setup", "teardown"]


def _show(context: Context, steps: Iterable[fleet_setup.Step]) -> list[fleet_setup.Step]:
    done = []
    for step in steps:
        context.output.say(f"  {step.what:8} {step.resource.kind.value:18} {step.resource.name}")
        if step.why:
            context.output.note(f"           {step.why}")
        done.append(step)
    context.output.data(
        [
            {"what": step.what, "kind": step.resource.kind.value, "name": step.resource.name, "why": step.why}
            for step in done
        ]
    )
    return done


@click.command()
@click.option("--dry-run", is_flag=True, help="Only list what there is and what is missing.")
@click.option("--print-policies", is_flag=True, help="Print the policies of instances and clients, and do nothing.")
@pass_context
def setup(context: Context, *, dry_run: bool, print_policies: bool) -> None:
    """Make what a fleet needs in AWS: bucket, queues, log group, role, launch template. Safe to repeat."""
    operator = operator_of(context)
    if print_policies:
        names = operator.names
        policies = {"instance": instance_policy(names), "client": client_policy(names), "setup": setup_policy(names)}
        click.echo(json.dumps(policies, indent=1))
        return
    context.output.say(f"fleet '{operator.names.fleet}', {operator.place}")
    steps = _show(context, fleet_setup.setup(operator.provisioner, operator.names, dry_run=dry_run))
    if any(step.what == "refused" for step in steps):
        context.output.note("\nSomebody who may create roles has to run this once, then run setup again:\n")
        for command in role_commands(operator.names):
            context.output.note(command)
        sys.exit(1)


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only list what would go.")
@pass_context
def teardown(context: Context, *, yes: bool, dry_run: bool) -> None:
    """End the fleet's instances and remove all its resources, the results in its bucket included."""
    operator = operator_of(context)
    names = operator.names
    alive = operator.machines.instances(names.fleet)
    context.output.say(f"fleet '{names.fleet}', {operator.place}: {len(alive)} instances")
    last = operator.is_last_fleet()
    steps = _show(context, fleet_setup.teardown(operator.provisioner, names, last_fleet=last, dry_run=True))
    if not (steps or alive):
        context.output.say("nothing to remove")
    if dry_run or not (steps or alive):
        return
    if not yes:
        click.confirm("Remove all of this?", abort=True, err=True)
    failed = operator.machines.terminate([info.instance_id for info in alive])
    for instance_id, reason in failed.items():
        context.output.note(f"{instance_id} could not be ended: {reason}")
    for step in fleet_setup.teardown(operator.provisioner, names, last_fleet=last):
        context.output.say(f"  {step.what:8} {step.resource.kind.value:18} {step.resource.name}")
