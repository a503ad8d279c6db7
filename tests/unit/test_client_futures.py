"""What a caller sees of a job: values, failures, waiting, callbacks, pickles."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from client_world import World, Worlds, until

from wren_worker.client.attach import attach
from wren_worker.client.waiting import ALWAYS, ANY_COMPLETED, as_completed, get_all_results, wait
from wren_worker.client.watch import Watch
from wren_worker.errors import (
    AttemptsExhausted,
    CallCancelled,
    CallTimeout,
    ChunkLost,
    JobIncomplete,
    QueueError,
    RemoteTraceback,
    ResultNotSerializable,
    ResultTampered,
    SerializationError,
    StoreError,
    WrenError,
)
from wren_worker.protocol import records
from wren_worker.protocol.wire import decode_chunk
from wren_worker.slot.values import dump_value


class TwoArguments(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code, self.text = code, text


class Unloadable:
    def __reduce__(self):
        return _explode, ()


def _explode() -> None:
    raise OSError("not on this machine")


@pytest.fixture
def world() -> Iterator[World]:
    world = Worlds.current = World()
    yield world
    Worlds.current = None
    world.close()


def test_map_gives_values_in_order(world):
    world.run_time = 0.0001
    world.run()
    futures = world.executor().map(lambda x: x * x, range(1000))
    assert get_all_results(futures) == [x * x for x in range(1000)]
    assert len(world.chunks) < 30  # the first are single calls, the rest travels together
    assert [f.call_index for f in futures] == list(range(1000))
    assert (futures[7].call_id, futures[7].callset_id) == ("00007", futures[0].job_id)


def test_no_items_make_no_job(world):
    assert world.executor().map(abs, []) == []
    assert world.store.objects == {}
    assert world.replies == []


def test_chunksize_is_honoured_and_small_jobs_need_one_object(world):
    world.run()
    ex = world.executor()
    assert get_all_results(ex.map(lambda x: x, range(10), chunksize=4)) == list(range(10))
    assert [chunk.n_calls for chunk in world.chunks] == [4, 4, 2]
    assert [key for _, key in world.store.log if key.startswith("jobs/") and key.endswith(("sealed", "1"))] == []


def test_call_async_submit_and_starmap(world):
    world.run()
    ex = world.executor()
    assert ex.call_async(len, [1, 2, 3]).result(20) == 3
    assert ex.submit(divmod, 7, 2).result(20) == (3, 1)
    assert ex.submit(int, "ff", base=16).result(20) == 255
    assert get_all_results(ex.starmap(pow, [(2, 3), (3, 2)])) == [8, 9]


def test_a_failure_keeps_its_type_and_shows_the_remote_traceback(world):
    world.run()

    def f(x):
        raise TwoArguments(x, "broken")

    future = world.executor().map(f, [5])[0]
    with pytest.raises(TwoArguments) as caught:
        future.result(20)
    assert (caught.value.code, caught.value.text) == (5, "broken")
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in f" in str(caught.value.__cause__)
    assert future.result(throw_except=False) is None
    assert future.exception() is caught.value
    assert future.errored()
    assert not future.succeeded()


def test_what_cannot_be_pickled_or_unpickled_is_said_with_its_repr(world):
    world.run()
    futures = world.executor().map(lambda x: [threading.Lock(), Unloadable(), 3][x], range(3))
    assert futures[2].result(20) == 3
    with pytest.raises(ResultNotSerializable) as caught:
        futures[0].result(20)
    assert "lock" in caught.value.type_name
    with pytest.raises(ResultNotSerializable, match="not on this machine") as caught:
        futures[1].result(20)
    assert caught.value.call_index == 1
    assert futures[1].exception() is caught.value


def test_our_own_errors(world):
    world.run()

    def f(kind):
        return {"wren error": kind, "text": "process ran out of time", "data": {"deliveries": 10}}

    kinds = {"CallTimeout": CallTimeout, "AttemptsExhausted": AttemptsExhausted, "CallCancelled": CallCancelled}
    futures = world.executor().map(f, kinds)
    for future, kind in zip(futures, kinds.values(), strict=True):
        error = future.exception(20)
        assert type(error) is kind
        assert (error.job_id, error.call_index, error.deliveries) == (future.job_id, future.call_index, 10)
        assert future.cancelled() is (kind is CallCancelled)


def test_values_elsewhere_are_fetched_and_checked(world):
    world.run()
    futures = world.executor().map(lambda x: {"elsewhere": "x" * x, "output": True}, [10, 20, 30, 40])
    wait(futures)
    assert futures[0].result(20) == "x" * 10
    assert futures[0].stdout == "big\n"
    objects = world.store.objects
    objects[f"results/{futures[0].job_id}/0/1.elsewhere"] = objects[f"results/{futures[0].job_id}/0/1.elsewhere"][:-1]
    objects[f"results/{futures[0].job_id}/0/3.elsewhere"] = (
        b"!" + objects[f"results/{futures[0].job_id}/0/3.elsewhere"][1:]
    )
    for tampered in (futures[1], futures[3]):
        with pytest.raises(ResultTampered):
            tampered.result(20)
    kept = world.store.objects.pop(f"results/{futures[0].job_id}/0/2.elsewhere")
    with pytest.raises(StoreError):
        futures[2].result(20)
    world.store.objects[f"results/{futures[0].job_id}/0/2.elsewhere"] = kept
    assert futures[2].result(20) == "x" * 30


def test_facts_of_a_call(world):
    future = world.executor().call_async(len, "abc")
    assert (future.run_status, future.stdout, future.attempts, future.succeeded()) == ({}, "", [], False)
    assert not future.done()
    until(future.running)
    assert "running" in repr(future)
    world.run()
    assert future.result(20) == 3
    assert future.stdout == "hello\n"
    assert future.stderr == ""
    assert [(a.attempt, a.instance_id, a.run_time, a.end) for a in future.attempts] == [(1, "i-unit", 0.5, "success")]
    assert future.run_status["instance_id"] == "i-unit"
    assert future.run_status["remote_run_time"] == 0.5
    facts = future.invoke_status
    assert facts["host_submit_timestamp"] <= facts["host_send_timestamp"] <= facts["host_receive_timestamp"]
    assert not future.running()
    assert future.cancel() is False


def test_result_times_out_though_a_neighbour_finishes(world):
    futures = world.executor().map(lambda x: x, range(2), chunksize=1)
    first = world.tasks.messages.get(timeout=20)
    with pytest.raises(TimeoutError):
        futures[1].result(0.01)
    world.run_chunk(first)
    futures[0].result(20)
    with pytest.raises(TimeoutError):
        futures[1].result(0.01)


def test_a_waiter_sleeps_on_when_a_neighbour_finishes(world):
    futures = world.executor().map(lambda x: x, range(2), chunksize=1)
    bodies = [world.tasks.messages.get(timeout=20) for _ in range(2)]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(futures[1].result, 20)
        until(lambda: futures[1]._job.condition._waiters)
        world.run_chunk(bodies[0])
        futures[0].result(20)
        world.run_chunk(bodies[1])
        assert waiting.result(20) == 1


def test_wait_over_mixed_jobs(world):
    ex, other = world.executor(), world.executor()
    a = ex.map(lambda x: x, range(3), chunksize=3)
    assert wait(a, ALWAYS) == ([], a)
    world.run_chunk(world.tasks.messages.get(timeout=20))
    b = other.map(lambda x: -x, range(2), chunksize=2)
    done, pending = wait([b[1], *a], ANY_COMPLETED, timeout=20, THREADPOOL_SIZE=64, WAIT_DUR_SEC=5)
    assert b[1] in pending
    done, pending = wait([b[1], *a], timeout=0.05)
    assert (done, pending) == (a, [b[1]])
    assert all(f.succeeded() for f in a)
    world.run()
    done, pending = wait([b[1], *a, b[0]])
    assert (done, pending) == ([b[1], *a, b[0]], [])
    assert wait([]) == ([], [])
    assert wait([], ANY_COMPLETED) == ([], [])
    with pytest.raises(ValueError, match="ALL_COMPLETED"):
        wait(a, 4)


def test_as_completed_yields_each_once(world):
    ex = world.executor()
    futures = ex.map(lambda x: x, range(4), chunksize=1) + ex.map(lambda x: x, range(4, 6))
    bodies = [world.tasks.messages.get(timeout=20) for _ in range(6)]
    world.run_chunk(bodies[3])
    found = as_completed([*futures, futures[0]], timeout=20)
    first = next(found)
    assert first.done()
    for body in bodies[:3] + bodies[4:]:
        world.run_chunk(body)
    assert {first, *found} == set(futures)
    with pytest.raises(TimeoutError):
        list(as_completed(ex.map(abs, [1]), timeout=0.01))


def test_get_all_results_raises_the_failure_of_the_lowest_index(world):
    world.run()

    def f(x):
        if x in (3, 7):
            raise ValueError(x)
        return x

    with pytest.raises(ValueError, match="3"):
        get_all_results(world.executor().map(f, range(10), chunksize=1))


def test_the_standard_library_waits_for_our_futures(world):
    ex = world.executor()
    a, b = ex.map(lambda x: x, range(4), chunksize=1), ex.map(lambda x: 1 // x, range(2))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        theirs = pool.submit(lambda: 1)
        waits = [pool.submit(concurrent.futures.wait, [*a, theirs, *b], 20) for _ in range(3)]
        seen = pool.submit(lambda: list(concurrent.futures.as_completed([*b, *a], 20)))
        world.run()
        assert all(w.result().not_done == set() for w in waits)
        assert set(seen.result()) == {*a, *b}
    done, _ = concurrent.futures.wait(b, 20, return_when=concurrent.futures.FIRST_EXCEPTION)
    assert b[0] in done


def test_first_exception_ends_the_standard_librarys_wait(world):
    futures = world.executor().map(lambda x: 1 // x, [1, 0, 2], chunksize=1)
    bodies = [world.tasks.messages.get(timeout=20) for _ in range(3)]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(concurrent.futures.wait, futures, 20, concurrent.futures.FIRST_EXCEPTION)
        world.run_chunk(bodies[0])
        world.run_chunk(bodies[1])
        assert futures[1] in waiting.result(20).done
        assert futures[2] in waiting.result().not_done


def test_callbacks_and_await(world):
    called: list[object] = []
    future = world.executor().call_async(abs, -3)
    future.add_done_callback(called.append)
    future.add_done_callback(lambda f: 1 / 0)

    async def main():
        async def itself():
            return await future

        running = asyncio.gather(itself(), asyncio.wrap_future(future))
        await asyncio.sleep(0)
        world.run()
        return await asyncio.wait_for(running, 20)

    assert asyncio.run(main()) == [3, 3]
    until(lambda: called == [future])
    future.add_done_callback(called.append)
    assert called == [future, future]


def test_only_the_job_decides(world):
    future = world.executor().call_async(abs, 1)
    for refuse in (lambda: future.set_result(1), lambda: future.set_exception(None)):
        with pytest.raises(concurrent.futures.InvalidStateError):
            refuse()


def test_futures_pickle_before_and_after(world):
    ex = world.executor()
    futures = ex.map(lambda x: x + 1, range(6), chunksize=3)
    copies = pickle.loads(pickle.dumps(futures))
    world.run()
    assert get_all_results(copies) == [1, 2, 3, 4, 5, 6]
    again = pickle.loads(pickle.dumps(copies[:2]))  # read here already: they come from S3 anew
    assert get_all_results(again) == [1, 2]
    assert get_all_results(pickle.loads(pickle.dumps(again + futures))) == [1, 2, 1, 2, 3, 4, 5, 6]
    fresh = ex.map(lambda x: x, range(2))
    wait(fresh)
    n_gets = len(world.store.log)
    copy = pickle.loads(pickle.dumps(fresh[1]))
    assert copy.done()
    assert copy.result() == 1
    assert copy.stdout == "hello\n"
    assert len(world.store.log) == n_gets
    error = ex.map(lambda x: 1 // x, [0])[0]
    assert isinstance(error.exception(20), ZeroDivisionError)
    assert isinstance(pickle.loads(pickle.dumps(error)).exception(20), ZeroDivisionError)


def test_attach_needs_s3_only(world):
    with world.executor() as ex:
        futures = ex.map(lambda x: "a" * x, range(500), chunksize=7)
    job_id = futures[0].job_id
    attached = attach(world.transport(), job_id, progress=False)
    assert [f.call_index for f in attached] == list(range(500))
    world.run()
    assert get_all_results(attached) == ["a" * x for x in range(500)]
    assert get_all_results(attach(world.transport(), job_id, progress=False))[499] == "a" * 499
    assert len(world.replies) == 1
    # and the futures of the closed executor are good too
    assert get_all_results(futures)[3] == "aaa"
    with pytest.raises(StoreError, match="no job"):
        attach(world.transport(), "00000000-aa")


def test_attach_to_a_job_whose_client_is_gone(world):
    ex = world.executor()
    future = ex.submit(abs, -1)
    until(future.running)
    with pytest.raises(JobIncomplete) as caught:
        attach(world.transport(), future.job_id)
    assert caught.value.n_calls == 1
    world.run()
    assert get_all_results(attach(world.transport(), future.job_id, partial=True, progress=False)) == [1]
    ex.close()
    assert get_all_results(attach(world.transport(), future.job_id, progress=False)) == [1]


def test_arguments_are_checked(world):
    ex = world.executor(map_item_limit=3)
    for bad in (
        lambda: ex.map(abs, range(4)),
        lambda: ex.map(abs, iter(range(4))),
        lambda: ex.map(abs, [1], extra_meta={"job_id": 1}),
        lambda: ex.map(abs, [1], extra_meta={"x": object()}),
        lambda: ex.map(abs, [1], extra_env={"X": 1}),
        lambda: ex.map(abs, [1], overwrite_invoke_args={}),
        lambda: ex.map(abs, [1], timeout=11.5 * 3600),
        lambda: ex.map(abs, [1], timeout=0),
        lambda: ex.map(abs, [1], timeout=3600, chunksize=12),
        lambda: ex.map(abs, [1], chunksize=0),
        lambda: ex.map(abs, [1], retries=-1),
    ):
        with pytest.raises(ValueError, match=r"\w+ .*\w+"):
            bad()
    with pytest.raises(TypeError):
        ex.map(3, [1])
    assert world.store.objects == {}
    world.run()
    got = ex.map(abs, iter([-1]), {"A": "b"}, {"mine": 1}, 64, False, False, None, ["nothing"], name="n", retries=2)
    assert get_all_results(got) == [1]
    assert world.chunks[0].limits.retries == 2


def test_timeouts_may_have_units(world):
    world.run()
    ex = world.executor()
    assert ex.call_async(abs, -1, timeout="5m").result(20) == 1
    assert [future.result(20) for future in ex.map(abs, [-1], timeout="1.5h")] == [1]
    assert [chunk.limits.timeout for chunk in world.chunks] == [300.0, 5400.0]
    with pytest.raises(ValueError, match="'soon' is no time"):
        ex.map(abs, [1], timeout="soon")
    with pytest.raises(ValueError, match="more than the 11 h"):
        ex.map(abs, [1], timeout="12h")


def test_an_argument_that_cannot_be_pickled_raises_here(world):
    with pytest.raises(SerializationError, match=r"argument 0.*item \['lock'\].*lock"):
        world.executor().map(lambda x: x, [1, {"lock": threading.Lock()}])


def test_an_input_that_raises_in_the_middle(world):
    def items():
        yield from range(10)
        raise KeyError("middle")

    ex = world.executor()
    with pytest.raises(KeyError, match="middle"):
        ex.map(abs, items())
    ex.close()
    assert not any(key.endswith("sealed") for key in world.store.objects)


def test_a_send_that_fails_fails_what_was_not_sent(world):
    world.tasks.failure = QueueError("access denied", unsent=[0])
    ex = world.executor()
    futures = ex.map(abs, range(2), chunksize=1)
    with pytest.raises(ChunkLost, match=r"call 0 of .* could not be sent: access denied"):
        futures[0].result(20)
    until(futures[1].running)
    assert not futures[1].done()
    others = attach(world.transport(), futures[0].job_id, partial=True, progress=False)
    assert str(others[0].exception(20)) == str(futures[0].exception())  # the same for every reader


def test_what_was_sent_after_all_keeps_its_outcome(world):
    ex = world.executor()

    def send(messages):
        for message in messages:
            chunk = decode_chunk(message.body)[0]
            value = dump_value(-chunk.first_call)
            world.publish(chunk, [records.pack_record(chunk.first_call, records.SUCCESS, value)])
        raise QueueError("no answer came", unsent=list(range(len(messages))))

    world.notify = False
    world.tasks.send = send
    assert get_all_results(ex.map(abs, [-3, -4], chunksize=1)) == [0, -1]


def test_a_send_that_fails_with_s3_out_of_reach_says_so_here(world):
    world.tasks.failure = QueueError("no network", unsent=[0])

    def refuse(key, data):
        raise StoreError("no network either")

    world.store.put_once = refuse
    future = world.executor().call_async(abs, -1)
    with pytest.raises(QueueError, match="no network") as caught:
        future.result(20)
    assert caught.value.__cause__ is world.tasks.failure


def test_what_is_on_its_way_is_waited_for_though_it_could_not_be_stored(world):
    def refuse(key):
        raise StoreError("bucket is full")

    world.store.before_put = refuse
    ex = world.executor()
    futures = ex.map(abs, [-1, -2], chunksize=1)
    until(lambda: all(future.running() for future in futures))
    bodies = [world.tasks.messages.get(timeout=20) for _ in futures]
    ex.close()
    world.store.before_put = lambda key: None
    for body in bodies:
        chunk, _, manifest = decode_chunk(body)
        world.store.objects.update({chunk.manifest_key: manifest})
        world.run_chunk(body)
    assert get_all_results(futures) == [1, 2]


def test_a_manifest_that_cannot_be_stored_fails_the_job(world):
    def refuse(key):
        raise StoreError("bucket is gone")

    world.store.before_put = refuse
    futures = world.executor().map(lambda x: b"x" * 300_000 and x, [b"y" * 300_000] * 3)
    for future in futures:
        with pytest.raises(StoreError):
            future.result(20)
    assert world.tasks.messages.empty()


def test_a_collector_that_ends_fails_every_pending_future(world):
    ex = world.executor()
    futures = ex.map(abs, range(3))
    until(lambda: world.replies)
    with world.replies[0].condition:
        world.replies[0].crash = RuntimeError("defect")
        world.replies[0].condition.notify_all()
    for future in futures:
        with pytest.raises(WrenError, match="defect") as caught:
            future.result(20)
        assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork with threads: it is the point
def test_a_forked_child_refuses(world):
    ex = world.executor()
    future = ex.map(abs, [1])[0]
    until(future.running)
    pid = os.fork()
    if pid == 0:
        code = 0
        for use in (lambda: ex.map(abs, [1]), lambda: future.result(5), future.done, lambda: ex.submit(abs, 1)):
            try:
                use()
                code = 1
            except WrenError:
                pass
            except BaseException:
                code = 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_interpreter_waits_until_everything_is_sent(tmp_path):
    here = os.path.dirname(__file__)
    program = f"""
import atexit, sys, time
sys.path[:0] = [{here!r}, {os.path.dirname(os.path.dirname(here))!r}]
from client_world import World
world = World()
# registered first, so it runs last
atexit.register(lambda: print(
    world.tasks.messages.qsize(),
    sum(key.endswith("sealed") for key in world.store.objects),
    world.replies[0].gone,
))
world.store.before_put = lambda key: time.sleep(0.2)
ex = world.executor()
ex.map(lambda x: x, range(1000), chunksize=10)
ex.submit(abs, 1)
ex.submit(abs, 2)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["102", "2", "True"]
    assert done.stderr.strip() == "wren: backend unit"


def test_a_multiprocessing_child_waits_until_everything_is_sent(tmp_path):
    """It ends without atexit functions, but not before its threads."""
    here = os.path.dirname(__file__)
    program = f"""
import multiprocessing, sys, time
sys.path[:0] = [{here!r}, {os.path.dirname(os.path.dirname(here))!r}]
from client_world import World

class Log:
    def append(self, entry):
        with open({str(tmp_path / "log")!r}, "a") as file:
            file.write(entry[0] + "\\n")

def child():
    world = World()
    world.tasks.log = Log()
    world.store.before_put = lambda key: time.sleep(0.2)
    world.executor().map(abs, range(100), chunksize=1)

if __name__ == "__main__":
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_text().split() == ["send"] * 100


def test_who_wants_all_gets_large_values_side_by_side_and_each_once(world, monkeypatch):
    world.run()
    together, most, lock = 0, 0, threading.Lock()
    fill = world.store.fill

    def slow_fill(key, *args, **options):
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.02)
        with lock:
            together -= 1
        return fill(key, *args, **options)

    monkeypatch.setattr(world.store, "fill", slow_fill)
    futures = world.executor().map(lambda x: {"elsewhere": "x" * x}, range(1, 13))
    assert get_all_results(futures) == ["x" * x for x in range(1, 13)]
    assert most > 1
    gets = [key for kind, key in world.store.log if kind == "get" and "elsewhere" in key]
    assert len(gets) == len(set(gets)) == 12


def test_a_large_value_that_cannot_be_had_now_is_asked_for_again(world):
    world.run()
    futures = world.executor().map(lambda x: {"elsewhere": "x" * x}, [5, 6])
    wait(futures)
    kept = world.store.objects.pop(f"results/{futures[0].job_id}/0/1.elsewhere")
    with pytest.raises(StoreError, match="gone from the bucket"):
        get_all_results(futures)
    world.store.objects[f"results/{futures[0].job_id}/0/1.elsewhere"] = kept
    assert get_all_results(futures) == ["x" * 5, "x" * 6]


def test_arrays_of_large_values_are_used_where_they_came_in(world):
    numpy = pytest.importorskip("numpy")
    world.run()
    array = numpy.arange(300_000)
    future = world.executor().call_async(lambda _: {"elsewhere": [array, "text"]}, 0)
    found, text = future.result(20)
    assert text == "text"
    assert (found == array).all()
    assert found.flags.writeable
    assert found.ctypes.data % 16 == 0


def test_outcomes_may_come_while_a_wait_begins(world):
    class Seen:
        """A future that is looked at; meanwhile, as the collector's thread may at any step, others get outcomes."""

        def __init__(self, job) -> None:
            self._job = job

        @property
        def _state(self) -> str:
            watch.resolved([other for other in several if other is not self])
            return "PENDING"

    job = world.executor().submit(abs, -1)._job
    several = [Seen(job) for _ in range(5)]
    watch = Watch(several)
    with watch:
        assert watch.n_pending == 0
    assert watch.n_done == 5


def test_the_garbage_collector_rests_only_while_futures_are_made(world):
    world.run()
    ex = world.executor()

    class Item:
        def __init__(self, fails: bool) -> None:
            self.fails = fails

        def __reduce__(self):
            rested.append(not gc.isenabled())
            return (int, ()) if not self.fails else 1 // 0

    rested: list[bool] = []
    assert get_all_results(ex.map(lambda x: x, [Item(fails=False)])) == [0]
    assert rested[0]
    assert gc.isenabled()
    with pytest.raises(SerializationError):
        ex.map(lambda x: x, [Item(fails=True)])
    assert gc.isenabled()
    rested.clear()
    ex.map(lambda x: x, iter([Item(fails=False)]))
    assert not any(rested)  # a generator's code may leave any garbage
