"""The real daemon: what it stores, what it deletes and when, and what it does when it or its calls are killed."""

from __future__ import annotations

import os
import pickle
import signal
import time
from dataclasses import replace

import pytest
from rig import Rig

from wren_worker.daemon.exits import Exit
from wren_worker.protocol import records, wire
from wren_worker.protocol.model import ResultObject, call_key, result_key


def values(found: dict) -> dict[int, object]:
    return {index: pickle.loads(one.value) for index, one in found.items() if one.status == records.SUCCESS}


def test_calls_run_are_stored_told_and_deleted(rig: Rig):
    rig.start()

    def f(x: int) -> int:
        print("hello", x)
        return x * x

    job_id = rig.send(f, range(25))
    found = rig.collect(job_id, 25)
    assert values(found) == {i: i * i for i in range(25)}
    assert found[7].output == [(records.STDOUT, b"hello 7\n")]
    rig.until(lambda: rig.depth() == (0, 0))
    notices = {}
    while len(notices) < 3:
        answer = rig.sqs.receive_message(QueueUrl=rig.reply, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        for message in answer.get("Messages", []):
            notices |= dict(wire.decode_notices(message["Body"]))
    assert notices == {key: rig.get(key) for key in (result_key(job_id, f"{n:08d}") for n in range(3))}


def test_each_kind_of_failure_costs_only_its_own_call(rig: Rig):
    rig.start()

    def bad(x: int) -> int:
        if x == 1:
            os._exit(3)
        if x == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        if x == 3:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(100)
        if x == 4:
            raise ValueError("mine")
        return x

    found = rig.collect(rig.send(bad, range(8), timeout=1.0), 8)
    assert values(found) == {0: 0, 5: 5, 6: 6, 7: 7}
    assert [found[i].error for i in (1, 2, 3)] == ["SlotCrashed", "SlotCrashed", "CallTimeout"]
    assert found[4].status == records.FAILURE
    assert (found[1].attempt, found[3].attempt) == (3, 1)
    rig.until(lambda: rig.depth() == (0, 0))


def test_kill_9_of_the_daemon_loses_nothing_and_leaves_nothing(rig: Rig):
    daemon = rig.start(lease_time=2.0)

    def f(x: int) -> int:
        if x == 0:
            os.system("setsid sleep 300 & sleep 301 &")  # what no signal to its group can reach
        time.sleep(0.02)
        return x

    job_id = rig.send(f, range(100), chunksize=10)
    rig.until(lambda: any("sleep" in p.name() for p in rig.slot_processes()) and len(rig.outcomes(job_id)) > 0)
    daemon.kill()
    daemon.wait()
    rig.until(lambda: rig.slot_processes() == [], timeout=10.0)
    rig.start(lease_time=2.0)
    assert values(rig.collect(job_id, 100)) == {i: i for i in range(100)}
    rig.until(lambda: rig.depth() == (0, 0))


def test_a_long_call_keeps_its_lease(rig: Rig):
    rig.start(lease_time=2.0)
    job_id = rig.send(lambda x: time.sleep(5) or x, [1])
    found = rig.collect(job_id, 1)
    assert found[0].result.delivery == 1
    rig.until(lambda: rig.depth() == (0, 0))
    assert len(rig.events("chunk_received")) == 1
    assert rig.events("lease_lost") == []


def test_a_stopped_daemon_loses_its_lease_and_does_not_touch_the_message_again(rig: Rig):
    daemon = rig.start(lease_time=2.0)
    job_id = rig.send(lambda x: time.sleep(3) or x, [7])
    rig.until(lambda: rig.depth() == (0, 1))
    daemon.send_signal(signal.SIGSTOP)
    rig.until(lambda: rig.depth() == (1, 0))
    daemon.send_signal(signal.SIGCONT)
    # the same daemon receives it again beside its own first run; whoever is first is the truth
    assert values(rig.collect(job_id, 1)) == {0: 7}
    rig.until(lambda: rig.depth() == (0, 0))
    rig.until(lambda: len(rig.events("lease_lost")) == 1)
    assert len([event for event in rig.events("chunk_done") if event["deleted"]]) == 1


def test_a_taken_result_key_is_never_written_over(rig: Rig):
    job_id, (chunk,) = rig.job(lambda x: x, [5])
    other = ResultObject(job_id=chunk.job_id, chunk_id=chunk.chunk_id, first_call=0, n_calls=1, instance_id="i-other")
    rig.put_result(other, [records.pack_record(0, records.SUCCESS, pickle.dumps("first"))])
    before = rig.get(result_key(job_id, chunk.chunk_id))
    rig.start()
    rig.sqs.send_message(QueueUrl=rig.queue, MessageBody=rig.message(chunk))
    rig.until(lambda: bool(rig.events("chunk_done")))
    assert rig.get(result_key(job_id, chunk.chunk_id)) == before
    rig.until(lambda: rig.depth() == (0, 0))


def test_a_resent_chunk_that_is_done_is_not_run(rig: Rig):
    mark = rig.folder / "ran"
    job_id, (chunk,) = rig.job(lambda _: mark.write_text("x"), [5])
    done = ResultObject(job_id=chunk.job_id, chunk_id=chunk.chunk_id, first_call=0, n_calls=1)
    rig.put_result(done, [records.pack_record(0, records.SUCCESS, pickle.dumps("first"))])
    rig.start()
    args = rig._args[job_id, chunk.chunk_id]
    rig.sqs.send_message(QueueUrl=rig.queue, MessageBody=wire.encode_chunk(replace(chunk, resent=1), args))
    rig.until(lambda: bool(rig.events("chunk_done")))
    assert not mark.exists()


def test_a_long_chunk_is_split_so_that_finished_neighbours_are_told(rig: Rig):
    rig.start()
    job_id = rig.send(lambda x: time.sleep(6 if x == 2 else 0) or x, range(4), chunksize=4)
    rig.collect(job_id, 3, timeout=5.5)
    first = rig.outcomes(job_id)
    assert 2 not in first
    found = rig.collect(job_id, 4)
    assert found[2].result.call_index == 2
    assert values(found) == {i: i for i in range(4)}


def test_a_call_that_kills_its_daemon_every_time_ends_alone(rig: Rig):
    def killer(x: int) -> int:
        if x == 2:
            import psutil

            psutil.Process(os.getppid()).parent().kill()
            time.sleep(5)
        return x

    rig.start(lease_time=1.0)
    job_id = rig.send(killer, range(5), max_deliveries=5)
    deadline = time.monotonic() + 60
    while len(rig.outcomes(job_id)) < 5:
        assert time.monotonic() < deadline
        if rig.daemons[-1].poll() is not None:
            rig.start(lease_time=1.0)
        time.sleep(0.05)
    found = rig.outcomes(job_id)
    assert found[2].error == "AttemptsExhausted"
    assert values(found) == {0: 0, 1: 1, 3: 3, 4: 4}
    rig.until(lambda: rig.depth() == (0, 0))


def test_sigterm_publishes_what_is_finished_and_releases_the_rest(rig: Rig):
    daemon = rig.start(lease_time=60.0)
    job_id = rig.send(lambda x: time.sleep(x) or x, [0, 0, 300, 0], chunksize=4)
    rig.until(lambda: rig.depth() == (0, 1))
    time.sleep(1.0)
    daemon.terminate()
    assert daemon.wait(20) == Exit.STOPPED
    assert rig.slot_processes() == []
    # long before its lease would lapse; not at once, because the daemon's own last poll would have taken it
    rig.until(lambda: rig.depth() == (1, 0))
    assert set(values(rig.outcomes(job_id))) <= {0, 1, 3}


def test_a_second_sigterm_ends_it_at_once(rig: Rig):
    daemon = rig.start(lease_time=60.0)
    rig.send(time.sleep, [300])
    rig.until(lambda: bool(rig.events("chunk_received")))
    daemon.terminate()
    time.sleep(0.3)
    daemon.terminate()
    assert daemon.wait(5) == Exit.CUT_SHORT


def test_idle_powers_off_by_the_daemon_and_it_never_exits_by_itself(rig: Rig):
    daemon = rig.start(idle_timeout=2.0)
    rig.collect(rig.send(int, range(3)), 3)
    rig.until((rig.folder / "systemctl.log").exists, timeout=10.0)
    assert (rig.folder / "systemctl.log").read_text() == f"poweroff {daemon.pid}\n"
    assert [event["why"] for event in rig.events("power_off")] == ["idle"]
    beat = (rig.folder / "run" / "heartbeat").read_text()
    time.sleep(1.2)
    assert (rig.folder / "run" / "heartbeat").read_text() == beat  # the dead-man's turn, should this fail
    assert daemon.poll() is None


def test_garbage_is_neither_run_nor_deleted_nor_counted_as_work(rig: Rig):
    rig.start(idle_timeout=3.0, lease_time=1.0)
    _, (foreign, expired) = rig.job(int, [1, 2], chunksize=1)
    for body in (
        "no base64 at all",
        rig.message(replace(foreign, audience="elsewhere/1/q")),
        rig.message(replace(foreign, python="2.7")),
        rig.message(replace(expired, expiry_timestamp=1.0)),
        rig.message(replace(foreign, manifest_sha256="0" * 64)),
    ):
        rig.sqs.send_message(QueueUrl=rig.queue, MessageBody=body)
    rig.until((rig.folder / "systemctl.log").exists, timeout=15.0)
    assert sum(rig.depth()) == 5
    assert len({event["reason"] for event in rig.events("message_rejected")}) == 5


def test_maximum_lifetime_drains_and_then_powers_off(rig: Rig):
    rig.start(max_lifetime=8.0, lease_time=300.0)
    job_id = rig.send(lambda x: time.sleep(0.2) or x, range(200), chunksize=2)
    rig.until((rig.folder / "systemctl.log").exists, timeout=25.0)
    assert [event["why"] for event in rig.events("power_off")] == ["maximum lifetime"]
    rig.until(lambda: rig.depth()[1] == 0)  # given back, long before any lease would lapse
    assert rig.depth()[0] > 0
    assert 0 < len(rig.outcomes(job_id)) < 200


def test_a_deleted_reply_queue_changes_nothing_but_latency(rig: Rig):
    rig.start()
    rig.sqs.delete_queue(QueueUrl=rig.reply)
    assert values(rig.collect(rig.send(int, range(20)), 20)) == {i: i for i in range(20)}
    rig.until(lambda: rig.depth() == (0, 0))


def test_a_bad_configuration_is_told_in_one_line(rig: Rig):
    rig.environ["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
    daemon = rig.start()
    (rig.folder / "instance.json").write_text('{"fleet": "x", "idle_timout": 3}')
    assert daemon.wait(20) == Exit.BAD_CONFIG
    text = (rig.folder / "daemon.log").read_text()
    assert "Did you mean 'idle_timeout'" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_large_values_and_outputs_become_objects_of_their_own(rig: Rig, size: int):
    def f(n: int) -> bytes:
        print("y" * n)
        return b"x" * n

    rig.start()
    job_id = rig.send(f, [size])
    found = rig.collect(job_id, 1)[0]
    if size < 1_000_000:
        assert not found.flags & records.FLAG_ELSEWHERE
        assert len(pickle.loads(found.value)) == size
        return
    import json

    where = json.loads(found.value)
    assert where["key"].startswith(call_key(job_id, "00000000", 0) + ".")
    data = rig.get(where["key"])
    assert len(data) == where["length"]
    assert len(pickle.loads(data[: where["value_bytes"]])) == size
    assert sum(len(piece) for _, piece in records.split_output(data[where["value_bytes"] :])) == size + 1


def test_printed_lines_and_the_daemons_own_reach_cloudwatch_with_their_call(rig: Rig):
    daemon = rig.start()

    def say(x: int) -> None:
        print(f"line of {x}")

    job_id = rig.send(say, range(3))
    rig.collect(job_id, 3)
    daemon.terminate()
    daemon.wait(20)
    import json

    group = {"logGroupName": "pywren-standalone"}
    lines = [
        json.loads(event["message"])
        for event in rig.logs.filter_log_events(**group, logStreamNames=["i-fake-tasks"], limit=10_000)["events"]
    ]
    mine = [line for line in lines if line.get("job_id") == job_id]
    assert [
        (line["call_index"], line["stream"], line["message"]) for line in sorted(mine, key=lambda e: e["call_index"])
    ] == [(i, "stdout", f"line of {i}") for i in range(3)]
    daemons = rig.logs.filter_log_events(**group, logStreamNames=["i-fake-daemon"], limit=10_000)["events"]
    assert any(json.loads(event["message"]).get("job_id") == job_id for event in daemons)


def test_large_values_leave_no_files_behind(rig: Rig):
    rig.start()

    def f(n: int) -> bytes:
        print("x" * (2_000_000 if n == 1 else 1))  # output too can make an outcome large
        return bytes(n)

    job_id = rig.send(f, [3_000_000, 1, 5_000_000], chunksize=2)
    found = rig.collect(job_id, 3)
    assert all(one.flags & records.FLAG_ELSEWHERE for one in found.values())
    rig.until(lambda: rig.depth() == (0, 0))
    work = rig.folder / "work"
    rig.until(lambda: not [*work.glob("slots/*/outbox/*"), *work.glob("outcomes/*")])
    rig.until(lambda: not list(work.glob("args/*")))
