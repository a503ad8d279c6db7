"""What slots ask for: objects that were put, fetched once for all slots of the instance and kept as files.

Questions and answers run on the loop's thread, which never waits; a few threads of its own fetch.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from wren_worker.daemon.events import Fetched, Inbox
from wren_worker.daemon.fetch import Mismatch, fetch_file
from wren_worker.daemon.slot import Slot
from wren_worker.errors import StoreError
from wren_worker.log import EventLog
from wren_worker.protocol.ports import ObjectStore
from wren_worker.protocol.refs import ref_key

__all__ = ["Needs"]

_FETCHERS = 3
_GIB = 1024**3
#: Source: S3 "Uploading objects", read 2026-11: an object has up to 50 TB.
_MOST_BYTES = 50 * 10**12
_SHA256_DIGITS = frozenset("0123456789abcdef")
#: The disk is never filled up to the last: the system and the slots need some.
_SPARE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Question:
    """Who asked: the answer bears the same number, and goes to no other child of the slot."""

    slot: Slot
    generation: int
    number: object


@dataclass(frozen=True, slots=True)
class _Wanted:
    sha256: str
    n_bytes: int
    bucket: str
    kind: str

    @property
    def well_formed(self) -> bool:
        """Return whether such an object may exist."""
        plain = len(self.sha256) == 64 and _SHA256_DIGITS.issuperset(self.sha256)
        return plain and 0 < self.n_bytes <= _MOST_BYTES


class Needs:
    """The instance's store of objects that were put.

    Args:
        store: The fleet's bucket.
        bucket: Its name.
        folder: Where the files go; what a predecessor left there is dropped.
        inbox: Where the fetchers report.
        log: For what was fetched, and what could not be.
        kept_bytes: Files that no slot uses are dropped, the longest unused first, to stay within this; None takes
            half of what the disk has free now, at least 1 GiB.
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        bucket: str,
        folder: Path,
        inbox: Inbox,
        log: EventLog,
        kept_bytes: int | None = None,
    ) -> None:
        self._store = store
        self._bucket = bucket
        self._folder = folder
        self._inbox = inbox
        self._log = log
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._kept_bytes = max(_GIB, shutil.disk_usage(folder).free // 2) if kept_bytes is None else kept_bytes
        self._files: OrderedDict[str, int] = OrderedDict()
        self._fetching: dict[str, tuple[_Wanted, list[_Question]]] = {}
        self._threads = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="wren-need")

    def take(self, slot: Slot, generation: int, body: bytes) -> None:
        """Take a slot's question; the answer follows, now or later. On the loop's thread."""
        try:
            told = json.loads(body)
            question = _Question(slot, generation, told["number"])
            wanted = _Wanted(str(told["ref"]), int(told["n_bytes"]), str(told["bucket"]), str(told["kind"])[:200])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return  # nothing of ours asks like this; the call runs into its timeout
        if wanted.bucket != self._bucket:
            self._refuse(question, f"it was put into {wanted.bucket}, this is {self._bucket}", wanted)
        elif not wanted.well_formed:
            self._refuse(question, "its reference is malformed", wanted)
        elif wanted.sha256 in self._files:
            self._files.move_to_end(wanted.sha256)
            self._answer(question, path=str(self._folder / wanted.sha256))
        elif wanted.sha256 in self._fetching:
            self._fetching[wanted.sha256][1].append(question)
        else:
            self._fetching[wanted.sha256] = wanted, [question]
            self._make_room(wanted.n_bytes)
            self._threads.submit(self._fetch, wanted)

    def fetched(self, fetched: Fetched) -> None:
        """Answer all who asked for an object. On the loop's thread."""
        wanted, questions = self._fetching.pop(fetched.sha256)
        if fetched.error:
            self._log.event("ref_not_fetched", key=ref_key(wanted.sha256), n_bytes=wanted.n_bytes, error=fetched.error)
            for question in questions:
                self._refuse(question, fetched.error, wanted)
            return
        self._log.event("ref_fetched", key=ref_key(wanted.sha256), n_bytes=wanted.n_bytes, n_waiting=len(questions))
        self._files[wanted.sha256] = wanted.n_bytes
        for question in questions:
            self._answer(question, path=str(self._folder / wanted.sha256))

    def _answer(self, question: _Question, **answer: object) -> None:
        question.slot.answer(question.generation, json.dumps({"number": question.number, **answer}).encode())

    def _refuse(self, question: _Question, reason: str, wanted: _Wanted) -> None:
        text = (
            f"The {wanted.kind} of {wanted.n_bytes} bytes that a Ref stands for is not to be had: {reason}. "
            "The bucket keeps what was put for 15 days; put it again, and pass the new Ref."
        )
        self._answer(question, error=text)

    # --- files --------------------------------------------------------------------------------------------------------

    def _fetch(self, wanted: _Wanted) -> None:
        error = ""
        try:
            fetch_file(
                self._store,
                ref_key(wanted.sha256),
                self._folder / wanted.sha256,
                length=wanted.n_bytes,
                sha256=wanted.sha256,
            )
        except (Mismatch, StoreError) as problem:
            error = str(problem).rstrip(".")
        except OSError as problem:
            error = f"the instance's disk has no room for it ({problem.strerror})"
        except Exception as problem:  # noqa: BLE001 - the loop must hear of it, or slots would wait for ever
            error = f"{type(problem).__name__}: {problem}"
        self._inbox.put(Fetched(sha256=wanted.sha256, error=error))

    def _make_room(self, n_bytes: int) -> None:
        """Drop files that no slot has mapped until there is room for ``n_bytes`` more, or none is left to drop."""
        coming = sum(wanted.n_bytes for wanted, _ in self._fetching.values())
        for sha256 in list(self._files):
            free = shutil.disk_usage(self._folder).free
            if sum(self._files.values()) + coming <= self._kept_bytes and free > n_bytes + _SPARE_BYTES:
                return
            if self._drop(self._folder / sha256):
                del self._files[sha256]

    @staticmethod
    def _drop(path: Path) -> bool:
        """Remove a file unless a slot uses it; a slot that is about to map it sees that it is gone, and asks again."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True
