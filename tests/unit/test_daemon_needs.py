"""What slots ask for: fetched once, checked, kept within bounds, never while somebody uses it."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wren_worker.daemon.events import Inbox
from wren_worker.daemon.fetch import Mismatch, fetch_file
from wren_worker.daemon.needs import Needs
from wren_worker.errors import StoreError
from wren_worker.log import NullLog
from wren_worker.protocol.envelope import sha256_hex
from wren_worker.protocol.refs import ref_key
from wren_worker.testing import MemoryStore


@dataclass(eq=False)
class Slot:
    answers: list[tuple[int, dict]] = field(default_factory=list)

    def answer(self, generation: int, body: bytes) -> None:
        self.answers.append((generation, json.loads(body)))


class Store(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.fetched: list[str] = []
        self.failure: Exception | None = None

    def fill(self, key, target, **options):
        self.fetched.append(key)
        assert self.gate.wait(20)
        if self.failure is not None:
            raise self.failure
        return super().fill(key, target, **options)


class Rig:
    def __init__(self, folder: Path) -> None:
        self.store = Store()
        self.inbox = Inbox()
        self.folder = folder
        self.needs = self.start()

    def start(self, **options) -> Needs:
        self.needs = Needs(store=self.store, bucket="b", folder=self.folder, inbox=self.inbox, log=NullLog(), **options)
        return self.needs

    def put(self, data: bytes) -> str:
        sha256 = sha256_hex(data)
        self.store.put(ref_key(sha256), data)
        return sha256

    def ask(self, slot: Slot, sha256: str, n_bytes: int, *, generation: int = 1, number: int = 1, **more) -> None:
        told = {"number": number, "ref": sha256, "n_bytes": n_bytes, "bucket": "b", "kind": "bytes", **more}
        self.needs.take(slot, generation, json.dumps(told).encode())

    def settle(self, n_events: int = 1) -> None:
        events = []
        while len(events) < n_events:
            events += self.inbox.take()
        for event in events:
            self.needs.fetched(event)

    def had(self, data: bytes) -> Path:
        slot = Slot()
        self.ask(slot, self.put(data), len(data))
        if not slot.answers:
            self.settle()
        return Path(slot.answers[0][1]["path"])

    def kept(self) -> set[bytes]:
        return {path.read_bytes() for path in self.folder.iterdir()}


@pytest.fixture
def rig(tmp_path) -> Rig:
    return Rig(tmp_path / "refs")


def test_an_object_is_fetched_and_told_to_who_asked(rig):
    slot, sha256 = Slot(), rig.put(b"x" * 1000)
    rig.ask(slot, sha256, 1000, generation=7, number=3)
    assert slot.answers == []
    rig.settle()
    path = str(rig.folder / sha256)
    assert slot.answers == [(7, {"number": 3, "path": path})]
    assert Path(path).read_bytes() == b"x" * 1000
    assert oct(Path(path).stat().st_mode)[-3:] == "400"


def test_slots_that_ask_for_the_same_share_one_fetch(rig):
    slots = [Slot() for _ in range(3)]
    rig.store.gate.clear()
    sha256 = rig.put(b"x")
    for slot in slots:
        rig.ask(slot, sha256, 1)
    rig.store.gate.set()
    rig.settle()
    late = Slot()
    rig.ask(late, sha256, 1)
    assert [len(slot.answers) for slot in (*slots, late)] == [1, 1, 1, 1]
    assert rig.store.fetched == [ref_key(sha256)]


def test_what_is_not_there_or_changed_is_said(rig):
    slot = Slot()
    rig.ask(slot, "0" * 64, 5)
    rig.settle()
    sha256 = rig.put(b"good")
    rig.store.put(ref_key(sha256), b"evil")
    rig.ask(slot, sha256, 4)
    rig.settle()
    errors = [answer["error"] for _, answer in slot.answers]
    assert "does not exist (any more)" in errors[0]
    assert "does not match its sha256" in errors[1]
    assert all("put it again" in error for error in errors)
    assert rig.kept() == set()


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (StoreError("S3 said no."), "S3 said no"),
        (OSError(28, "No space left on device"), "no room for it (No space left on device)"),
        (ValueError("odd"), "ValueError: odd"),
    ],
)
def test_a_fetch_that_fails_leaves_nothing_and_may_be_tried_again(rig, failure, text):
    slot, sha256 = Slot(), rig.put(b"x")
    rig.store.failure = failure
    rig.ask(slot, sha256, 1)
    rig.settle()
    assert text in slot.answers[0][1]["error"]
    assert rig.kept() == set()
    rig.store.failure = None
    rig.ask(slot, sha256, 1)
    rig.settle()
    assert "path" in slot.answers[1][1]


@pytest.mark.parametrize(
    ("sha256", "n_bytes", "more", "text"),
    [
        ("0" * 64, 1, {"bucket": "other"}, "it was put into other"),
        ("../../etc/passwd", 1, {}, "malformed"),
        ("0" * 63 + "/", 1, {}, "malformed"),
        ("0" * 64, 0, {}, "malformed"),
    ],
)
def test_a_question_that_cannot_be_is_refused_at_once(rig, sha256, n_bytes, more, text):
    slot = Slot()
    rig.ask(slot, sha256, n_bytes, **more)
    assert text in slot.answers[0][1]["error"]
    assert rig.store.fetched == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"number":1,"ref":"x","n_bytes":"y"}'])
def test_what_is_no_question_does_no_harm(rig, body):
    slot = Slot()
    rig.needs.take(slot, 1, body)
    assert slot.answers == []


def test_the_longest_unused_goes_first(rig):
    rig.start(kept_bytes=25)
    a, b = rig.had(b"a" * 10), rig.had(b"b" * 10)
    assert rig.had(b"a" * 10) == a
    rig.had(b"c" * 10)
    assert rig.kept() == {b"a" * 10, b"c" * 10}
    assert rig.had(b"b" * 10) == b
    assert len(rig.store.fetched) == 4


def test_what_a_slot_uses_stays(rig):
    rig.start(kept_bytes=15)
    used = rig.had(b"a" * 10)
    descriptor = os.open(used, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    rig.had(b"b" * 10)
    rig.had(b"c" * 10)
    assert rig.kept() == {b"a" * 10, b"c" * 10}
    os.close(descriptor)
    rig.had(b"d" * 10)
    assert rig.kept() == {b"d" * 10}


def test_a_predecessors_files_are_dropped(rig):
    rig.had(b"a")
    (rig.folder / ".fetching-x").write_bytes(b"half")
    rig.start()
    assert rig.kept() == set()


def test_a_file_of_the_instance_appears_whole_or_not_at_all(tmp_path):
    store = MemoryStore()
    store.put("k", b"0123456789")
    fetch_file(store, "k", tmp_path / "f", length=4, offset=3, sha256=sha256_hex(b"3456"))
    assert (tmp_path / "f").read_bytes() == b"3456"
    for length, offset, sha256 in ((4, 3, "0" * 64), (4, 8, sha256_hex(b"89"))):
        with pytest.raises(Mismatch):
            fetch_file(store, "k", tmp_path / "g", length=length, offset=offset, sha256=sha256)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["f"]
