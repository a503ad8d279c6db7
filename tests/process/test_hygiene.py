"""What calls do to their process, their machine and their output costs them, and neither neighbour nor daemon."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import psutil
import pytest
from rig import Rig

from wren_worker.protocol import records
from wren_worker.protocol.frames import split_sections

# what calls run lies here, and no slot can import it
cloudpickle.register_pickle_by_value(sys.modules[__name__])

MIB = 1024 * 1024


def value(one) -> object:  # type: ignore[no-untyped-def]
    assert one.status == records.SUCCESS, one.value
    return pickle.loads(one.value)


def exits(_: int) -> None:
    os._exit(0)


def aborts(_: int) -> None:
    os.abort()


def segfaults(_: int) -> None:
    ctypes.string_at(0)


def closes_everything(_: int) -> None:
    os.closerange(0, 4096)


def puts_its_own_in_the_place_of_ours(_: int) -> None:
    """Every descriptor becomes one end of a socket that nobody serves."""
    ours, theirs = socket.socketpair()
    for fd in range(3, 64):
        if fd not in (ours.fileno(), theirs.fileno()):
            try:
                os.fstat(fd)
                os.dup2(ours.fileno(), fd)
            except OSError:
                pass
    ours.detach()
    theirs.detach()


def writes_garbage_to_us(_: int) -> None:
    for fd in range(3, 64):
        try:
            if os.path.realpath(f"/proc/self/fd/{fd}").split("/")[-1].startswith("socket:"):
                os.write(fd, b"\xff" * 64)
        except OSError:
            pass
    time.sleep(60)


def recurses_without_end(_: int) -> None:
    sys.setrecursionlimit(10**9)

    def again(n: int) -> int:
        return again(n + 1) + again(n + 2)

    again(0)


def pickles_to_death(_: int) -> object:
    class Deadly:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            os.kill(os.getpid(), signal.SIGKILL)

    return Deadly()


@pytest.mark.parametrize(
    "bad",
    [
        exits,
        aborts,
        segfaults,
        closes_everything,
        puts_its_own_in_the_place_of_ours,
        writes_garbage_to_us,
        pickles_to_death,
    ],
)
def test_a_call_that_ends_its_process_fails_alone_after_three_attempts(rig: Rig, bad: Callable[[int], object]):
    rig.start(slots="1")
    found = rig.collect(rig.send(lambda x: bad(x) if x == 2 else x, range(5), chunksize=5, timeout=30.0), 5)
    assert found[2].error == "SlotCrashed"
    assert found[2].attempt == 3
    assert [value(found[i]) for i in (0, 1, 3, 4)] == [0, 1, 3, 4]
    assert rig.daemons[0].poll() is None
    rig.until(lambda: rig.depth() == (0, 0))


def test_recursion_without_end_is_the_users_exception_or_a_crash_of_its_own(rig: Rig):
    rig.start(slots="2", memory_bytes=400 * MIB)

    def deep(x: int) -> object:
        if x == 1:
            nested: list[object] = []
            for _ in range(100_000):
                nested = [nested]
            return nested  # which nobody can pickle
        if x == 2:
            return deep(x)
        return recurses_without_end(x) if x == 3 else x

    found = rig.collect(rig.send(deep, range(5)), 5, timeout=60.0)
    assert (value(found[0]), value(found[4])) == (0, 4)
    assert split_sections(found[1].value)[0]["unpicklable_value"]
    assert split_sections(found[2].value)[0]["type"] == "RecursionError"
    assert found[3].error == "OutOfMemory"  # Python's frames are on the heap


def test_a_loop_in_c_that_ignores_sigterm_is_ended_by_its_timeout(rig: Rig):
    rig.start(slots="1")

    def stuck(x: int) -> int:
        if x == 1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            ctypes.PyDLL(None).sleep(300)  # and holds the interpreter's lock: no thread of the process runs
        return x

    found = rig.collect(rig.send(stuck, range(3), chunksize=3, timeout=1.0), 3)
    assert found[1].error == "CallTimeout"
    assert (value(found[0]), value(found[2])) == (0, 2)


def test_a_call_that_stops_its_keeper_is_ended_by_its_timeout_all_the_same(rig: Rig):
    rig.start(slots="1")

    def stops(x: int) -> int:
        if x == 0:
            os.kill(os.getppid(), signal.SIGSTOP)
            time.sleep(300)
        return x

    found = rig.collect(rig.send(stops, range(2), timeout=1.0), 2, timeout=60.0)
    assert found[0].error == "CallTimeout"
    assert value(found[1]) == 1


def daemonise(path: str) -> None:
    """Start a process the way daemons start: two forks, a session of its own, everything closed."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 4096)
            Path(path).write_text(str(os.getpid()))
            time.sleep(300)
        os._exit(0)


def pid_in(path: Path) -> int:
    return int(path.read_text() or 0) if path.exists() else 0


def test_what_a_job_leaves_running_is_gone_before_its_slot_serves_another(rig: Rig):
    rig.start(slots="1")
    mark = rig.folder / "grandchild"
    rig.collect(rig.send(lambda _: daemonise(str(mark)), [0]), 1)
    rig.until(lambda: pid_in(mark) > 0)
    pid = pid_in(mark)
    assert psutil.pid_exists(pid)
    found = rig.collect(rig.send(lambda _: psutil.pid_exists(pid), [0]), 1)
    assert value(found[0]) is False


def test_a_keeper_killed_by_its_call_leaves_nothing_that_the_call_had_started(rig: Rig):
    rig.start(slots="1")
    mark = rig.folder / "grandchild"

    def f(_: int) -> None:
        daemonise(str(mark))
        while not mark.exists():
            time.sleep(0.01)
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)

    found = rig.collect(rig.send(f, [0], max_attempts=1), 1)
    assert found[0].error == "SlotCrashed"
    rig.until(lambda: not psutil.pid_exists(pid_in(mark)), timeout=20.0)


def test_whatever_calls_left_running_ends_with_the_daemon_killed_stopped_or_with_its_keepers_stopped(rig: Rig):
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP):
        daemon = rig.start(slots="2")
        mark = rig.folder / f"grandchild{how}"
        rig.collect(rig.send(lambda _, mark=mark: daemonise(str(mark)), [0]), 1)
        rig.until(lambda mark=mark: pid_in(mark) > 0)
        if how == signal.SIGSTOP:
            for process in rig.slot_processes():
                process.suspend()
        daemon.send_signal(signal.SIGKILL if how == signal.SIGSTOP else how)
        daemon.wait(20)
        rig.until(lambda: rig.slot_processes() == [], timeout=10.0)


def test_a_new_daemon_ends_what_one_left_that_was_killed_with_its_keepers(rig: Rig):
    daemon = rig.start(slots="1")
    mark = rig.folder / "grandchild"
    rig.collect(rig.send(lambda _: daemonise(str(mark)), [0]), 1)
    rig.until(lambda: pid_in(mark) > 0)
    daemon.send_signal(signal.SIGSTOP)  # so that it does not mend what comes next
    for keeper in psutil.Process(daemon.pid).children():
        keeper.kill()
    daemon.kill()
    daemon.wait()
    assert psutil.pid_exists(pid_in(mark))
    rig.start(slots="1")
    rig.until(lambda: not psutil.pid_exists(pid_in(mark)), timeout=20.0)


def test_a_fork_bomb_is_gone_when_its_call_is_ended(rig: Rig):
    rig.start(slots="2")

    def bomb(x: int) -> int:
        if x:
            return x
        for _ in range(5):  # 2^5 processes, each in a session of its own
            if os.fork() == 0:
                os.setsid()
        while True:
            time.sleep(1)

    job_id = rig.send(bomb, range(4), chunksize=4, timeout=10.0)
    rig.until(lambda: len(rig.slot_processes()) > 20)
    found = rig.collect(job_id, 4)
    assert found[0].error == "CallTimeout"
    assert [value(found[i]) for i in (1, 2, 3)] == [1, 2, 3]
    rig.until(lambda: len(rig.slot_processes()) <= 4, timeout=20.0)


def test_a_flood_of_output_is_bounded_and_costs_neither_neighbour_nor_daemon(rig: Rig):
    daemon = rig.start(slots="2")

    def flood(x: int) -> int:
        if x == 0:
            line = "y" * 1023 + "\n"
            for _ in range(100 * 1024):
                print(line, end="")
            for _ in range(100):
                os.write(1, b"z" * MIB)
        return x

    job_id = rig.send(flood, range(2), chunksize=1, timeout=60.0)
    peak = 0
    deadline = time.monotonic() + 60
    while len(rig.outcomes(job_id)) < 2:
        assert time.monotonic() < deadline
        peak = max(peak, psutil.Process(daemon.pid).memory_info().rss)
        time.sleep(0.05)
    flooded = rig.outcomes(job_id)[0]
    assert flooded.flags & records.FLAG_OUTPUT_TRUNCATED
    assert flooded.flags & records.FLAG_ELSEWHERE
    assert b'"length": 1048' in flooded.value  # 10 MiB are kept, of 200
    assert peak < 400 * MIB
    assert daemon.poll() is None


def test_exceptions_and_values_of_any_size_and_kind_come_through_or_say_why(rig: Rig):
    rig.start()

    class Unruly(Exception):
        def __repr__(self) -> str:
            raise ValueError("no repr")

        def __str__(self) -> str:
            raise ValueError("no str")

        def __reduce__(self):  # type: ignore[no-untyped-def]
            raise ValueError("no pickle")

    def f(x: int) -> object:
        if x == 0:
            raise ValueError("x" * 50 * MIB)
        if x == 1:
            raise Unruly
        if x == 2:
            return (i for i in ())
        if x == 3:
            return b"x" * 50 * MIB
        return x

    job_id = rig.send(f, range(5), chunksize=5)
    found = rig.collect(job_id, 5)
    assert found[0].status == records.FAILURE
    assert found[0].flags & records.FLAG_ELSEWHERE
    header = split_sections(found[1].value)[0]
    assert header["type"].split(".")[-1] == "Unruly"
    assert header["repr"] == "<Unruly, whose repr raises ValueError>"
    assert split_sections(found[2].value)[0]["unpicklable_value"]
    assert found[3].flags & records.FLAG_ELSEWHERE
    assert value(found[4]) == 4


# --- memory ----------------------------------------------------------------------------------------------------------


def grow(n_bytes: int) -> None:
    held = []
    for _ in range(n_bytes // (16 * MIB)):
        held.append(bytearray(os.urandom(4096)) * (16 * MIB // 4096))
        time.sleep(0.02)
    time.sleep(60)


def test_a_call_that_takes_more_than_there_is_ends_alone_with_what_it_held(rig: Rig):
    daemon = rig.start(slots="2", memory_bytes=300 * MIB)

    def f(x: int) -> int:
        if x == 1:
            grow(2048 * MIB)
        time.sleep(0.5)
        return x

    job_id = rig.send(f, range(4), chunksize=2)
    found = rig.collect(job_id, 4)
    assert found[1].error == "OutOfMemory"
    assert found[1].attempt == 1  # not retried
    assert b"a slot's share is 150 MiB" in found[1].value
    assert [value(found[i]) for i in (0, 2, 3)] == [0, 2, 3]
    assert daemon.poll() is None
    assert rig.events("slot_ended")[0]["why"] == "memory"


def test_what_a_call_starts_counts_as_its_own(rig: Rig):
    rig.start(slots="2", memory_bytes=300 * MIB)

    def f(_: int) -> None:
        subprocess.run(
            [sys.executable, "-c", "b = bytearray(b'x' * (600 << 20)); import time; time.sleep(60)"], check=False
        )

    found = rig.collect(rig.send(f, [0]), 1)
    assert found[0].error == "OutOfMemory"


def test_a_slot_may_take_more_than_its_share_while_others_leave_it(rig: Rig):
    rig.start(slots="2", memory_bytes=600 * MIB)

    def f(_: int) -> int:
        held = bytearray(400 * MIB)
        held[::4096] = b"x" * (len(held) // 4096)
        time.sleep(2)
        return len(held)

    assert value(rig.collect(rig.send(f, [0]), 1)[0]) == 400 * MIB


# --- disk ------------------------------------------------------------------------------------------------------------


def small_disk(rig: Rig, size: str, *, filled: str = "0") -> list[str]:
    """Return what runs a program with a small file system of its own as the work folder."""
    work = rig.folder / "work"
    script = f'mount -t tmpfs -o size={size} none {work} && head -c {filled} /dev/zero > {work}/filler && exec "$@"'
    under = ["unshare", "-m" if os.geteuid() == 0 else "-Urm", "sh", "-c", script, "sh"]
    if subprocess.run([*under, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives a process no file systems of its own")
    return under


def test_a_full_disk_fails_the_calls_that_need_it_and_no_others(rig: Rig):
    daemon = rig.start(slots="1", under=small_disk(rig, "8m"))

    def f(x: int) -> object:
        if x == 1:
            Path("mine").write_bytes(bytes(20 * MIB))
        if x == 3:
            return os.urandom(20 * MIB)  # too large for a frame, so it goes by the disk
        if x == 4:
            for _ in range(20):
                print("z" * MIB, end="")  # an outcome of its own, kept on the disk
        return x

    job_id = rig.send(f, range(6), chunksize=1)
    found = rig.collect(job_id, 6)
    assert [value(found[i]) for i in (0, 2, 5)] == [0, 2, 5]
    for index in (1, 3):
        assert found[index].status == records.FAILURE
        header = split_sections(found[index].value)[0]
        assert header["type"] == "OSError"
        assert "No space left" in header["repr"]
    assert found[4].error == "ResultNotSerializable"
    assert b"No space left" in found[4].value
    assert daemon.poll() is None
    beat = (rig.folder / "run" / "heartbeat").read_text()
    rig.until(lambda: (rig.folder / "run" / "heartbeat").read_text() != beat, timeout=20.0)
    rig.until(lambda: rig.depth() == (0, 0))


def test_below_its_floor_of_free_space_an_instance_receives_nothing_and_goes(rig: Rig):
    rig.start(under=small_disk(rig, "8m", filled="7900k"), idle_timeout=2.0)
    rig.send(int, [1])
    rig.until((rig.folder / "systemctl.log").exists, timeout=15.0)
    assert rig.depth() == (1, 0)
    assert rig.events("chunk_received") == []
    assert len(rig.events("disk_full")) == 1


def test_what_a_job_wrote_goes_with_its_child_and_there_is_room_again(rig: Rig):
    rig.start(slots="1", under=small_disk(rig, "8m"))

    def f(x: int) -> int:
        if x == 0:
            with Path("big").open("wb") as file, contextlib.suppress(OSError):
                file.write(bytes(9 * MIB))
        return x

    assert value(rig.collect(rig.send(f, [0]), 1)[0]) == 0
    rig.until(lambda: bool(rig.events("disk_full")))
    assert value(rig.collect(rig.send(f, [1]), 1)[0]) == 1
    assert len(rig.events("disk_has_room")) == 1


def test_a_job_does_not_find_the_files_of_another(rig: Rig):
    rig.start(slots="1")

    def f(_: int) -> list[str]:
        found = os.listdir()
        Path("left").write_text("behind")
        return found

    first, second = rig.send(f, range(2), chunksize=1), rig.send(f, range(1))
    found = [value(one) for _, one in sorted(rig.collect(first, 2).items())]
    assert [value(one) for one in rig.collect(second, 1).values()] == [[]]
    assert found in ([[], ["left"]], [["left"], []], [[], []])


def test_a_disk_that_becomes_read_only_takes_no_more_work(rig: Rig):
    daemon = rig.start(under=small_disk(rig, "8m"), idle_timeout=2.0)
    assert value(rig.collect(rig.send(int, [1]), 1)[0]) == 1
    remount = ["nsenter", "-t", str(daemon.pid), "-m", "mount", "-o", "remount,ro", str(rig.folder / "work")]
    if subprocess.run(remount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody into another's file systems")
    rig.until(lambda: bool(rig.events("disk_full")) or (rig.folder / "systemctl.log").exists())
    rig.send(int, [1])
    rig.until((rig.folder / "systemctl.log").exists, timeout=15.0)
    assert rig.depth() == (1, 0)
    assert "read-only" in rig.events("disk_full")[0]["error"]
