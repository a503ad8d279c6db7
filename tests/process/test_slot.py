"""A real keeper and real children, driven as the daemon drives them."""

from __future__ import annotations

import os
import pickle
import selectors
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cloudpickle
import psutil
import pytest

import wren_worker
from wren_worker.daemon.calls import CallTable, Run
from wren_worker.daemon.events import JobFiles
from wren_worker.daemon.slot import Ended, Finished, Given, Printed, Slot, SlotEvent
from wren_worker.protocol import records
from wren_worker.protocol.frames import pack_calls, split_sections

PROGRAM = Path(wren_worker.__file__).parent / "slot" / "__main__.py"
MARK = "WREN_TEST_SLOT"


class Bench:
    """One slot, and what it said."""

    def __init__(self, folder: Path) -> None:
        self.selector = selectors.DefaultSelector()
        self.folder = folder
        environ = {"PATH": os.environ["PATH"], MARK: str(folder)}
        self.slot = Slot(
            number=0,
            folder=folder / "slot",
            modules=folder / "modules",
            command=(sys.executable, "-P", str(PROGRAM)),
            environ=environ,
            selector=self.selector,
        )
        self.slot.start_keeper()
        self.events: list[SlotEvent] = []

    def run(self, function: Callable[..., object], *values: object, job: str = "job-1", modules: bytes = b"") -> None:
        files = JobFiles(
            job_id=job,
            function=cloudpickle.dumps(function),
            modules=modules,
            modules_sha256="m" if modules else "",
            env={},
        )
        args = pack_calls((i, 1, cloudpickle.dumps(((value,), {}))) for i, value in enumerate(values))
        self.give(files, args, len(values))

    def give(self, files: JobFiles, args: bytes, n_calls: int) -> None:
        table = CallTable.read(args, n_bytes=len(args), first_call=0, n_calls=n_calls)
        run = Run(range(n_calls), {})
        self.slot.give(files, run, table.frame(args, run), "handle")

    def until(self, done: Callable[[], bool], timeout: float = 20.0) -> None:
        deadline = time.monotonic() + timeout
        while not done():
            assert time.monotonic() < deadline, self.events
            for key, mask in self.selector.select(0.05):
                self.events += list(key.data(mask))

    def finished(self) -> dict[int, tuple[int, bytes]]:
        found = {}
        for event in self.events:
            if isinstance(event, Finished):
                for record in [*event.plain.values(), *(record for _, record in event.others)]:
                    head = records.HEAD.unpack_from(record)
                    found[head[0]] = head[1], record[records.HEAD.size : records.HEAD.size + head[9]]
        return found

    def results(self, n: int) -> dict[int, object]:
        self.until(lambda: len(self.finished()) >= n)
        return {
            index: pickle.loads(value) if status == records.SUCCESS else split_sections(value)[0]
            for index, (status, value) in self.finished().items()
        }

    def ended(self) -> list[Ended]:
        return [event for event in self.events if isinstance(event, Ended)]

    def printed(self) -> list[tuple[int | None, int, bytes]]:
        return [
            (event.given.call_index if event.given else None, event.stream, event.data)
            for event in self.events
            if isinstance(event, Printed)
        ]

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                pass
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.slot.stop()
    made.selector.close()
    deadline = time.monotonic() + 5
    while made.processes() and time.monotonic() < deadline:
        time.sleep(0.02)
    left = made.processes()
    for process in left:
        process.kill()
    assert left == []


def test_values_come_back_in_order_of_their_calls(bench):
    bench.run(lambda x: x * 2, 1, 2, 3)
    assert bench.results(3) == {0: 2, 1: 4, 2: 6}
    assert bench.slot.free


def test_a_slot_needs_nothing_of_ours_installed(bench):
    bench.run(lambda _: sorted(name for name in __import__("sys").modules if name.startswith("wren_worker")), 0)
    # a module made on the spot stands where pickled references look for what to call
    assert bench.results(1) == {0: ["wren_worker.protocol.arrival"]}


def test_output_is_tagged_and_in_order_from_python_and_from_below(bench):
    def speak(x: int) -> None:
        print("out", x)
        print("err", x, file=sys.stderr)
        os.write(1, f"low {x}\n".encode())
        os.system(f"echo program {x}")

    bench.run(speak, 0, 1)
    bench.results(2)
    for index in (0, 1):
        said = [(stream, data) for call, stream, data in bench.printed() if call == index]
        assert said[:2] == [(records.STDOUT, f"out {index}\n".encode()), (records.STDERR, f"err {index}\n".encode())]
        assert b"".join(data for _, data in said[2:]) == f"low {index}\nprogram {index}\n".encode()


@pytest.mark.parametrize(
    ("function", "status"),
    [
        (lambda _: os._exit(3), 3),
        (lambda _: os.kill(os.getpid(), signal.SIGSEGV), -signal.SIGSEGV),
        (lambda _: os.closerange(3, 4096), 1),
    ],
    ids=["exit", "segfault", "closes our descriptors"],
)
def test_a_crash_is_told_with_the_call_it_hit_and_the_slot_serves_on(bench, function, status):
    bench.run(lambda x: function(x) if x == 1 else x, 0, 1, 2)
    bench.until(lambda: bool(bench.ended()))
    (end,) = bench.ended()
    assert end.running == Given(receipt_handle="handle", call_index=1, attempt=1)
    # the finished neighbour is either told or given back to be run again; it pays nothing
    assert {given.call_index for given in end.left} | bench.finished().keys() == {0, 2}
    assert end.status == status
    bench.events.clear()
    bench.run(lambda x: x, "again")
    assert bench.results(1) == {0: "again"}


def test_a_call_that_kills_its_keeper_ends_itself_and_the_slot_serves_on(bench):
    bench.run(lambda _: os.kill(os.getppid(), signal.SIGKILL) or time.sleep(300), 0)
    bench.until(lambda: bool(bench.ended()))
    assert bench.ended()[0].running == Given(receipt_handle="handle", call_index=0, attempt=1)
    bench.events.clear()
    bench.run(lambda x: x, "again")
    assert bench.results(1) == {0: "again"}


def test_a_finished_neighbour_is_told_while_a_long_call_runs(bench):
    bench.run(lambda x: time.sleep(x) or x, 0, 30)
    bench.until(lambda: 0 in bench.finished(), timeout=5.0)
    assert bench.slot.running() is not None
    assert bench.slot.running()[0].call_index == 1


def test_term_ignored_then_kill_ends_it_with_everything_it_started(bench):
    def stubborn(_: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.system("setsid sleep 300 & sleep 301 &")
        if os.fork() == 0:
            os.setsid()
            time.sleep(300)
        time.sleep(300)

    bench.run(stubborn, 0)
    bench.until(lambda: len(bench.processes()) >= 5)
    bench.slot.kill(signal.SIGTERM, "timeout")
    bench.until(lambda: True)
    time.sleep(0.2)
    assert not bench.ended()
    bench.slot.kill(signal.SIGKILL, "timeout")
    bench.until(lambda: bool(bench.ended()))
    assert bench.ended()[0].status == -signal.SIGKILL
    assert [process.pid for process in bench.processes()] == [bench.slot.keeper_pid]


def test_another_job_gets_a_fresh_child_and_the_same_job_keeps_its_own(bench):
    def remember(_: int) -> tuple[int, bool]:
        seen = hasattr(sys, "wren_seen")
        sys.wren_seen = True  # type: ignore[attr-defined]
        return os.getpid(), seen

    pids = []
    for job, expected in (("a", False), ("a", True), ("b", False)):
        bench.events.clear()
        bench.run(remember, 0, job=job)
        pid, seen = bench.results(1)[0]
        assert seen is expected
        pids.append(pid)
    assert pids[0] == pids[1] != pids[2]


def test_what_a_call_changes_around_it_is_put_back(bench, tmp_path):
    def change(x: int) -> tuple[object, ...]:
        import random

        state = os.environ.get("LEFT"), os.getcwd(), os.umask(0o22), random.random()
        os.environ["LEFT"] = "behind"
        os.chdir("/")
        os.umask(0)
        random.seed(0)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        return (*state, signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []) and x)

    bench.run(change, 1, 2, 3)
    states = bench.results(3)
    assert {state[:3] for state in states.values()} == {(None, str(tmp_path / "slot" / "cwd"), 0o22)}
    assert len({state[3] for state in states.values()}) == 3


def test_exceptions_keep_their_type_even_with_arguments_of_their_own(bench):
    class TwoArguments(Exception):
        def __init__(self, a: int, b: int) -> None:
            super().__init__(f"{a} and {b}")
            self.a, self.b = a, b

    class Stubborn(Exception):
        def __reduce__(self):  # type: ignore[no-untyped-def]
            raise TypeError("not me")

    def fail(x: int) -> None:
        raise (TwoArguments(1, 2), Stubborn("s"), KeyError("k"), SystemExit(4))[x]

    bench.run(fail, 0, 1, 2, 3)
    found = bench.results(4)
    assert [found[i]["how"] for i in range(4)] == ["parts", "parts", "pickle", "pickle"]
    assert "1 and 2" in found[0]["traceback"]
    assert "slot/child.py" not in found[0]["traceback"]


def test_what_cannot_be_pickled_is_told_with_its_repr(bench):
    bench.run(lambda _: (x for x in ()), 0)
    found = bench.results(1)[0]
    assert found["unpicklable_value"]
    assert "generator object" in found["repr"]


def test_a_function_that_cannot_be_loaded_fails_each_call_with_the_reason(bench):
    files = JobFiles(job_id="x", function=b"cno_such_module_here\nf\n.", modules=b"", modules_sha256="", env={})
    args = pack_calls((i, 1, cloudpickle.dumps(((), {}))) for i in range(2))
    bench.give(files, args, 2)
    assert [bench.results(2)[i]["type"] for i in (0, 1)] == ["ModuleNotFoundError"] * 2


def test_a_fork_of_the_call_that_returns_is_not_a_second_outcome(bench):
    bench.run(lambda _: os.fork() and os.getpid(), 0)
    assert bench.results(1)[0] != 0
    bench.run(lambda _: "next", 0, job="b")
    bench.until(lambda: len([e for e in bench.events if isinstance(e, Finished)]) == 2)


def test_large_values_are_left_in_a_file(bench, tmp_path):
    bench.run(lambda n: b"x" * n, 3_000_000)
    bench.until(lambda: bool(bench.finished()))
    (event,) = [event for event in bench.events if isinstance(event, Finished)]
    ((_, record),) = event.others
    assert record[records.FLAGS_AT] & records.FLAG_ELSEWHERE
    (file,) = (tmp_path / "slot" / "outbox").iterdir()
    assert pickle.loads(file.read_bytes()) == b"x" * 3_000_000


def test_kill_9_of_the_daemon_ends_its_slots(tmp_path):
    code = (
        "import sys; sys.path[:0] = [sys.argv[2], sys.argv[3]]\n"
        "from pathlib import Path\n"
        "from test_slot import Bench\n"
        "import time\n"
        "bench = Bench(Path(sys.argv[1]))\n"
        "bench.run(lambda x: time.sleep(300), 0)\n"
        "bench.until(lambda: bench.slot.running() is not None)\n"
        "print('up', flush=True)\n"
        "time.sleep(300)\n"
    )
    import subprocess

    paths = [str(tmp_path), str(Path(__file__).parent), str(Path(wren_worker.__file__).parent.parent)]
    daemon = subprocess.Popen([sys.executable, "-c", code, *paths], stdout=subprocess.PIPE, cwd=tmp_path)
    assert daemon.stdout is not None
    assert daemon.stdout.readline() == b"up\n"
    probe = Bench.__new__(Bench)
    probe.folder = tmp_path
    assert len(probe.processes()) == 2
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()
    deadline = time.monotonic() + 2.0
    while probe.processes():
        assert time.monotonic() < deadline
        time.sleep(0.01)
