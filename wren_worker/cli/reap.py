"""``reap``: ends instances that should have ended themselves; and the same, quietly, beside other commands."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click

from wren_worker.cli.main import Context, pass_context
from wren_worker.errors import WrenError
from wren_worker.fleet.reap import Action, Sight
from wren_worker.wiring.operator import Operator

__all__ = ["operator_of", "reap", "reaping"]

#: How long a command that is done waits for the look beside it.
_PATIENCE_TIME = 2.0


def operator_of(context: Context) -> Operator:
    """Return the fleet that the options name."""
    return Operator(context.settings, tell=context.output.note)


@contextmanager
def reaping(context: Context, operator: Operator) -> Iterator[None]:
    """Look for overdue instances beside a command; its trouble is not the command's."""
    seen: list[Sight] = []
    thread = threading.Thread(target=_look, args=(operator, seen), name="wren-reaper", daemon=True)
    thread.start()
    yield
    thread.join(_PATIENCE_TIME)
    for sight in seen:
        if sight.action is not Action.WAIT:
            context.output.note(f"overdue: {_told(sight)}")


def _look(operator: Operator, seen: list[Sight]) -> None:
    try:
        seen.extend(operator.reap())
    except WrenError:
        pass  # the next command looks again


def _told(sight: Sight) -> str:
    detail = f" ({sight.detail})" if sight.detail else ""
    return f"{sight.instance_id}, {sight.reason}: {sight.action.value}{detail}"


@click.command()
@pass_context
def reap(context: Context) -> None:
    """End instances that should have ended themselves. Twice seen, five minutes apart, they go."""
    operator = operator_of(context)
    sights = operator.reap()
    context.output.data([{"instance": s.instance_id, "reason": s.reason, "action": s.action.value} for s in sights])
    for sight in sights:
        context.output.say(_told(sight))
    if not sights:
        context.output.say(f"nothing overdue in fleet '{operator.names.fleet}', {operator.place}")
    failed = [sight for sight in sights if sight.action is Action.FAILED]
    if failed:
        raise SystemExit(1)
