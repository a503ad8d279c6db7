"""Structured lines: a constant event name plus fields, as JSON."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Mapping
from typing import Protocol

from wren_worker.clock import Clock

__all__ = ["EventLog", "JsonLog", "NullLog"]


class EventLog(Protocol):
    """Takes events of one place."""

    def event(self, name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
        """Record that ``name`` happened."""
        ...


class NullLog:
    """Drops every event."""

    def event(self, name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
        """Drop the event."""


class JsonLog:
    """Writes events as JSON lines to stderr and hands them to a sink, if there is one.

    Args:
        clock: Gives the timestamp of a line.
        forward: Takes ``(timestamp, fields)`` of every line; must not block.
        **constant: Fields of every line.
    """

    def __init__(self, clock: Clock, forward: _Forward | None = None, **constant: object) -> None:
        self._clock = clock
        self._forward = forward
        self._constant = constant

    def event(self, name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
        """Write one line."""
        timestamp = self._clock.timestamp()
        line = {"event": name, "level": logging.getLevelName(level), **self._constant, **fields}
        with contextlib.suppress(OSError):  # a full disk must not end whoever only wants to say so
            sys.stderr.write(json.dumps({"timestamp": round(timestamp, 3), **line}, default=str) + "\n")
        if self._forward is not None:
            self._forward(timestamp, line)


class _Forward(Protocol):
    def __call__(self, timestamp: float, fields: Mapping[str, object], /) -> None: ...
