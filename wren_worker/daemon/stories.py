"""What is told of attempts that were followed by others: where, when, how long, and what ended them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from wren_worker.errors import WireError
from wren_worker.protocol import records
from wren_worker.protocol.frames import FrameError, split_sections
from wren_worker.protocol.wire import parse_error_value

__all__ = ["Story", "pack_stories"]

_MAX_TEXT = 300
#: Of a call that is tried for ever, so many attempts are told: the first and the last ones.
_MAX_STORIES = 64


@dataclass(frozen=True, slots=True)
class Story:
    """One attempt. ``start`` is unix seconds, ``time`` seconds."""

    attempt: int
    slot: int
    start: float
    time: float
    end: str

    @classmethod
    def of(cls, record: bytes) -> Story:
        """Return what the record of an attempt tells; its value may be whatever a slot wrote."""
        head = records.HEAD.unpack_from(record)
        value = record[records.HEAD.size : records.HEAD.size + head[9]]
        return cls(attempt=head[4], slot=head[3], start=head[5], time=head[6], end=_end(head[1], head[2], value))


def _end(status: int, flags: int, value: bytes) -> str:
    try:
        if status == records.ERROR:
            kind, message, _ = parse_error_value(value)
            return f"{kind}: {message}"[:_MAX_TEXT]
        if not flags & records.FLAG_ELSEWHERE:
            header, _ = split_sections(value)
            return str(header.get("repr") or header.get("type"))[:_MAX_TEXT]
    except (WireError, FrameError):
        pass
    return "failure"


def pack_stories(stories: Sequence[Story]) -> bytes:
    """Return the piece of output that carries them."""
    if len(stories) > _MAX_STORIES:
        stories = [stories[0], *stories[1 - _MAX_STORIES :]]
    told = [
        {"attempt": s.attempt, "slot": s.slot, "start": round(s.start, 6), "time": round(s.time, 6), "end": s.end}
        for s in stories
    ]
    return records.pack_output(records.STORY, json.dumps(told, separators=(",", ":")).encode())
