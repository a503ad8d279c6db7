"""Lost answers, throttling, and messages that come twice: what must hold of them, over the whole system."""

from __future__ import annotations

import itertools
import os
import time

import pytest
from world import World

import wren_worker as wren
from wren_worker.chaos.faults import Drop, Named, Refuse, Truncate
from wren_worker.chaos.queue_faults import Duplicate, Empty, FailEntries, Redeliver, StaleHandles
from wren_worker.chaos.script import Rule

TASKS, REPLIES, RESULTS = "*-tasks-*", "*-reply-*", "results/*"


def token(x: int) -> tuple[int, str]:
    """Return something that no second run of the call returns."""
    time.sleep(0.05)
    return x, os.urandom(8).hex()


def run(world: World, n_calls: int = 12, *, timeout: float = 60.0, **kw) -> list[wren.Future]:
    """Run calls; each resolves once, for every reader, and no message is left."""
    with wren.executor(backend="sqs", progress=False) as executor:
        futures = executor.map(token, range(n_calls), **{"chunksize": 3, **kw})
        found = wren.get_all_results(futures, timeout=timeout)
    assert [x for x, _ in found] == list(range(n_calls))
    world.proxy.script.clear()
    again = wren.attach(futures[0].job_id, backend="sqs", progress=False)
    assert wren.get_all_results(again, timeout=30) == found
    world.until(lambda: (depth := world.operator.depth()).visible + depth.in_flight == 0, timeout=20)
    return futures


def goes_wrong(world: World, fault, operation: str, key: str = "*", **kw) -> None:
    world.proxy.script.add(Rule(fault=fault, operation=operation, key=key, **kw))


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(
    ("operation", "key", "caller"),
    [
        ("s3.PutObject", RESULTS, "i-*"),
        ("s3.PutObject", "jobs/*", "client"),
        ("sqs.SendMessage*", TASKS, "client"),
        ("sqs.SendMessage*", REPLIES, "i-*"),
        ("sqs.DeleteMessage*", TASKS, "i-*"),
        ("sqs.ReceiveMessage", TASKS, "i-*"),
        ("sqs.ReceiveMessage", REPLIES, "client"),
    ],
)
def test_applied_and_the_answer_lost(world: World, operation, key, caller, reset):
    world.launch(1, lease_time=2.0)
    # the poll that waits already is answered with work; a try again meets the same fate once
    goes_wrong(world, Drop(reset=reset), operation, key, caller=caller, limit=2)
    run(world)
    assert world.proxy.record.injected() == {"applied, answer lost": 2}


def test_beats_whose_answers_are_lost_are_beats(world: World):
    world.launch(1, lease_time=2.0)
    number = itertools.count()  # two of three: a keeper that never hears anything must take its lease for lost
    goes_wrong(world, Drop(), "sqs.ChangeMessageVisibility*", TASKS, where=lambda _: next(number) % 3 < 2)
    with wren.executor(backend="sqs", progress=False) as executor:
        future = executor.call_async(lambda x: time.sleep(5) or x, 1)
        assert future.result(timeout=40) == 1
    assert world.proxy.record.injected()["applied, answer lost"] >= 2
    deliveries = [d for entry in world.proxy.record.of("sqs.ReceiveMessage", TASKS) for d in entry.deliveries]
    assert len(deliveries) == 1  # SQS had the beats, so nobody else got it


def test_beats_that_fail_cost_no_result_and_a_lost_lease_is_never_released(world: World):
    world.launch(2, lease_time=2.0)
    goes_wrong(world, Refuse(code="InternalError"), "sqs.ChangeMessageVisibility*", TASKS, limit=60)
    with wren.executor(backend="sqs", progress=False) as executor:
        futures = executor.map(lambda x: time.sleep(4) or token(x), range(2), chunksize=1)
        found = wren.get_all_results(futures, timeout=60)
    assert [x for x, _ in found] == [0, 1]
    entries = world.proxy.record.of("sqs.*", TASKS)
    lost = [d.receipt_handle for e in entries for d in e.deliveries if d.job_id and d.receive_count == 1]
    released = [handle for e in entries if "Change" in e.operation and e.lease_time == 0 for handle in e.asked]
    assert not set(lost) & set(released)


@pytest.mark.parametrize("code", ["SlowDown", "InternalError", "RequestThrottled", "ConditionalRequestConflict"])
def test_a_storm_of_refusals_ends_and_everything_is_there(world: World, code):
    world.launch(1, lease_time=3.0)
    operation = "s3.*Object*" if code in ("SlowDown", "ConditionalRequestConflict") else "s[3q]*"
    rule = Rule(fault=Refuse(code=code), operation=operation, share=0.6, limit=80)
    world.proxy.script.add(rule)
    run(world, 30, timeout=90)
    assert world.proxy.record.injected()[code] >= 10


@pytest.mark.parametrize("applied", [False, True], ids=["not done", "done"])
def test_parts_of_every_batch_fail(world: World, applied):
    world.launch(1, lease_time=2.0)
    goes_wrong(world, FailEntries(applied=applied), "sqs.*Batch", limit=12)
    run(world, 40, chunksize=1)
    assert world.proxy.record.injected()["part of a batch fails"] >= 4


@pytest.mark.parametrize("fault", [Duplicate(), Duplicate(to_another=False), Redeliver()], ids=["two", "same", "held"])
def test_every_message_is_delivered_twice(world: World, fault):
    world.launch(2, lease_time=3.0)
    goes_wrong(world, fault, "sqs.ReceiveMessage", TASKS, limit=20)
    run(world, 24)
    deliveries = [d.message_id for e in world.proxy.record.of("sqs.ReceiveMessage", TASKS) for d in e.deliveries]
    assert len(deliveries) > len(set(deliveries))


def test_a_paused_machine_comes_back_after_somebody_else_has_done_its_work(world: World):
    one, _ = world.launch(2, lease_time=2.0, stale_timeout=60.0)
    with wren.executor(backend="sqs", progress=False) as executor:
        futures = executor.map(lambda x: time.sleep(1) or token(x), range(4), chunksize=1)
        world.until(lambda: any(e.deliveries for e in world.proxy.record.of("sqs.ReceiveMessage", TASKS, one)))
        assert world.place.freeze(one, "daemon", 5.0)
        found = wren.get_all_results(futures, timeout=60)
        world.place.settle()
        time.sleep(1.5)  # the loser publishes what it has, if it can
        again = wren.attach(futures[0].job_id, backend="sqs", progress=False)
        assert wren.get_all_results(again, timeout=30) == found
    world.until(lambda: (depth := world.operator.depth()).visible + depth.in_flight == 0, timeout=20)


def test_stale_handles_delete_nothing_and_the_message_is_found_done(world: World):
    world.launch(2, lease_time=2.0)
    goes_wrong(world, Redeliver(), "sqs.ReceiveMessage", TASKS, limit=6)
    goes_wrong(world, StaleHandles(), "sqs.DeleteMessageBatch", TASKS)
    goes_wrong(world, StaleHandles(), "sqs.ChangeMessageVisibilityBatch", TASKS)
    run(world, 12)


def test_in_flight_limit_and_empty_polls_only_cost_time(world: World):
    world.launch(1)
    goes_wrong(world, Refuse(code="OverLimit"), "sqs.ReceiveMessage", TASKS, limit=2)
    goes_wrong(world, Empty(), "sqs.ReceiveMessage", TASKS, limit=3)
    run(world)
    assert world.proxy.record.injected() == {"OverLimit": 2, "empty receive": 3}


def test_without_any_notice_results_are_found_by_listing(world: World):
    world.launch(1)
    goes_wrong(world, Refuse(code="QueueDoesNotExist"), "sqs.SendMessage*", REPLIES)
    began = time.monotonic()
    with wren.executor(backend="sqs", progress=False) as executor:
        assert wren.get_all_results(executor.map(abs, range(-20, 0)), timeout=60) == list(range(20, 0, -1))
    assert time.monotonic() - began < 60
    looked = [
        entry.operation
        for operation in ("s3.ListObjectsV2", "s3.HeadObject", "s3.GetObject")
        for entry in world.proxy.record.of(operation, RESULTS, "client")
    ]
    assert looked


def test_answers_cut_short_are_asked_for_again(world: World):
    world.launch(1)
    goes_wrong(world, Truncate(), "s3.GetObject", limit=4)
    goes_wrong(world, Truncate(), "sqs.ReceiveMessage", REPLIES, limit=2)
    with wren.executor(backend="sqs", progress=False) as executor:
        items = [bytes([n]) * 900_000 for n in range(4)]
        futures = executor.map(lambda data: data[::-1], items)
        assert wren.get_all_results(futures, timeout=60) == items
    assert world.proxy.record.injected()["truncated body"] >= 4


def test_an_expired_token_on_an_instance_is_survived(world: World):
    world.launch(1, lease_time=2.0)
    fault = Named(fault=Refuse(code="ExpiredToken"), name="expired")
    for operation, key in (("s3.PutObject", RESULTS), ("sqs.ReceiveMessage", TASKS), ("sqs.DeleteMessage*", TASKS)):
        goes_wrong(world, fault, operation, key, caller="i-*", limit=1)
    run(world)
    assert world.proxy.record.injected()["expired"] == 3
