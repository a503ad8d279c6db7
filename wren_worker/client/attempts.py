"""The executions of one call within the delivery that gave its outcome."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass

from wren_worker.errors import WireError
from wren_worker.protocol import records
from wren_worker.protocol.frames import FrameError, split_sections
from wren_worker.protocol.serialize import Loaded
from wren_worker.protocol.wire import parse_error_value

__all__ = ["Attempt", "attempts_of", "describe"]

_MAX_TEXT = 300


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a call.

    ``attempt`` counts from 1, ``slot`` is its place on the instance; ``start_timestamp`` is unix seconds of the
    instance's clock, ``run_time`` seconds. ``end`` is "success" or says what ended it: the exception, a timeout, a
    signal.
    """

    attempt: int
    instance_id: str
    slot: int
    start_timestamp: float
    run_time: float
    end: str


def attempts_of(record: bytes | memoryview | None, loaded: Loaded | None, instance_id: str) -> list[Attempt]:
    """Return the attempts that a complete record tells of, in order; none of a verdict without a run."""
    if not record:
        return []
    head = records.HEAD.unpack_from(record)
    middle = records.HEAD.size + head[9]
    told: list[Attempt] = []
    with contextlib.suppress(records.RecordError):  # as below
        for stream, data in records.split_output(memoryview(record)[middle:]):
            if stream == records.STORY:
                told += _earlier(data, instance_id)
    if head[1] != records.ERROR or head[5]:
        end = _end(head[1], memoryview(record)[records.HEAD.size : middle], loaded)
        told.append(Attempt(head[4], instance_id, head[3], head[5], head[6], end))
    return told


def _earlier(data: bytes, instance_id: str) -> list[Attempt]:
    try:
        return [
            Attempt(
                int(one["attempt"]),
                instance_id,
                int(one["slot"]),
                float(one["start"]),
                float(one["time"]),
                str(one["end"]),
            )
            for one in json.loads(data)
        ]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return []  # it is a hint for people, and nobody's outcome


def _end(status: int, value: memoryview, loaded: Loaded | None) -> str:
    if status == records.SUCCESS:
        return "success"
    if loaded is not None and loaded.exception is not None:
        if status == records.ERROR:
            return f"{type(loaded.exception).__name__}: {loaded.exception}"[:_MAX_TEXT]
        return describe(loaded.exception)
    try:
        if status == records.ERROR:
            kind, message, _ = parse_error_value(bytes(value))
            return f"{kind}: {message}"[:_MAX_TEXT]
        header, _ = split_sections(value)
        return str(header.get("repr"))[:_MAX_TEXT]
    except (WireError, FrameError):
        return "failure"


def describe(error: BaseException) -> str:
    """Return an exception in a line."""
    try:
        return repr(error)[:_MAX_TEXT]
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything
        return type(error).__name__
