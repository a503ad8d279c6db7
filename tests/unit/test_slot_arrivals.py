"""A slot's child asks and maps: answers overtake orders, objects are loaded once, files in use are locked."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wren_worker.protocol.bulk import dump_bulk
from wren_worker.protocol.frames import FrameReader, Kind, pack_frame
from wren_worker.protocol.refs import Ref
from wren_worker.slot.capture import Channel
from wren_worker.slot.orders import Orders
from wren_worker.slot.refs import MODULE, Arrivals, RefUnavailable


class Daemon:
    """The other end of a child's socket."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.orders = Orders(Channel(theirs))
        self.theirs = theirs
        self._reader = FrameReader()

    def say(self, kind: Kind, body: bytes) -> None:
        self.socket.sendall(pack_frame(kind, body))

    def answer(self, **answer: object) -> None:
        self.say(Kind.NEED_ANSWER, json.dumps(answer).encode())

    def question(self) -> dict:
        [(kind, body)] = self._reader.feed(self.socket.recv(65536))
        assert kind == Kind.NEED
        return json.loads(body)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    made = Daemon()
    yield made
    made.socket.close()
    made.theirs.close()


def test_orders_come_one_by_one_and_end_with_the_daemon(daemon):
    daemon.say(Kind.JOB, b"j")
    daemon.say(Kind.CALLS, b"c")
    assert daemon.orders.next() == (Kind.JOB, b"j")
    assert daemon.orders.next() == (Kind.CALLS, b"c")
    daemon.socket.close()
    assert daemon.orders.next() is None


def test_an_answer_overtakes_the_orders_before_it_and_loses_none(daemon):
    daemon.say(Kind.JOB, b"j")
    assert daemon.orders.next() == (Kind.JOB, b"j")
    daemon.say(Kind.CALLS, b"1")
    daemon.say(Kind.CALLS, b"2")
    daemon.answer(number=1, path="p")
    daemon.say(Kind.CALLS, b"3")
    assert daemon.orders.ask({"ref": "x"}) == {"number": 1, "path": "p"}
    assert daemon.question() == {"number": 1, "ref": "x"}
    assert [daemon.orders.next() for _ in range(3)] == [(Kind.CALLS, body) for body in (b"1", b"2", b"3")]


def test_an_answer_that_nobody_waits_for_any_more_is_passed_over(daemon):
    daemon.answer(number=0, path="old")
    daemon.answer(number=1, path="new")
    assert daemon.orders.ask({})["path"] == "new"


def test_an_answer_in_pieces_is_waited_for(daemon):
    frame = pack_frame(Kind.NEED_ANSWER, json.dumps({"number": 1}).encode())

    def dribble():
        for at in range(len(frame)):
            daemon.socket.sendall(frame[at : at + 1])

    thread = threading.Thread(target=dribble)
    thread.start()
    assert daemon.orders.ask({}) == {"number": 1}
    thread.join()


def test_a_fork_of_the_child_cannot_ask(daemon):
    daemon.orders._channel.owner_pid = os.getpid() + 1
    with pytest.raises(RuntimeError, match="forked"):
        daemon.orders.ask({})


# --- objects ----------------------------------------------------------------------------------------------------------


class Files:
    """Answers as a daemon that has everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[dict] = []

    def store(self, value: object, name: str = "a") -> Path:
        path = self.folder / name
        path.write_bytes(b"".join(dump_bulk(value, what="it").pieces))
        return path

    def ask(self, question: dict) -> dict:
        self.asked.append(question)
        path = self.folder / str(question["ref"])
        return {"path": str(path)} if path.exists() else {"error": "it is gone"}


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path)


def fetch(arrivals: Arrivals, name: str, n_bytes: int = 1) -> object:
    return arrivals.fetch(name, n_bytes=n_bytes, bucket="b", kind="k")


def test_an_object_is_loaded_once(files):
    files.store([1, 2])
    arrivals = Arrivals(files.ask)
    assert fetch(arrivals, "a") == [1, 2]
    assert fetch(arrivals, "a") is fetch(arrivals, "a")
    assert files.asked == [{"ref": "a", "n_bytes": 1, "bucket": "b", "kind": "k"}]


def test_what_was_not_used_for_longest_goes_when_it_becomes_much(files):
    for name in "abc":
        files.store(name, name)
    arrivals = Arrivals(files.ask, kept_bytes=10)
    for name in ("a", "b", "a", "c", "a"):
        fetch(arrivals, name, 5)
    assert [question["ref"] for question in files.asked] == ["a", "b", "c"]
    fetch(arrivals, "b", 5)
    assert len(files.asked) == 4


def test_what_is_missing_is_a_typed_error(files):
    with pytest.raises(RefUnavailable, match="it is gone") as caught:
        fetch(Arrivals(files.ask), "none")
    assert caught.value.facts == {"sha256": "none", "bucket": "b"}


def test_bytes_of_another_kind_are_a_typed_error(files):
    (files.folder / "a").write_bytes(b"no such thing")
    with pytest.raises(RefUnavailable, match="cannot be read here"):
        fetch(Arrivals(files.ask), "a")


def test_a_file_that_was_dropped_just_then_is_asked_for_again(files):
    path = files.store("x")
    answers = iter([{"path": str(files.folder / "gone")}, {"path": str(path)}])
    assert fetch(Arrivals(lambda question: next(answers)), "a") == "x"
    with pytest.raises(RefUnavailable, match="no room"):
        fetch(Arrivals(lambda question: {"path": str(files.folder / "gone")}), "a")


def test_arrays_lie_in_the_mapped_file_which_is_locked_while_they_live(files):
    numpy = pytest.importorskip("numpy")
    path = files.store(numpy.arange(100_000))
    arrivals = Arrivals(files.ask, kept_bytes=0)
    array = fetch(arrivals, "a")
    assert (array == numpy.arange(100_000)).all()
    assert not array.flags.writeable
    assert str(path) in Path("/proc/self/maps").read_text() if sys.platform == "linux" else True
    descriptor = os.open(path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    arrivals._objects.clear()
    del array
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_once_installed_a_pickled_ref_becomes_the_object(files, monkeypatch):
    pickled = pickle.dumps({"deep": [Ref(sha256="a", n_bytes=1, bucket="b")]})
    files.store("the object")
    monkeypatch.setitem(sys.modules, MODULE, sys.modules[MODULE])  # put back afterwards
    Arrivals(files.ask).install()
    assert pickle.loads(pickled) == {"deep": ["the object"]}
    arrive = sys.modules[MODULE].arrive
    assert pickle.loads(pickle.dumps(arrive)) is arrive  # a call's own calls may carry references too
