"""On paper: what a fleet of 100, 1,000 and 10,000 instances would run into first. From measured parts and AWS's limits.

Nothing of this was run on AWS. The fleet is kept busy by one client with chunks of one second, four slots an instance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.figures import Figure
from benchmarks.tables import number, table

__all__ = ["Costs", "Limit", "costs", "limits", "section"]

_SLOTS = 4
_CHUNK_TIME = 1.0
_SIZES = (100, 1000, 10_000)
#: Source: "Amazon SQS quotas", read 2026-11: about 120,000 messages of a standard queue may be in flight.
_IN_FLIGHT = 120_000.0
#: Source: "Best practices design patterns: optimizing Amazon S3 performance", read 2026-11: a second and partition.
_S3_PUTS, _S3_GETS = 3500.0, 5500.0
#: Not measured: what a ReceiveMessage of ten takes inside a region, in seconds.
_RECEIVE_TIME = 0.015
_RECEIVED = 10
#: Source: EC2's throttling page, read 2026-11: a bucket of 1,000 instances, 2 more a second.
_LAUNCH_BUCKET, _LAUNCH_RATE = 1000, 2.0
#: Source: botocore's model of CreateLogStream, read 2026-11: 50 a second. An instance has three streams.
_STREAMS, _STREAM_RATE = 3, 50.0

_TEXT = """\
## On paper: 100, 1,000 and 10,000 instances

Not run on AWS. One client keeps all instances ({slots} slots each) busy with chunks of {chunk} s. A call costs the
client {per_call} µs and a chunk {per_chunk} µs of CPU (from `noop_20000` and `sleep_10ms` above); the limits are AWS's
published ones. The share of each that is used:

{table}

More clients divide the client's rows. Besides, once per fleet: launching takes what EC2's bucket of 1,000 instances and
2 more a second allows ({launches}), and log streams are made at 50 a second ({streams})."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """A client's CPU seconds: for a call, and for a chunk beside its calls."""

    per_call: float
    per_chunk: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Something that there is only so much of; ``load`` is the used share by number of instances."""

    what: str
    load: Callable[[int], float]

    @property
    def n_instances(self) -> float:
        """Return how many instances use it up."""
        return 1.0 / self.load(1)


def costs(cells: Mapping[tuple[str, str], Mapping[str, Figure]]) -> Costs | None:
    """Return what calls and chunks cost the client, from a run of few chunks and one of many; None without both."""
    few, many = cells.get(("noop_20000", "wren"), {}), cells.get(("sleep_10ms", "wren"), {})
    needed = ("cpu_s_per_1000_client", "n_calls", "n_chunks")
    if any(name not in told for told in (few, many) for name in needed):
        return None
    (cpu_few, calls_few, chunks_few), (cpu_many, calls_many, chunks_many) = (
        [told[name].value for name in needed] for told in (few, many)
    )
    # two equations: CPU is so much for each call, and so much for each chunk
    total_few, total_many = cpu_few * calls_few / 1000, cpu_many * calls_many / 1000
    determinant = calls_few * chunks_many - calls_many * chunks_few
    if determinant <= 0:
        return None
    per_call = (total_few * chunks_many - total_many * chunks_few) / determinant
    per_chunk = (calls_few * total_many - calls_many * total_few) / determinant
    return Costs(per_call=max(per_call, 0.0), per_chunk=max(per_chunk, 0.0))


def limits(found: Costs) -> list[Limit]:
    """Return the limits, the one that is reached first first."""

    def chunks(n_instances: int) -> float:
        return n_instances * _SLOTS / _CHUNK_TIME

    def client(call_time: float) -> Callable[[int], float]:
        return lambda n: chunks(n) * (found.per_chunk + found.per_call * _CHUNK_TIME / call_time)

    all_limits = [
        Limit(what="client's one core, calls of 1 s", load=client(1.0)),
        Limit(what="client's one core, calls of 10 ms", load=client(0.01)),
        Limit(what="client's one core, calls of 1 ms", load=client(0.001)),
        Limit(
            what=f"client's one reader of the reply queue (ten notices in {_RECEIVE_TIME * 1000:.0f} ms, not measured)",
            load=lambda n: chunks(n) / _RECEIVED * _RECEIVE_TIME,
        ),
        Limit(
            what="S3: 3,500 PUT a second under `results/`, until it is partitioned", load=lambda n: chunks(n) / _S3_PUTS
        ),
        Limit(what="SQS: 120,000 messages in flight, two a slot", load=lambda n: 2 * n * _SLOTS / _IN_FLIGHT),
        Limit(
            what="S3: 5,500 GET a second, each instance reads a new job's manifest at once", load=lambda n: n / _S3_GETS
        ),
    ]
    return sorted(all_limits, key=lambda one: one.n_instances)


def section(cells: Mapping[tuple[str, str], Mapping[str, Figure]]) -> str:
    """Return the page's part, "" without the measurements that it starts from."""
    found = costs(cells)
    if found is None:
        return ""
    lines = [
        [one.what, *(f"{number(one.load(size) * 100)} %" for size in _SIZES), f"{one.n_instances:,.0f}"]
        for one in limits(found)
    ]
    columns = ["", *(f"{size:,}" for size in _SIZES), "full at instances"]
    launches = ", ".join(f"{size:,}: {_minutes(max(0, size - _LAUNCH_BUCKET) / _LAUNCH_RATE)}" for size in _SIZES)
    streams = ", ".join(f"{size:,}: {_minutes(size * _STREAMS / _STREAM_RATE)}" for size in _SIZES)
    return _TEXT.format(
        slots=_SLOTS,
        chunk=f"{_CHUNK_TIME:g}",
        per_call=number(found.per_call * 1e6),
        per_chunk=number(found.per_chunk * 1e6),
        table=table(columns, lines),
        launches=launches,
        streams=streams,
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
