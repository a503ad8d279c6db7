"""Finds leases that lapsed although their holder could have beaten. Pure.

A lease lapsed when its message was delivered again while nobody had given it back. The holder could have beaten when
its process demonstrably lived through that moment (it later used a connection that it had before), nothing is noted
against it or the machine, and none of its requests that a beat depends on was interfered with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from wren_worker.chaos.record import Delivery, Entry, Record
from wren_worker.chaos.violations import Violation

__all__ = ["lapses"]


@dataclass(frozen=True, slots=True)
class _Held:
    delivery: Delivery
    entry: Entry


def lapses(record: Record) -> Iterator[Violation]:
    """Yield a violation for each lease that lapsed without need."""
    entries = list(record.entries)
    by_message: dict[str, list[_Held]] = defaultdict(list)
    by_caller: dict[str, list[Entry]] = defaultdict(list)
    first_use: dict[int, int] = {}
    for entry in entries:
        by_caller[entry.caller].append(entry)
        first_use.setdefault(entry.connection, entry.began)
        for delivery in entry.deliveries:
            if delivery.job_id:
                by_message[delivery.message_id].append(_Held(delivery, entry))
    for message_id, held in by_message.items():
        tampered = any(note.detail == message_id for note in record.notes)
        for before, after in pairwise(held):
            if tampered or not _given_up(before, after, by_caller[before.entry.caller], first_use):
                continue
            if not _excused(before, after, by_caller[before.entry.caller], record):
                what = f"chunk {before.delivery.chunk_id} of {before.delivery.job_id}"
                took = after.entry.applied_time - before.entry.applied_time
                text = f"{before.entry.caller} held {what}, and {after.entry.caller} got it {took:.1f} s later"
                yield Violation("leases kept", text)


def _given_up(before: _Held, after: _Held, requests: list[Entry], first_use: dict[int, int]) -> bool:
    """Return whether a holder that lives let a lease lapse: it neither released nor tried to delete the message."""
    handle = before.delivery.receipt_handle
    lived_on = False
    for entry in requests:
        released = "Delete" in entry.operation or entry.lease_time < before.entry.lease_time
        if handle in entry.asked and entry.began < after.entry.applied and released:
            return False
        if entry.began > after.entry.applied and first_use[entry.connection] <= before.entry.began:
            lived_on = True
    return lived_on


def _excused(before: _Held, after: _Held, requests: list[Entry], record: Record) -> bool:
    start, end, caller = before.entry.began, after.entry.applied, before.entry.caller
    if any(
        start <= note.place <= end and (note.whom == caller or note.kind in ("stall", "storm")) for note in record.notes
    ):
        return True
    return any(
        entry.injected
        and (entry.operation.startswith("sqs.") or before.delivery.job_id in entry.key)
        and entry.began <= end
        and (entry.ended_time or after.entry.applied_time) >= before.entry.began_time
        for entry in requests
    )
