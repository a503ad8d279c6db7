"""The bookkeeping of one delivery: what is run, what is stored, when the message may go."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from wren_worker.daemon.calls import CallTable
from wren_worker.daemon.events import Arrived, JobFiles
from wren_worker.daemon.holding import MAX_RESULT_BYTES, Holding, Put
from wren_worker.protocol import records
from wren_worker.protocol.frames import pack_calls
from wren_worker.protocol.model import ArgsLocation, Chunk, ChunkId, JobId, Limits, ResultObject, ranges

JOB = JobFiles(job_id="j", function=b"", modules=b"", modules_sha256="", env={})


def chunk(n_calls: int = 4, **limits: float) -> Chunk:
    return Chunk(
        job_id=JobId("j"),
        chunk_id=ChunkId("00000003"),
        first_call=10,
        n_calls=n_calls,
        python="3.11",
        manifest_key="jobs/j/manifest",
        manifest_sha256="",
        args=ArgsLocation(key="", offset=0, length=0, sha256=""),
        reply_queue="",
        audience="",
        host_send_timestamp=0.0,
        expiry_timestamp=0.0,
        limits=replace(Limits(), **limits),  # type: ignore[arg-type]
    )


def holding(
    delivery: int = 1, known: ResultObject | None = None, resolved: frozenset[int] = frozenset(), **kw
) -> Holding:
    c = chunk(**kw)
    args = pack_calls((c.first_call + i, 1, b"") for i in range(c.n_calls))
    table = CallTable.read(args, n_bytes=len(args), first_call=c.first_call, n_calls=c.n_calls)
    arrived = Arrived(
        chunk=c,
        receipt_handle="h",
        delivery=delivery,
        job=JOB,
        args=args,
        table=table,
        known=known,
        resolved=resolved,
    )
    return Holding(arrived, instance_id="i-1", held_since=0.0)


def empty_object(n_calls: int = 4) -> ResultObject:
    return ResultObject(
        job_id=JobId("j"), chunk_id=ChunkId("00000003"), first_call=10, n_calls=n_calls, left_out=((10, 10 + n_calls),)
    )


def taken(h: Holding, n: int = 100) -> list[int]:
    return list(h.take(n, now=1.0).calls)


def run(h: Holding, *indexes: int) -> None:
    for index in indexes:
        assert h.outcome(index, records.pack_record(index, records.SUCCESS, b"v"))


def puts(h: Holding, *, split: bool = False) -> list[Put]:
    return h.puts(split=split, timestamp=5.0)


def test_ranges_are_the_shortest_cover():
    assert ranges([5, 3, 4, 9]) == ((3, 6), (9, 10))
    assert ranges([]) == ()


def test_nothing_is_stored_before_all_calls_are_done_and_nothing_may_be_deleted_before_it_is_stored():
    h = holding()
    assert taken(h) == [10, 11, 12, 13]
    run(h, 10, 11, 12)
    assert puts(h) == []
    run(h, 13)
    (put,) = puts(h)
    assert put.call_index is None
    assert put.result.left_out == ()
    assert len(put.records) == 4
    assert not h.covered
    assert puts(h) == []  # in flight
    h.stored(None, None)
    assert h.covered


def test_a_failed_put_is_made_again():
    h = holding()
    taken(h)
    run(h, 10, 11, 12, 13)
    assert len(puts(h)) == 1
    h.put_failed(None)
    assert not h.covered
    assert len(puts(h)) == 1


def test_a_split_leaves_calls_out_and_gives_them_keys_of_their_own():
    h = holding()
    taken(h)
    run(h, 10, 12)
    (put,) = puts(h, split=True)
    assert put.result.left_out == ((11, 12), (13, 14))
    run(h, 11)
    assert puts(h) == []  # until the object is there, nobody knows whether it leaves the call out
    h.stored(None, None)
    (own,) = puts(h)
    assert own.call_index == 11
    assert own.result.call_index == 11
    h.stored(11, None)
    assert not h.covered
    run(h, 13)
    assert [put.call_index for put in puts(h)] == [13]
    h.stored(13, None)
    assert h.covered


def test_a_taken_key_is_the_truth_and_only_what_it_leaves_out_is_published():
    h = holding()
    taken(h)
    run(h, 10, 11, 12, 13)
    puts(h)
    h.stored(None, replace(empty_object(), left_out=((12, 13),)))
    assert [put.call_index for put in puts(h)] == [12]
    assert not h.covered
    h.stored(12, None)
    assert h.covered


def test_a_redelivery_runs_only_what_has_no_outcome_and_publishes_under_own_keys():
    h = holding(delivery=2, known=empty_object(), resolved=frozenset({11}))
    assert taken(h) == [10, 12, 13]
    run(h, 12)
    assert [put.call_index for put in puts(h)] == [12]


def test_a_delivery_that_is_found_done_may_go_at_once():
    assert holding(delivery=2, known=replace(empty_object(), left_out=())).covered
    assert holding(delivery=2, known=empty_object(), resolved=frozenset(range(10, 14))).covered


@pytest.mark.parametrize(
    ("delivery", "expected"), [(2, [10, 11, 12, 13]), (3, [13, 12, 11, 10]), (4, [10, 11, 12, 13])]
)
def test_later_deliveries_come_from_either_end_by_turns(delivery, expected):
    assert taken(holding(delivery=delivery, known=empty_object())) == expected


def test_late_deliveries_are_shuffled_so_that_calls_between_two_bad_ones_are_reached():
    orders = [taken(holding(delivery=d, known=empty_object(20), n_calls=20)) for d in (6, 7, 8, 9)]
    assert all(sorted(order) == list(range(10, 30)) for order in orders)
    assert len({order[0] for order in orders}) > 1


def test_attempts_are_counted_for_crashes_and_not_for_neighbours():
    h = holding(max_attempts=2)
    assert not h.take(2, now=0.0).attempts
    assert h.crashed(10)
    h.put_back([10, 11])
    run = h.take(2, now=0.0)
    assert (run.calls, run.attempts) == ([10, 11], {10: 2})
    assert not h.crashed(10)


def test_retries_are_the_users_own_budget():
    h = holding(retries=1)
    taken(h)
    assert h.failed(10)
    assert not h.failed(10)
    assert h.crashed(10)  # another budget


def test_an_outcome_counts_once():
    h = holding()
    taken(h)
    run(h, 10)
    assert not h.outcome(10, records.pack_record(10, records.FAILURE, b"other"))
    assert not h.outcome(99, records.pack_record(99, records.SUCCESS, b""))


def test_outcomes_that_do_not_fit_one_object_ask_for_a_split():
    h = holding(n_calls=20)
    taken(h)
    for index in range(10, 20):
        h.outcome(index, records.pack_record(index, records.SUCCESS, bytes(MAX_RESULT_BYTES // 10)))
    assert h.oversized


def test_a_call_that_rests_is_kept_from_the_queue_until_its_time():
    h = holding()
    taken(h)
    for index in (10, 11, 12):
        run(h, index)
    h.rest(13, until=5.0)
    assert (h.n_waiting, h.n_running, h.only_rests, h.rests_until) == (0, 0, True, 5.0)
    (put,) = h.puts(split=True, timestamp=0.0)
    assert put.result.left_out == ((13, 14),)  # its neighbours do not wait with it
    h.wake(4.9)
    assert h.n_waiting == 0
    h.wake(5.0)
    assert (h.n_waiting, h.only_rests, h.rests_until) == (1, False, math.inf)


def test_a_resting_call_is_forgotten_by_a_drain_and_by_another_s_outcome():
    h = holding()
    taken(h)
    h.rest(10, until=5.0)
    h.rest(11, until=6.0)
    h.learn_object(replace(empty_object(), left_out=((11, 14),)))
    assert h.rests_until == 6.0
    assert h.give_up_waiting() == [11]
    assert h.rests_until == math.inf
