"""The bucket and the log group, in memory."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wren_worker.clock import Clock, SystemClock
from wren_worker.protocol.ports import ObjectInfo, Pieces

__all__ = ["LogLine", "MemoryLogSink", "MemoryStore"]


class MemoryStore:
    """Fills ``ports.ObjectStore``."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, float]] = {}

    def put(self, key: str, data: bytes | memoryview | Pieces) -> None:
        """Write an object, over whatever was there."""
        with self._lock:
            self._objects[key] = _joined(data), self._clock.timestamp()

    def put_once(self, key: str, data: bytes | memoryview | Pieces | Path) -> bool:
        """Write an object unless the key is taken; return whether the key was free."""
        made = (data.read_bytes() if isinstance(data, Path) else _joined(data)), self._clock.timestamp()
        with self._lock:
            return self._objects.setdefault(key, made) is made

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes | None:
        """Return an object's bytes, or the range (b"" past its end); None when there is no such key."""
        found = self._objects.get(key)
        return None if found is None else found[0][offset : None if length is None else offset + length]

    def download(self, key: str, path: Path, *, offset: int = 0, length: int | None = None) -> bool:
        """Write an object, or the range, to a file, which appears whole or not at all."""
        data = self.get(key, offset=offset, length=length)
        if data is None:
            return False
        partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
        partial.write_bytes(data)
        partial.replace(path)
        return True

    def fill(
        self, key: str, target: memoryview, *, offset: int = 0, seen: Callable[[memoryview], object] | None = None
    ) -> bool:
        """Fill a buffer with an object's bytes from ``offset`` on; False when not all of them are there."""
        data = self.get(key, offset=offset, length=len(target))
        if data is None or len(data) != len(target):
            return False
        target[:] = data
        if seen is not None:
            seen(target)
        return True

    def exists(self, key: str) -> bool:
        """Return whether the key is taken."""
        return key in self._objects

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects under a prefix that exist now, in the order of their keys' UTF-8 bytes."""
        with self._lock:
            found = sorted((key.encode(), key) for key in self._objects if key.startswith(prefix))
            start = bisect_right(found, start_after.encode(), key=lambda pair: pair[0])
            infos = [
                ObjectInfo(key=key, n_bytes=len(self._objects[key][0]), modified_timestamp=self._objects[key][1])
                for _, key in found[start:]
            ]
        yield from infos

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; keys that are free are no error."""
        with self._lock:
            for key in keys:
                self._objects.pop(key, None)


def _joined(data: bytes | memoryview | Pieces) -> bytes:
    return bytes(data) if isinstance(data, (bytes, memoryview)) else b"".join(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line that a ``MemoryLogSink`` took; ``timestamp`` is unix seconds."""

    stream: str
    timestamp: float
    fields: Mapping[str, object]


class MemoryLogSink:
    """Fills ``ports.LogSink``.

    Args:
        max_lines: From here on, and once closed, it drops and counts.
    """

    def __init__(self, *, max_lines: int = 100_000) -> None:
        self._max_lines = max_lines
        self._lock = threading.Lock()
        self._lines: list[LogLine] = []
        self._n_dropped = 0
        self._closed = False

    @property
    def lines(self) -> list[LogLine]:
        """Return the lines taken so far."""
        with self._lock:
            return list(self._lines)

    def put(self, stream: str, timestamp: float, fields: Mapping[str, object]) -> None:
        """Take one line."""
        with self._lock:
            if self._closed or len(self._lines) >= self._max_lines:
                self._n_dropped += 1
            else:
                self._lines.append(LogLine(stream=stream, timestamp=timestamp, fields=dict(fields)))

    def dropped(self) -> int:
        """Return how many lines were dropped."""
        return self._n_dropped

    def close(self, *, timeout: float) -> None:  # noqa: ARG002 - the port's; nothing here can take long
        """Take no more lines."""
        with self._lock:
            self._closed = True
