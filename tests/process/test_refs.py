"""References through the real daemon and its slots: fetched once, mapped, and what happens when that goes wrong."""

from __future__ import annotations

import contextlib
import http.client
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rig import Rig

from wren_worker.client.refs import Putter
from wren_worker.clock import SystemClock
from wren_worker.errors import RefUnavailable
from wren_worker.protocol import records
from wren_worker.protocol.modules import LocalModules
from wren_worker.protocol.refs import Ref, ref_key
from wren_worker.protocol.serialize import load_outcome
from wren_worker.testing import MemoryStore


def put(rig: Rig, obj: object) -> Ref:
    """Put an object by hand: what a client does, and what it would upload."""
    store = MemoryStore()
    ref = Putter(store, bucket=rig.names.bucket, modules=LocalModules(), clock=SystemClock()).put(obj)
    rig.s3.put_object(Bucket=rig.names.bucket, Key=ref_key(ref.sha256), Body=store.get(ref_key(ref.sha256)))
    return ref


def values(found: dict[int, Any]) -> dict[int, object]:
    assert {one.status for one in found.values()} == {records.SUCCESS}, [one.value[:500] for one in found.values()]
    return {index: pickle.loads(one.value) for index, one in found.items()}


def error(one: Any) -> BaseException:
    loaded = load_outcome(one.status, one.value, job_id="j", call_index=0)
    assert loaded.exception is not None
    return loaded.exception


def test_a_ref_arrives_as_the_object_wherever_it_stands(rig: Rig):
    rig.start(slots="1")
    array = pytest.importorskip("numpy").arange(300_000)
    ref, text = put(rig, array), put(rig, "text")

    def f(item: dict, default=text) -> tuple:
        found = item["deep"][0][1]
        return item["i"], int(found.sum()), found.flags.writeable, default, text, id(found)

    found = values(rig.collect(rig.send(f, [{"i": i, "deep": [("x", ref)]} for i in range(6)]), 6))
    expected = (int(array.sum()), False, "text", "text")
    assert {index: value[1:5] for index, value in found.items()} == dict.fromkeys(range(6), expected)
    assert len({value[5] for value in found.values()}) == 1, "it was loaded more than once by a slot"
    assert len(rig.events("ref_fetched")) == 2


def test_two_slots_of_an_instance_share_one_fetch_and_one_file(rig: Rig):
    rig.start(slots="2")
    array = pytest.importorskip("numpy").arange(300_000)
    ref = put(rig, array)

    def f(item: list) -> tuple:
        time.sleep(0.3)  # so that both slots have calls
        maps = Path("/proc/self/maps").read_text().splitlines()
        return os.getpid(), {line.split()[-1] for line in maps if "/refs/" in line}

    found = values(rig.collect(rig.send(f, [[ref]] * 6, chunksize=1), 6))
    assert len({pid for pid, _ in found.values()}) == 2
    assert {path for _, paths in found.values() for path in paths} == {str(rig.folder / "work" / "refs" / ref.sha256)}
    assert [event["n_bytes"] for event in rig.events("ref_fetched")] == [ref.n_bytes]


def test_an_object_that_is_gone_or_changed_fails_its_calls_and_no_others(rig: Rig):
    rig.start(slots="1")
    gone = Ref(sha256="0" * 64, n_bytes=5, bucket=rig.names.bucket, kind="list")
    changed, good = put(rig, ["what was put"]), put(rig, ["good"])
    rig.s3.put_object(Bucket=rig.names.bucket, Key=ref_key(changed.sha256), Body=b"x" * changed.n_bytes)
    foreign = Ref(sha256="1" * 64, n_bytes=5, bucket="wren-of-another-fleet")

    job_id = rig.send(lambda item: item, [good, gone, changed, foreign, 5], retries=1)
    found = rig.collect(job_id, 5)
    assert values({index: found[index] for index in (0, 4)}) == {0: ["good"], 4: 5}
    errors = [error(found[index]) for index in (1, 2, 3)]
    assert [type(one) for one in errors] == [RefUnavailable] * 3
    assert "does not exist" in str(errors[0])
    assert "does not match its sha256" in str(errors[1])
    assert "wren-of-another-fleet" in str(errors[2])
    assert errors[0].sha256 == gone.sha256  # type: ignore[attr-defined]
    assert [found[index].attempt for index in (1, 2, 3)] == [1, 1, 1], "trying again finds the same"
    rig.until(lambda: rig.depth() == (0, 0))


def test_a_function_whose_closure_leads_nowhere_fails_every_call(rig: Rig):
    rig.start(slots="1")
    gone = Ref(sha256="0" * 64, n_bytes=5, bucket=rig.names.bucket, kind="list")
    found = rig.collect(rig.send(lambda x: (x, gone), range(3)), 3)
    assert [type(error(one)) for one in found.values()] == [RefUnavailable] * 3


# --- while the object is on its way -----------------------------------------------------------------------------------


class Gate:
    """Stands before the emulated AWS and holds requests for what was put until it is opened."""

    def __init__(self, endpoint: str) -> None:
        self.asked, self.open = threading.Event(), threading.Event()
        host = endpoint.removeprefix("http://")
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if "/refs/" in self.path:
                    gate.asked.set()
                    gate.open.wait(60)
                with contextlib.closing(http.client.HTTPConnection(host, timeout=60)) as there:
                    there.request(self.command, self.path, body, dict(self.headers))
                    answer = there.getresponse()
                    data = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                with contextlib.suppress(ConnectionError):  # whoever asked was killed
                    self.end_headers()
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.open.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def gate(rig: Rig, aws_endpoint: str) -> Iterator[Gate]:
    made = Gate(aws_endpoint)
    rig.environ["AWS_ENDPOINT_URL"] = made.url
    yield made
    made.close()


def local_first() -> Callable[[list], object]:
    def first(item: list) -> object:
        return item[0]

    return first  # a local function travels by value: slots have no module of tests


first = local_first()


def test_the_timeout_of_a_call_covers_its_wait(rig: Rig, gate: Gate):
    rig.start(slots="1")
    ref = put(rig, "it")
    late = rig.send(first, [[ref]], timeout=1.0)
    found = rig.collect(late, 1)
    assert found[0].error == "CallTimeout"
    gate.open.set()
    assert values(rig.collect(rig.send(first, [[ref]], timeout=30.0), 1)) == {0: "it"}


def test_what_needs_no_object_goes_on_while_another_slot_waits(rig: Rig, gate: Gate):
    rig.start(slots="2")
    waiting = rig.send(first, [[put(rig, "it")]])
    assert gate.asked.wait(20)
    assert values(rig.collect(rig.send(first, [[n] for n in range(20)]), 20)) == {n: n for n in range(20)}
    assert rig.outcomes(waiting) == {}
    gate.open.set()
    assert values(rig.collect(waiting, 1)) == {0: "it"}


def test_kill_9_of_a_waiting_slot_costs_an_attempt(rig: Rig, gate: Gate):
    rig.start(slots="1")
    ref = put(rig, "it")
    job_id = rig.send(first, [[ref], [ref], [3]], chunksize=3)
    assert gate.asked.wait(20)
    [child] = [process for process in rig.slot_processes() if process.parent().pid != rig.daemons[0].pid]
    child.kill()
    rig.until(lambda: len(rig.events("slot_ended")) == 1)
    gate.open.set()
    found = rig.collect(job_id, 3)
    assert values(found) == {0: "it", 1: "it", 2: 3}
    assert [found[index].attempt for index in range(3)] == [2, 1, 1]
    assert len(rig.events("ref_fetched")) == 1


def test_kill_9_of_the_daemon_during_a_fetch_leaves_nothing_behind(rig: Rig, gate: Gate):
    daemon = rig.start(slots="1", lease_time=2.0)
    job_id = rig.send(first, [[put(rig, "it")]])
    assert gate.asked.wait(20)
    folder = rig.folder / "work" / "refs"
    rig.until(lambda: any(path.name.startswith(".fetching-") for path in folder.iterdir()))
    daemon.kill()
    daemon.wait()
    gate.open.set()
    rig.start(slots="1", lease_time=2.0)
    assert values(rig.collect(job_id, 1)) == {0: "it"}
    assert [len(path.name) for path in folder.iterdir()] == [64]
