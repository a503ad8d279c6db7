"""Ends instances that should have ended themselves: the layer off the machine, for those that nothing on it ends.

On positive evidence only, seen twice: an instance is past the lifetime that its own launch gave it, or its daemon has
been silent for longer than any daemon is, or it is stopped, which no instance of ours should be. The first sight is a
strike, kept as a tag on the instance, so that any client on any machine can see the second one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from wren_worker.errors import StoreError, WrenError
from wren_worker.fleet.breaker import reported
from wren_worker.fleet.launch import BOOT_TAG, LIFETIME_TAG
from wren_worker.protocol.ports import InstanceInfo, Machines, ObjectStore

__all__ = ["STRIKE_TAG", "Action", "Sight", "judge", "reap"]

STRIKE_TAG = "wren:strike"
#: Past its lifetime by so much, an instance's own layers (which take 3 minutes) have failed; a caller's clock is wrong
#: by less, or AWS would refuse its signatures.
_AGE_GRACE = 900.0
#: Daemons write their state every 5 minutes at least; four misses in a row are no accident.
_SILENCE = 1200.0
#: After its boot deadline the machine powers itself off within minutes.
_BOOT_GRACE = 300.0
#: A launch without tags of its own (of another version) is given what ``Launch`` gives.
_USUAL_BOOT = 900.0
#: The second look: not sooner, since both may see one passing trouble; not much later, since the first is stale then.
_STRIKE_AGE, _STRIKE_LIFE = 300.0, 24 * 3600.0
_LIVING = ("pending", "running")


class Action(Enum):
    """What is done about an instance."""

    STRIKE = "first strike"
    WAIT = "waiting for the second"
    END = "ended"
    FAILED = "could not be ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One instance that should not be there any more; ``detail`` is why it could not be ended."""

    instance_id: str
    reason: str
    action: Action
    detail: str = ""


def judge(info: InstanceInfo, state_timestamp: float | None, *, known: bool, timestamp: float) -> str:
    """Return why an instance should not be there any more, "" when there is no evidence against it. Pure.

    Args:
        info: The instance.
        state_timestamp: When its daemon last wrote its state, None for never.
        known: Whether that could be asked at all; what is not known is no evidence.
        timestamp: Now.
    """
    return _overdue(info, timestamp) or (_silent(info, state_timestamp, timestamp) if known else "")


def _overdue(info: InstanceInfo, timestamp: float) -> str:
    """Return what stands against an instance however alive it is."""
    age = timestamp - info.launch_timestamp
    if info.state == "stopped":
        return "stopped instead of terminated: its disk is still paid for"
    lifetime = _seconds(info.tags, LIFETIME_TAG)
    if info.state in _LIVING and lifetime is not None and age > lifetime + _AGE_GRACE:
        return f"{_long(age)} old, of {_long(lifetime)} that it may live"
    return ""


def _silent(info: InstanceInfo, state_timestamp: float | None, timestamp: float) -> str:
    """Return what a sign of life would refute."""
    age = timestamp - info.launch_timestamp
    if info.state not in _LIVING:
        return ""
    if state_timestamp is None:
        deadline = (_seconds(info.tags, BOOT_TAG) or _USUAL_BOOT) + _BOOT_GRACE
        return f"no sign of life since its launch {_long(age)} ago" if age > max(deadline, _SILENCE) else ""
    silence = timestamp - max(state_timestamp, info.launch_timestamp)
    return f"silent for {_long(silence)}" if silence > _SILENCE else ""


def reap(machines: Machines, store: ObjectStore, fleet: str, *, timestamp: float) -> Iterator[Sight]:
    """Look at the fleet once; strike, and end what has its second strike. One instance's trouble is its own.

    Yields:
        What was seen and done, an instance each.

    Raises:
        FleetError: The instances cannot be listed.
    """
    try:
        states: Mapping[str, float] | None = reported(store)
    except StoreError:
        states = None
    for info in machines.instances(fleet, alive_only=False):
        seen = (states or {}).get(info.instance_id)
        reason = judge(info, seen, known=states is not None, timestamp=timestamp)
        if not reason:
            continue
        try:
            yield _act(machines, info, reason, seen=seen, timestamp=timestamp)
        except WrenError as error:
            yield Sight(instance_id=info.instance_id, reason=reason, action=Action.FAILED, detail=str(error))


def _act(machines: Machines, info: InstanceInfo, reason: str, *, seen: float | None, timestamp: float) -> Sight:
    struck = _seconds(info.tags, STRIKE_TAG)
    since = None if struck is None else timestamp - struck
    # a daemon that was heard of after a strike for its silence took it away
    answered = struck is not None and seen is not None and seen > struck and not _overdue(info, timestamp)
    if since is None or not 0 <= since <= _STRIKE_LIFE or answered:
        machines.set_tags([info.instance_id], {STRIKE_TAG: f"{timestamp:.0f}"})
        return Sight(instance_id=info.instance_id, reason=reason, action=Action.STRIKE)
    if since < _STRIKE_AGE:
        return Sight(instance_id=info.instance_id, reason=reason, action=Action.WAIT)
    failed = machines.terminate([info.instance_id])
    if failed:
        detail = next(iter(failed.values()))
        return Sight(instance_id=info.instance_id, reason=reason, action=Action.FAILED, detail=detail)
    return Sight(instance_id=info.instance_id, reason=reason, action=Action.END)


def _seconds(tags: Mapping[str, str], name: str) -> float | None:
    try:
        return float(tags[name])
    except (KeyError, ValueError):
        return None


def _long(duration_time: float) -> str:
    if duration_time >= 7200:
        return f"{duration_time / 3600:.1f} h"
    return f"{duration_time / 60:.0f} min" if duration_time >= 120 else f"{duration_time:.0f} s"
