"""Asks instances to finish what they hold and leave: a tag that each reads from its own metadata service."""

from __future__ import annotations

from collections.abc import Sequence

from wren_worker.errors import FleetError
from wren_worker.protocol.ports import Machines

__all__ = ["DRAIN_TAG", "drain"]

DRAIN_TAG = "wren:drain"
#: Source: EC2 CreateTags, read 2026-11: up to 1000 resources; smaller parts lose less to one that is gone.
_TOGETHER = 200


def drain(machines: Machines, instance_ids: Sequence[str], *, timestamp: float) -> dict[str, str]:
    """Tag instances; return ``{instance_id: reason}`` for those that could not be."""
    failed: dict[str, str] = {}
    for start in range(0, len(instance_ids), _TOGETHER):
        failed |= _drain(machines, instance_ids[start : start + _TOGETHER], f"{timestamp:.0f}")
    return failed


def _drain(machines: Machines, instance_ids: Sequence[str], value: str) -> dict[str, str]:
    try:
        machines.set_tags(instance_ids, {DRAIN_TAG: value})
    except FleetError as error:
        if len(instance_ids) == 1:
            return {instance_ids[0]: str(error)}
        # one that is gone fails the whole request, so each on its own
        failed: dict[str, str] = {}
        for instance_id in instance_ids:
            failed |= _drain(machines, [instance_id], value)
        return failed
    return {}
