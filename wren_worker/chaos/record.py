"""What happened, in one order: requests through the proxy, and what was done to processes beside them."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from wren_worker.protocol.model import ResultObject

__all__ = ["Delivery", "Entry", "Note", "Record"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message as a receiver got it; ``job_id`` is "" when the body is no chunk."""

    message_id: str
    receipt_handle: str
    receive_count: int
    job_id: str = ""
    chunk_id: str = ""
    first_call: int = 0
    n_calls: int = 0


@dataclass(slots=True, kw_only=True)
class Entry:
    """One request.

    ``began`` and ``applied`` are places in the one order of all events, ``applied`` 0 when AWS never got the request;
    ``status`` is AWS's own answer (0: none), ``told`` what the caller was told (0: nothing whole). Times are seconds
    of the monotonic clock. ``asked`` are the receipt handles that it names, ``handles`` those that AWS accepted,
    ``result`` is the head of the result object that it writes.
    """

    began: int
    connection: int
    caller: str
    operation: str
    key: str
    began_time: float
    applied: int = 0
    applied_time: float = 0.0
    ended_time: float = 0.0
    status: int = 0
    told: int = 0
    injected: str = ""
    sent_bytes: int = 0
    told_bytes: int = 0
    n_entries: int = 1
    lease_time: float = 0.0
    asked: tuple[str, ...] = ()
    handles: tuple[str, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    conditional: bool = False
    result: ResultObject | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that happened beside the requests: ``kind`` to ``whom`` (an instance id, "client", or "")."""

    place: int
    moment: float
    kind: str
    whom: str = ""
    detail: str = ""


@dataclass(slots=True)
class Record:
    """Everything in order. Written by the proxy's thread, read and noted in by any."""

    _places: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    entries: list[Entry] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def place(self) -> int:
        """Return the next place in the order."""
        return next(self._places)

    def add(self, entry: Entry) -> None:
        """Append a request that begins."""
        self.entries.append(entry)

    def note(self, kind: str, whom: str = "", detail: str = "") -> Note:
        """Append what happened beside the requests."""
        with self._lock:
            made = Note(place=self.place(), moment=time.monotonic(), kind=kind, whom=whom, detail=detail)
            self.notes.append(made)
        return made

    def of(self, operation: str = "*", key: str = "*", caller: str = "*") -> list[Entry]:
        """Return the requests that match; the patterns are those of ``fnmatch``."""
        return [
            entry
            for entry in list(self.entries)
            if fnmatchcase(entry.operation, operation)
            and fnmatchcase(entry.key, key)
            and fnmatchcase(entry.caller, caller)
        ]

    def injected(self) -> Counter[str]:
        """Return how often each fault was injected into requests."""
        return Counter(entry.injected for entry in list(self.entries) if entry.injected)

    def counts(self) -> Counter[str]:
        """Return how many requests were made, by operation."""
        return Counter(entry.operation for entry in list(self.entries))
