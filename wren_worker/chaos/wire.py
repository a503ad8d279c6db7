"""From the plan's words for what happens to requests to the rules that make it happen."""

from __future__ import annotations

import random
from collections.abc import Callable

from wren_worker.chaos.exchange import Fault
from wren_worker.chaos.faults import BlackHole, Delay, Drop, HalfOpen, Refuse, SkewDate, SlowBody, Truncate
from wren_worker.chaos.queue_faults import (
    DelayDelivery,
    Duplicate,
    Empty,
    FailEntries,
    Redeliver,
    Reorder,
    StaleHandles,
)
from wren_worker.chaos.script import Rule
from wren_worker.chaos.subject import Subject

__all__ = ["rules_for"]

_TASKS, _REPLIES = "*-tasks-v*", "*-reply-*"
_INSTANCES = "i-*"


def _small(subject: Subject) -> bool:
    return len(subject.request.body) < 1 << 20


def _rule(fault: Fault, operation: str, key: str = "*", *, caller: str = "*", limit: int = 1) -> Rule:
    return Rule(fault=fault, operation=operation, key=key, caller=caller, limit=limit, where=_small)


def rules_for(kind: str, draw: float) -> list[Rule]:
    """Return what a strike puts in force; each ends by itself after the few requests that it is meant for."""
    few = 1 + int(draw * 3)
    dice = random.Random(draw)  # noqa: S311 - a plan, no secret
    made: dict[str, Callable[[], list[Rule]]] = {
        "lose the answer of a PUT": lambda: [_rule(Drop(), "s3.PutObject", "results/*", limit=few)],
        "lose the answer of a send": lambda: [_rule(Drop(), "sqs.SendMessage*", limit=few)],
        "lose the answer of a delete": lambda: [_rule(Drop(), "sqs.DeleteMessage*", _TASKS, limit=few)],
        "lose the answer of a receive": lambda: [_rule(Drop(), "sqs.ReceiveMessage")],
        "lose the answer of a beat": lambda: [_rule(Drop(), "sqs.ChangeMessageVisibility*", limit=few)],
        "lose a request": lambda: [_rule(Drop(applied=False, reset=True), "s[3q]*", limit=few)],
        "SlowDown": lambda: [_rule(Refuse(code="SlowDown"), "s3.*", limit=2 * few)],
        "InternalError": lambda: [_rule(Refuse(code="InternalError"), "s[3q]*", limit=few)],
        "InternalError, yet applied": lambda: [
            _rule(Refuse(code="InternalError", applied=True), "s3.PutObject", limit=few)
        ],
        "conflict of a PUT": lambda: [
            _rule(Refuse(code="ConditionalRequestConflict"), "s3.PutObject", "results/*", limit=few)
        ],
        "throttle a queue": lambda: [_rule(Refuse(code="RequestThrottled"), "sqs.*", limit=2 * few)],
        "OverLimit": lambda: [_rule(Refuse(code="OverLimit"), "sqs.ReceiveMessage", _TASKS)],
        "expired token": lambda: [_rule(Refuse(code="ExpiredToken"), "s[3q]*", caller=_INSTANCES)],
        "clock too far off": lambda: [_rule(Refuse(code="RequestTimeTooSkewed"), "s[3q]*", caller=_INSTANCES)],
        "skewed Date": lambda: [_rule(SkewDate(seconds=7200 * draw - 3600), "s[3q]*", limit=5)],
        "refuse beats": lambda: [
            _rule(Refuse(code="InternalError"), "sqs.ChangeMessageVisibility*", _TASKS, limit=2 * few)
        ],
        "part of a batch fails": lambda: [_rule(FailEntries(applied=draw < 0.3, draw=dice), "sqs.*Batch", limit=few)],
        "duplicate delivery": lambda: [_rule(Duplicate(to_another=draw < 0.7), "sqs.ReceiveMessage", _TASKS)],
        "redelivery while held": lambda: [_rule(Redeliver(), "sqs.ReceiveMessage", _TASKS)],
        "delayed delivery": lambda: [
            _rule(DelayDelivery(seconds=1 + int(3 * draw), draw=dice), "sqs.SendMessage*", limit=few)
        ],
        "reordering": lambda: [_rule(Reorder(draw=dice), "sqs.SendMessageBatch", limit=few)],
        "empty receive": lambda: [_rule(Empty(), "sqs.ReceiveMessage", _TASKS, limit=few)],
        "stale handle": lambda: [
            _rule(StaleHandles(), "sqs.DeleteMessageBatch", _TASKS, limit=4),
            _rule(StaleHandles(), "sqs.ChangeMessageVisibilityBatch", _TASKS, limit=4),
        ],
        "truncated body": lambda: [
            _rule(Truncate(part=draw), "s3.GetObject"),
            _rule(Truncate(part=draw), "sqs.ReceiveMessage"),
        ],
        "slow body": lambda: [_rule(SlowBody(seconds=2 * draw), "s3.[GL]*", limit=few)],
        "late answer": lambda: [
            _rule(Delay(seconds=2 * draw, applied=draw < 0.5), "s3.PutObject", "results/*", limit=few)
        ],
        "half-open connection": lambda: [_rule(HalfOpen(seconds=20), "s[3q]*")],
        "black hole": lambda: [_rule(BlackHole(seconds=20, applied=draw < 0.5), "s[3q]*")],
        "reset connection": lambda: [_rule(Drop(applied=True, reset=True), "s[3q]*", limit=few)],
        "no logs": lambda: [_rule(Refuse(code="ServiceUnavailable"), "logs.*", limit=4)],
    }
    return made[kind]()
