"""Elasticity: a client's wish for instances, joined to the fleet that starts them."""

from __future__ import annotations

import secrets
import sys
from dataclasses import replace

from wren_worker.fleet.elastic import ElasticFleet
from wren_worker.fleet.launch import remarks
from wren_worker.fleet.prices import ceiling
from wren_worker.fleet.spec import Launch
from wren_worker.protocol.ports import LaunchReport
from wren_worker.wiring.operator import Operator

__all__ = ["elastic"]


def elastic(operator: Operator, spec: Launch, *, terminate_on_exit: bool) -> ElasticFleet:
    """Return what starts instances for an executor; says first what that can cost.

    Args:
        operator: The fleet.
        spec: What to start, ``max_count`` at once at most.
        terminate_on_exit: Whether closing the executor drains what it started.

    Raises:
        ConfigError: No image of ours runs on such types.
    """
    for remark in remarks(spec):
        _tell(remark)
    _tell(f"starts what the calls need, {ceiling(spec, operator.prices(spec.types), count=spec.n_most)}")

    def launch(count: int) -> LaunchReport:
        return operator.launch(replace(spec, count=count), launch_id=secrets.token_hex(8))

    return ElasticFleet(
        operator.machines,
        spec,
        fleet=operator.names.fleet,
        python=operator.python,
        launch=launch,
        slots=lambda: _slots(operator, spec),
        clock=operator.clock,
        tell=_tell,
        reap=operator.reap,
        drain_at_close=terminate_on_exit,
    )


def _slots(operator: Operator, spec: Launch) -> int:
    """Return the calls that an instance runs at a time, of the smallest type."""
    if str(spec.slots) != "auto":
        return int(spec.slots)
    known = operator.machines.describe_types(spec.types)
    return min((info.n_vcpus for info in known), default=1)


def _tell(text: str) -> None:
    # a progress bar that is up takes what is written to stderr and puts it above itself
    print(f"wren: {text}", file=sys.stderr, flush=True)
