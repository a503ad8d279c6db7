"""Who is there and what they do: EC2's view of the fleet joined with what the daemons write about themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from wren_worker.errors import StoreError
from wren_worker.protocol.model import state_key
from wren_worker.protocol.ports import InstanceInfo, Machines, ObjectStore, QueueDepth

__all__ = ["Row", "roster", "why_nothing_runs"]

_READERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One instance. Times in seconds; None is not known (yet).

    ``doing`` is the daemon's state, or EC2's while no daemon has reported; ``report_age`` is how old that is.
    """

    instance_id: str
    instance_type: str
    state: str
    doing: str
    python: str
    age: float
    slots: int | None = None
    busy: int | None = None
    jobs: tuple[str, ...] = ()
    report_age: float | None = None
    idle_time: float | None = None
    idle_timeout: float | None = None
    spot: bool = False
    zone: str = ""
    reason: str = ""
    last_error: str = ""


def roster(
    machines: Machines, store: ObjectStore, fleet: str, *, timestamp: float, alive_only: bool = True
) -> list[Row]:
    """Return the fleet's instances, oldest first.

    Raises:
        FleetError: EC2 refused.
    """
    found = machines.instances(fleet, alive_only=alive_only)
    states = _states(store, [info.instance_id for info in found])
    return [_row(info, state, timestamp) for info, state in zip(found, states, strict=True)]


def _states(store: ObjectStore, instance_ids: Sequence[str]) -> list[Mapping[str, object]]:
    """Return what the daemons wrote; a request an instance, several at a time where there are many."""
    if len(instance_ids) > _READERS:
        try:
            with ThreadPoolExecutor(max_workers=_READERS, thread_name_prefix="wren-roster") as readers:
                return list(readers.map(lambda instance_id: _state(store, instance_id), instance_ids))
        except RuntimeError:  # the interpreter is on its way out, starts no threads any more, and still may ask
            pass
    return [_state(store, instance_id) for instance_id in instance_ids]


def _state(store: ObjectStore, instance_id: str) -> Mapping[str, object]:
    try:
        found = json.loads(store.get(state_key(instance_id)) or b"{}")
    except (StoreError, ValueError, RecursionError):
        return {}  # EC2's view alone is worth showing: the bucket may be gone, or denied to an operator
    return found if isinstance(found, dict) else {}


#: What a state object counts stays below; infinities and NaN do not.
_FAR = 2**53


def _number(value: object) -> float | None:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool) and -_FAR < value < _FAR
    return float(value) if plain else None  # type: ignore[arg-type]


def _row(info: InstanceInfo, state: Mapping[str, object], timestamp: float) -> Row:
    written, idle_since = _number(state.get("timestamp")), _number(state.get("idle_since_timestamp"))
    slots, busy = _number(state.get("slots")), _number(state.get("busy"))
    held = state.get("held")
    jobs = {str(item).partition("/")[0]: None for item in held} if isinstance(held, list) else {}
    return Row(
        instance_id=info.instance_id,
        instance_type=info.instance_type,
        state=info.state,
        doing=str(state.get("state", "booting")) if info.state == "running" else info.state,
        python=info.tags.get("wren:python", ""),
        age=max(0.0, timestamp - info.launch_timestamp),
        slots=None if slots is None else int(slots),
        busy=None if busy is None else int(busy),
        jobs=tuple(jobs),
        report_age=None if written is None else max(0.0, timestamp - written),
        idle_time=None if idle_since is None else max(0.0, timestamp - idle_since),
        idle_timeout=_number(state.get("idle_timeout")),
        spot=info.spot,
        zone=info.zone,
        reason=info.state_reason_code,
        last_error=str(state.get("last_error", "")),
    )


def why_nothing_runs(
    rows: Sequence[Row], depth: QueueDepth, *, fleet: str, python: str, place: str, starts_own: bool = False
) -> str:
    """Return one sentence for somebody whose calls do not come back; "" when there is nothing to say.

    Args:
        rows: The living instances.
        depth: The task queue's.
        fleet: The fleet's name.
        python: The caller's Python minor.
        place: Account and region, for the case that the instances are elsewhere.
        starts_own: Whether the caller starts instances by itself, and tells of it.
    """
    if not rows and starts_own:
        return f"no instance in fleet '{fleet}' ({place}) yet, some are started; {depth.visible} messages wait"
    if not rows:
        option = "" if fleet == "default" else f"--fleet {fleet} "
        return (
            f"no instance in fleet '{fleet}' ({place}): start some with "
            f"`wren-standalone {option}launch --count 2 --type c5.xlarge`; {depth.visible} messages wait"
        )
    ours = [row for row in rows if row.python == python]
    if not ours:
        others = ", ".join(sorted({row.python or "?" for row in rows}))
        return f"{len(rows)} instances run Python {others}, this client runs {python}: they cannot take its calls"
    booting = [row for row in ours if row.doing in ("booting", "pending", "starting")]
    parts = []
    if booting:
        parts.append(f"{len(booting)} booting ({max(row.age for row in booting):.0f} s)")
    working = [row for row in ours if row.jobs]
    for job in dict.fromkeys(job for row in working for job in row.jobs):
        n_busy = sum(job in row.jobs for row in working)
        parts.append(f"{n_busy} busy with job {job}")
    n_ready = len(ours) - len(booting) - len(working)
    if n_ready:
        parts.append(f"{n_ready} ready")
    errors = {row.last_error for row in ours if row.last_error}
    text = " · ".join(parts) + f"; {depth.visible} messages wait, {depth.in_flight} are held"
    return text + "".join(f"; last error: {error}" for error in sorted(errors)[:1])
