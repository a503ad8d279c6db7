"""Stops launching when what is launched does not come up: money for nothing, again and again."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from wren_worker.errors import FleetError, StoreError
from wren_worker.protocol.model import state_key
from wren_worker.protocol.ports import InstanceInfo, Machines, ObjectStore

__all__ = ["FAILED_BOOTS", "check_boots", "console_tail", "failed_boots", "reported"]

#: So many instances in a row that ended without a sign of life.
FAILED_BOOTS = 3
_CONSOLE_LINES = 12
#: Ended by somebody or something that says nothing about the boot.
_BLAMELESS = ("Client.UserInitiated", "Server.")


def reported(store: ObjectStore) -> dict[str, float]:
    """Return whose daemons have ever written their state, and when last, as unix seconds of S3's clock.

    Raises:
        StoreError: The bucket did not answer, so nothing is known of anybody.
    """
    prefix = state_key("")
    return {info.key.removeprefix(prefix): info.modified_timestamp for info in store.list(prefix)}


def failed_boots(instances: Sequence[InstanceInfo], alive_once: Collection[str], *, recipe: str) -> list[InstanceInfo]:
    """Return the newest instances of a recipe that all ended without a sign of life, newest first. Pure.

    Args:
        instances: The fleet's, those that ended included (EC2 shows them for about an hour).
        alive_once: Whose daemons ever reported.
        recipe: What is about to be launched again; an image or configuration that differs gets its chance.
    """
    failed: list[InstanceInfo] = []
    for info in sorted(instances, key=lambda one: one.launch_timestamp, reverse=True):
        if info.tags.get("wren:recipe", "") != recipe:
            continue
        if info.instance_id in alive_once:
            break
        if info.state == "terminated" and not info.state_reason_code.startswith(_BLAMELESS):
            failed.append(info)
    return failed


def console_tail(machines: Machines, instance_id: str, *, n_lines: int = _CONSOLE_LINES) -> str:
    """Return the last lines of an instance's console, "" when there are none."""
    lines = [line.rstrip() for line in machines.console_output(instance_id).splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines[-n_lines:])


def check_boots(machines: Machines, store: ObjectStore, fleet: str, *, recipe: str) -> None:
    """Refuse to launch again what did not come up ``FAILED_BOOTS`` times in a row.

    Raises:
        FleetError: It did not; shows the console of the last.
    """
    try:
        failed = failed_boots(machines.instances(fleet, alive_only=False), reported(store), recipe=recipe)
    except StoreError:
        return  # nobody's sign of life can be read, so its lack says nothing
    if len(failed) < FAILED_BOOTS:
        return
    last = failed[0]
    reasons = ", ".join(dict.fromkeys(info.state_reason_code or "no reason given" for info in failed))
    tail = console_tail(machines, last.instance_id)
    shown = f" The console of {last.instance_id} ends:\n{tail}" if tail else " The console has nothing (yet)."
    raise FleetError(
        f"The last {len(failed)} instances of this image and configuration ended before their daemon reported "
        f"({reasons}), so no more are started. Mend the image or its permissions; `wren-standalone logs --stream boot` "
        f"may say more, and `launch --anyway` tries once more.{shown}",
        started=(),
        retryable=False,
    )
