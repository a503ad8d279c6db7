"""What must never be, whatever was broken: read from the record after the fact. Pure.

Each check returns what it found wrong; nothing found is no proof, so tests show each of them finding something.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wren_worker.chaos.leases import lapses
from wren_worker.chaos.record import Delivery, Entry, Record
from wren_worker.chaos.subject import CLIENT
from wren_worker.chaos.violations import Violation

__all__ = ["Budget", "Coverage", "Violation", "check"]

_WRITES = ("s3.PutObject", "s3.CompleteMultipartUpload")
_DELETES = ("sqs.DeleteMessage", "sqs.DeleteMessageBatch")
_HANDLES_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How many requests of the data path are no storm; generous: what it is to catch is a loop without a pause."""

    base: int = 200
    per_delivery: float = 8.0
    per_call: float = 4.0
    per_instance_second: float = 6.0
    per_client_second: float = 6.0
    per_fault: float = 10.0
    per_mebibyte: float = 4.0

    def allowed(self, record: Record) -> float:
        """Return the bound for what a record shows was done."""
        entries = list(record.entries)
        chunks = {(d.job_id, d.chunk_id): d.n_calls for e in entries for d in e.deliveries if d.job_id}
        return (
            self.base
            + self.per_delivery * sum(len(entry.deliveries) for entry in entries)
            + self.per_call * sum(chunks.values())
            + sum(
                seconds * (self.per_client_second if caller == CLIENT else self.per_instance_second)
                for caller, seconds in _seconds_by_caller(entries).items()
            )
            + self.per_fault * (sum(record.injected().values()) + len(record.notes))
            + self.per_mebibyte * sum(entry.sent_bytes + entry.told_bytes for entry in entries) / 2**20
        )


def _seconds_by_caller(entries: list[Entry]) -> Mapping[str, float]:
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for entry in entries:
        first.setdefault(entry.caller, entry.began_time)
        last[entry.caller] = entry.began_time
    return {caller: last[caller] - began for caller, began in first.items()}


class Coverage:
    """Which calls have a durable outcome, and by how many objects, as the record goes on."""

    def __init__(self) -> None:
        self.covered: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)

    def write(self, entry: Entry) -> list[str]:
        """Take a result object that was written; return what it gives a second outcome to."""
        head = entry.result
        if head is None:
            return []
        calls = self.covered[head.job_id, head.chunk_id]
        if head.call_index is not None:
            own = [head.call_index]
        else:
            left_out = {call for first, end in head.left_out for call in range(first, end)}
            own = [call for call in range(head.first_call, head.first_call + head.n_calls) if call not in left_out]
        twice = [f"call {call} of {entry.key} is in {calls[call]}, too" for call in own if call in calls]
        calls.update(dict.fromkeys(own, entry.key))
        return twice

    def missing(self, delivery: Delivery) -> list[int]:
        """Return the calls of a delivery without a durable outcome."""
        calls = self.covered[delivery.job_id, delivery.chunk_id]
        return [n for n in range(delivery.first_call, delivery.first_call + delivery.n_calls) if n not in calls]


def _done(entry: Entry, operations: tuple[str, ...]) -> bool:
    return entry.operation in operations and entry.applied > 0 and entry.status == 200


def _written_once(record: Record) -> Iterator[Violation]:
    """No result object is written twice, nor in a way that could overwrite one; no call has two outcomes."""
    written: dict[str, Entry] = {}
    coverage = Coverage()
    for entry in sorted(record.entries, key=lambda one: one.applied):
        if not entry.key.startswith("results/"):
            continue
        if _done(entry, ("s3.DeleteObject",)):
            written.pop(entry.key, None)
        if not _done(entry, _WRITES):
            continue
        if not entry.conditional:
            yield Violation("written once", f"{entry.key} was written without If-None-Match by {entry.caller}")
        if entry.key in written:
            who = f"{written[entry.key].caller} and {entry.caller}"
            yield Violation("written once", f"{entry.key} was written twice, by {who}")
        else:
            for text in coverage.write(entry):
                yield Violation("resolved once", text)
        written[entry.key] = entry


def _stored_before_deleted(record: Record) -> Iterator[Violation]:
    """No chunk's message is deleted before all its calls have durable outcomes."""
    deliveries = {d.receipt_handle: d for entry in record.entries for d in entry.deliveries if d.job_id}
    coverage = Coverage()
    events: list[tuple[int, Entry, bool]] = []
    for entry in record.entries:
        if _done(entry, _WRITES):
            events.append((entry.applied, entry, True))
        elif _done(entry, _DELETES):
            events.append((entry.began, entry, False))
    for _, entry, is_write in sorted(events, key=lambda one: one[0]):
        if is_write:
            coverage.write(entry)
            continue
        for handle in entry.handles:
            delivery = deliveries.get(handle)
            missing = coverage.missing(delivery) if delivery else []
            if delivery and missing:
                what = f"chunk {delivery.chunk_id} of {delivery.job_id}"
                shown = ", ".join(map(str, missing[:_HANDLES_SHOWN]))
                text = f"{entry.caller} deleted {what} with {len(missing)} calls without an outcome ({shown}, …)"
                yield Violation("stored before deleted", text)


def _within_budget(record: Record, budget: Budget) -> Iterator[Violation]:
    data_path = [entry for entry in record.entries if entry.operation.startswith(("sqs.", "s3."))]
    allowed = budget.allowed(record)
    if len(data_path) > allowed:
        most = record.counts().most_common(3)
        text = f"{len(data_path)} requests, {allowed:.0f} are the bound; most: {most}"
        yield Violation("requests within budget", text)


def check(record: Record, *, budget: Budget | None = None) -> list[Violation]:
    """Return what the record shows that must never be."""
    return [
        *_written_once(record),
        *_stored_before_deleted(record),
        *lapses(record),
        *_within_budget(record, budget or Budget()),
        *(Violation("the kit itself", note.detail) for note in record.notes if note.kind.startswith("defect")),
    ]
