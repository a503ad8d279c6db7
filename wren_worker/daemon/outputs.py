"""What calls print: kept for their outcomes up to a bound, and told line by line to the log.

Runs on the loop's thread.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wren_worker.daemon.slot import Given, Printed
from wren_worker.daemon.stories import Story, pack_stories
from wren_worker.daemon.verdicts import lost_value
from wren_worker.protocol import records

__all__ = ["Outputs"]

#: What is kept of one call's output in all; the slot bounds Python's streams by the same figure.
MAX_OUTPUT_BYTES = 10 * 1024 * 1024
#: A larger outcome becomes an object of its own.
MAX_RECORD_BYTES = 1024 * 1024
_STREAMS = {records.STDOUT: "stdout", records.STDERR: "stderr"}
#: CloudWatch takes events up to 1 MB; a longer line is told in pieces.
_MAX_LINE_BYTES = 128 * 1024


class _Tell(Protocol):
    def __call__(self, fields: Mapping[str, object], /) -> None: ...


@dataclass(slots=True)
class _Output:
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    n_bytes: int = 0
    truncated: bool = False
    unfinished: dict[int, bytes] = field(default_factory=dict)


class Outputs:
    """The outputs of the calls that run now.

    Args:
        tell: Takes the fields of one printed line; must not block.
        folder: Where outcomes that are too large for memory wait to be stored.
    """

    def __init__(self, *, tell: _Tell, folder: Path) -> None:
        self._tell = tell
        self._folder = folder
        self._open: dict[Given, _Output] = {}

    def take(self, printed: Printed, job_id: str) -> None:
        """Keep and tell what was written."""
        given = printed.given
        if given is None:
            # something a call left running; it belongs to no outcome
            self._tell_lines(printed.data, {"slot": printed.slot.number, "stream": _STREAMS.get(printed.stream)})
            return
        output = self._open.setdefault(given, _Output())
        room = MAX_OUTPUT_BYTES - output.n_bytes
        kept = printed.data[:room]
        output.truncated |= len(kept) < len(printed.data)
        output.n_bytes += len(kept)
        if kept:
            output.pieces.append((printed.stream, kept))
        data = output.unfinished.pop(printed.stream, b"") + kept
        lines, separator, rest = data.rpartition(b"\n")
        if len(rest) > _MAX_LINE_BYTES:
            lines, separator, rest = data, b"\n", b""
        if rest:
            output.unfinished[printed.stream] = rest
        if separator:
            self._tell_lines(lines, self._fields(given, job_id, printed.slot.number, printed.stream))

    @property
    def idle(self) -> bool:
        """Return whether nothing is kept of any call that runs, so that their outcomes need no output joined."""
        return not self._open

    def finish(
        self, given: Given, record: bytes, *, job_id: str, slot: int, outbox: Path, story: Sequence[Story] = ()
    ) -> bytes:
        """Return a call's outcome record with its output joined to it.

        Args:
            given: The call.
            record: The record as the slot wrote it, without output.
            job_id: For the log.
            slot: For the log.
            outbox: Where the slot leaves large values.
            story: The call's earlier attempts.
        """
        output = self._close(given, job_id=job_id, slot=slot)
        if output is None and not story and len(record) <= MAX_RECORD_BYTES and not _elsewhere(record):
            return record
        packed = b"".join(records.pack_output(stream, data) for stream, data in _merged(output)) if output else b""
        if story:
            packed += pack_stories(story)
        head = list(records.HEAD.unpack_from(record))
        value = record[records.HEAD.size : records.HEAD.size + head[9]]
        if output is not None and output.truncated:
            head[2] |= records.FLAG_OUTPUT_TRUNCATED
        if _elsewhere(record) or len(value) + len(packed) > MAX_RECORD_BYTES:
            try:
                value = self._spill(head, value, packed, outbox)
                head[2] |= records.FLAG_ELSEWHERE
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                # the disk is full, or the slot points to nothing
                head[1], value = records.ERROR, lost_value(error)
                head[2] &= ~records.FLAG_ELSEWHERE
            packed = b""
        head[9], head[10] = len(value), len(packed)
        return b"".join((records.HEAD.pack(*head), value, packed))

    def forget(self, given: Given, *, job_id: str, slot: int) -> None:
        """Drop what an attempt printed that is followed by another; its lines have been told."""
        self._close(given, job_id=job_id, slot=slot)

    def _close(self, given: Given, *, job_id: str, slot: int) -> _Output | None:
        output = self._open.pop(given, None)
        for stream, rest in output.unfinished.items() if output else ():
            self._tell_lines(rest, self._fields(given, job_id, slot, stream))
        return output

    def _spill(self, head: list[int], value: bytes, output: bytes, outbox: Path) -> bytes:
        if head[2] & records.FLAG_ELSEWHERE:
            # the name is all that counts: a slot may only point into its own outbox
            path = outbox / Path(json.loads(value)["path"]).name
            # a fifo would hold the loop up, a link would lead out of the outbox
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("it is no file")
            value_bytes = found.st_size
            with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK), "ab") as file:
                file.write(output)
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._folder)
            with open(descriptor, "wb") as file:
                file.write(value)
                file.write(output)
            path, value_bytes = Path(name), len(value)
        return json.dumps({"path": str(path), "value_bytes": value_bytes}).encode()

    @staticmethod
    def _fields(given: Given, job_id: str, slot: int, stream: int) -> dict[str, object]:
        return {
            "job_id": job_id,
            "call_index": given.call_index,
            "attempt": given.attempt,
            "slot": slot,
            "stream": _STREAMS.get(stream),
        }

    def _tell_lines(self, data: bytes, fields: dict[str, object]) -> None:
        for line in data.split(b"\n"):
            for start in range(0, max(1, len(line)), _MAX_LINE_BYTES):
                text = line[start : start + _MAX_LINE_BYTES].decode("utf-8", "replace")
                self._tell({"event": "output", **fields, "message": text})


def _elsewhere(record: bytes) -> bool:
    return bool(records.HEAD.unpack_from(record)[2] & records.FLAG_ELSEWHERE)


def _merged(output: _Output) -> list[tuple[int, bytes]]:
    merged: list[tuple[int, list[bytes]]] = []
    for stream, data in output.pieces:
        if merged and merged[-1][0] == stream:
            merged[-1][1].append(data)
        else:
            merged.append((stream, [data]))
    return [(stream, b"".join(parts)) for stream, parts in merged]
