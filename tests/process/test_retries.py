"""Retries on the real daemon: what is run again, how soon, for what, and what is told of it; three budgets apart."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

from rig import Rig

from wren_worker.protocol import records
from wren_worker.protocol.frames import split_sections
from wren_worker.protocol.model import result_key


def test_a_call_that_fails_at_first_is_run_again_and_its_story_told(rig: Rig):
    rig.start()
    mark = str(rig.folder / "tries")

    def f(x: int) -> int:
        print("try of", x)
        with open(mark, "a") as file:
            file.write(f"{x}\n")
        if x == 1 and Path(mark).read_text().count("1\n") < 3:
            raise ConnectionError("not yet")
        return x

    found = rig.collect(rig.send(f, range(3), retries=5, retry_delay=0.05), 3)
    assert [pickle.loads(found[i].value) for i in range(3)] == [0, 1, 2]
    assert found[1].attempt == 3
    assert [(one["attempt"], one["end"]) for one in found[1].story] == [
        (1, "ConnectionError('not yet')"),
        (2, "ConnectionError('not yet')"),
    ]
    starts = [*(one["start"] for one in found[1].story), found[1].start]
    assert starts == sorted(starts)
    assert abs(starts[0] - time.time()) < 60
    assert found[1].output == [(records.STDOUT, b"try of 1\n")]  # the last attempt's
    assert (found[0].attempt, found[0].story) == (1, [])


def test_finished_neighbours_do_not_wait_for_one_that_backs_off(rig: Rig):
    rig.start()
    mark = str(rig.folder / "tries")

    def f(x: int) -> int:
        if x == 2:
            with open(mark, "a") as file:
                file.write("x")
            if Path(mark).stat().st_size < 4:
                raise OSError("again")
        return x

    # full jitter: the waits add up to 0 … 1 + 2 + 4 s; a chunk is not split for its length before 3 s
    job_id = rig.send(f, range(6), chunksize=6, retries=3, retry_delay=1.0)
    rig.until(lambda: len(rig.outcomes(job_id)) >= 5)
    found = rig.collect(job_id, 6)
    assert found[0].result.call_index is None
    waits = [event["delay_time"] for event in rig.events("call_waits")]
    assert len(waits) == 3
    assert all(0 <= wait <= 2**k for k, wait in enumerate(waits))
    if max(waits) > 0.2:
        assert found[0].result.left_out == ((2, 3),)
        assert found[2].result.call_index == 2
    assert found[2].attempt == 4
    rig.until(lambda: rig.depth() == (0, 0))


def test_the_filter_decides_by_class_and_base_and_what_cannot_change_is_not_run_again(rig: Rig):
    rig.start()
    tries = str(rig.folder / "tries")

    class Mine(ConnectionError):
        pass

    def f(x: int) -> object:
        with open(tries, "a") as file:
            file.write(f"{x}\n")
        if x == 0:
            raise Mine
        if x == 1:
            raise ValueError
        return (i for i in ())  # cannot be pickled, ever

    job_id = rig.send(f, range(3), retries=2, retry_delay=0.01, retry_on=("builtins.OSError",))
    found = rig.collect(job_id, 3)
    assert [found[i].attempt for i in range(3)] == [3, 1, 1]
    lines = Path(tries).read_text().split()
    assert [lines.count(str(i)) for i in range(3)] == [3, 1, 1]
    assert split_sections(found[1].value)[0]["type"] == "ValueError"


def test_a_function_that_cannot_be_loaded_is_not_retried(rig: Rig):
    rig.start()

    class Missing:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return __import__, ("no_such_module_here",)

    found = rig.collect(rig.send(Missing(), [1], retries=5, retry_delay=0.01), 1)  # type: ignore[arg-type]
    assert found[0].attempt == 1
    assert split_sections(found[0].value)[0]["type"] == "ModuleNotFoundError"


def test_timeouts_count_as_the_users_and_crashes_do_not(rig: Rig):
    rig.start()
    tries = str(rig.folder / "tries")

    def f(x: int) -> int:
        with open(f"{tries}{x}", "a") as file:
            file.write("x")
        n = Path(f"{tries}{x}").stat().st_size
        if x == 0:
            time.sleep(60)
        if n == 1:
            os._exit(7)
        if n == 2:
            raise OSError("after the crash")
        return n

    found = rig.collect(rig.send(f, range(2), timeout=0.5, retries=1, retry_delay=0.01), 2)
    assert found[0].error == "CallTimeout"
    assert (found[0].attempt, len(found[0].story)) == (2, 1)
    assert found[0].story[0]["end"].startswith("CallTimeout")
    assert found[0].run_time >= 0.4
    # one crash, one exception, then the value: each within its own budget
    assert pickle.loads(found[1].value) == 3
    ends = [one["end"].split(":")[0].split("(")[0] for one in found[1].story]
    assert ends == ["SlotCrashed", "OSError"]


def test_a_timeout_is_not_retried_when_the_filter_names_something_else(rig: Rig):
    rig.start()
    for names, attempts in ((("builtins.ValueError",), 1), (("builtins.TimeoutError",), 2)):
        job_id = rig.send(lambda _: time.sleep(60), [0], timeout=0.3, retries=1, retry_delay=0.01, retry_on=names)
        assert rig.collect(job_id, 1)[0].attempt == attempts


def test_a_drain_does_not_wait_for_a_call_that_backs_off(rig: Rig):
    daemon = rig.start(lease_time=60.0)

    def f(x: int) -> int:
        if x == 1:
            raise OSError
        return x

    job_id = rig.send(f, range(2), retries=50, retry_delay=3600.0, retry_max_delay=3600.0)
    rig.until(lambda: bool(rig.events("call_waits")))
    rig.until(lambda: 0 in rig.outcomes(job_id))
    daemon.terminate()
    daemon.wait(20)
    rig.until(lambda: rig.depth() == (1, 0))
    assert rig.get(result_key(job_id, "00000000"))  # the neighbour's outcome is there
    assert list(rig.outcomes(job_id)) == [0]
