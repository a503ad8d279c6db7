"""Log lines: what to ask CloudWatch for, what to keep of its answer, how to show it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from wren_worker.protocol.ports import LogEvent

__all__ = ["LogFilter", "format_line"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFilter:
    """Which lines are wanted; None is any. ``stream`` is "daemon", "tasks" or "boot".

    All fleets share the log group, so the fleet is always asked for.
    """

    fleet: str
    job_id: str | None = None
    call_index: int | None = None
    instance_id: str | None = None
    stream: str | None = None

    @property
    def pattern(self) -> str:
        """Return a CloudWatch filter pattern: a quoted term, which finds text in lines of any form.

        It only thins out what travels; ``keeps`` decides.
        Source: CloudWatch Logs "Filter and pattern syntax", read 2026-11.
        """
        return f'"{self.job_id}"' if self.job_id else ""

    @property
    def streams(self) -> tuple[str, ...]:
        """Return the streams that hold the lines, () for all."""
        if self.instance_id is None:
            return ()
        kinds = (self.stream,) if self.stream else ("daemon", "tasks", "boot")
        return tuple(f"{self.instance_id}-{kind}" for kind in kinds)

    def keeps(self, event: LogEvent) -> bool:
        """Return whether a line is wanted."""
        instance_id, _, kind = event.stream.rpartition("-")
        if self.stream is not None and kind != self.stream:
            return False
        if self.instance_id is not None and instance_id != self.instance_id:
            return False
        fields = fields_of(event)
        if fields.get("fleet", self.fleet) != self.fleet:
            return False  # a line that names none, of a boot, is anybody's
        if self.job_id is not None and fields.get("job_id") != self.job_id:
            return False
        return self.call_index is None or fields.get("call_index") == self.call_index


def fields_of(event: LogEvent) -> Mapping[str, object]:
    """Return the fields of a line; one that is no JSON object has only its message."""
    try:
        found = json.loads(event.message)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"message": event.message}


def format_line(event: LogEvent) -> str:
    """Return a line for people: time, instance, call, text."""
    fields = dict(fields_of(event))
    instance_id, _, _ = event.stream.rpartition("-")
    when = datetime.fromtimestamp(event.timestamp).astimezone().strftime("%H:%M:%S")
    if fields.get("event") == "output":
        place = f"{fields.get('job_id', '')}[{fields.get('call_index', '')}]"
        attempt = fields.get("attempt")
        again = f" attempt {attempt}" if attempt not in (None, 1) else ""
        mark = "!" if fields.get("stream") == "stderr" else "|"
        return f"{when} {instance_id} {place}{again} {mark} {fields.get('message', '')}"
    for known in ("timestamp", "level", "instance_id", "fleet"):
        fields.pop(known, None)
    name = fields.pop("event", None) or fields.pop("message", "")
    rest = " ".join(f"{key}={value}" for key, value in fields.items())
    return f"{when} {instance_id} {name} {rest}".rstrip()
