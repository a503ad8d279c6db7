"""What will go wrong and when, drawn from a seed before anything starts. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["DEEDS", "WIRE", "Strike", "plan"]

#: What is done to processes and instances -> how often, relative to each other.
DEEDS = {
    "kill daemon": 8,
    "kill slot": 8,
    "kill keeper": 4,
    "kill supervisord": 2,
    "kill daemon at its PUT": 4,
    "kill daemon at its notice": 4,
    "kill daemon at its delete": 4,
    "kill daemon at its receive": 3,
    "freeze daemon": 4,
    "freeze slot": 3,
    "hang daemon": 1,
    "crash instance": 4,
    "interrupt spot": 4,
    "cut off instance": 3,
    "throttle everybody": 2,
}
#: What is done to requests -> how often, relative to each other.
WIRE = {
    "lose the answer of a PUT": 8,
    "lose the answer of a send": 6,
    "lose the answer of a delete": 6,
    "lose the answer of a receive": 5,
    "lose the answer of a beat": 4,
    "lose a request": 4,
    "SlowDown": 5,
    "InternalError": 5,
    "InternalError, yet applied": 4,
    "conflict of a PUT": 3,
    "throttle a queue": 5,
    "OverLimit": 2,
    "expired token": 2,
    "clock too far off": 1,
    "skewed Date": 2,
    "refuse beats": 4,
    "part of a batch fails": 6,
    "duplicate delivery": 7,
    "redelivery while held": 6,
    "delayed delivery": 5,
    "reordering": 4,
    "empty receive": 4,
    "stale handle": 3,
    "truncated body": 4,
    "slow body": 4,
    "late answer": 4,
    "half-open connection": 2,
    "black hole": 2,
    "reset connection": 4,
    "no logs": 3,
}
#: Mean seconds between two strikes of a kind; about 1.4 faults a second together, most of which meet a request.
_DEED_INTERVAL = 3.5
_WIRE_INTERVAL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One thing that goes wrong ``at_time`` seconds after the start; ``draw`` (0..1) chooses whom or how long."""

    at_time: float
    kind: str
    draw: float


def plan(seed: int, seconds: float) -> list[Strike]:
    """Return the strikes of a run, in order."""
    strikes: list[Strike] = []
    for salt, kinds, interval in ((1, DEEDS, _DEED_INTERVAL), (2, WIRE, _WIRE_INTERVAL)):
        draw = random.Random(seed * 10 + salt)  # noqa: S311 - a plan, no secret
        at_time = draw.uniform(0.2, 1.0) * interval
        while at_time < seconds:
            (kind,) = draw.choices(list(kinds), weights=list(kinds.values()))
            strikes.append(Strike(at_time=at_time, kind=kind, draw=draw.random()))
            at_time += interval * draw.uniform(0.4, 1.6)
    return sorted(strikes, key=lambda strike: strike.at_time)
