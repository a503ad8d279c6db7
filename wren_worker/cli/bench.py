"""``wren-standalone bench``: the headline figures of the fleet that is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click

from wren_worker.cli.main import Context, pass_context
from wren_worker.wiring.bench import Bench, open_bench

__all__ = ["bench"]

_SOME = click.IntRange(min=1)


@click.group()
def bench() -> None:
    """Measure the fleet that is there: latency, calls/s, GFLOPS, and how it scales."""


@contextmanager
def _open(context: Context) -> Iterator[Bench]:
    made = open_bench(context.settings)
    try:
        yield made
    finally:
        made.close()


def _calls(default: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--calls", type=_SOME, default=default, show_default=True, help="How many calls.")


@bench.command()
@_calls(100)
@pass_context
def latency(context: Context, *, calls: int) -> None:
    """Time single calls, one after the other, on a warm fleet."""
    with _open(context) as fleet:
        found = fleet.latency(n_calls=calls)
    context.output.data(asdict(found))
    context.output.say(
        f"one call: p50 {found.p50_time * 1000:.1f} ms, p99 {found.p99_time * 1000:.1f} ms, "
        f"best {found.shortest_time * 1000:.1f} ms ({found.n_calls} calls)"
    )


@bench.command()
@_calls(20_000)
@click.option("--s3", is_flag=True, help="Then arguments and results of --megabytes each, which travel through S3.")
@click.option("--megabytes", type=_SOME, default=8, show_default=True, help="For --s3.")
@pass_context
def throughput(context: Context, *, calls: int, s3: bool, megabytes: int) -> None:
    """Count calls per second that do nothing, in one map."""
    with _open(context) as fleet:
        found = fleet.throughput(n_calls=calls)
        moved = fleet.transfer(n_calls=4 * fleet.n_slots, bytes_each=megabytes * 1_000_000) if s3 else None
        n_slots = fleet.n_slots
    context.output.data({**asdict(found), "n_slots": n_slots, "s3": None if moved is None else asdict(moved)})
    context.output.say(
        f"{found.calls_per_second:,.0f} calls/s on {n_slots} slots ({found.n_calls:,} in {found.time:.2f} s)"
    )
    if moved is not None:
        context.output.say(
            f"arguments to the calls {moved.arguments_mb_per_second:,.0f} MB/s, results back "
            f"{moved.results_mb_per_second:,.0f} MB/s ({moved.n_calls} × {megabytes} MB each way)"
        )


@bench.command()
@click.option("--size", type=_SOME, default=2048, show_default=True, help="Rows and columns of the matrices.")
@click.option("--products", type=_SOME, default=10, show_default=True, help="How many products a call computes.")
@pass_context
def flops(context: Context, *, size: int, products: int) -> None:
    """Multiply matrices of doubles in every slot at once (dgemm, with the numpy that calls find)."""
    with _open(context) as fleet:
        found = fleet.flops(size=size, n_products=products)
    context.output.data(asdict(found))
    context.output.say(
        f"{found.gflops_per_slot:.1f} GFLOPS a slot, {found.gflops_total:.1f} in {found.n_slots} slots; "
        f"{found.gflops_of_the_job:.1f} from map to last result"
    )


@bench.command()
@pass_context
def scale(context: Context) -> None:
    """Run equal pieces of work on 1, 2, 4, … slots at once, up to all."""
    with _open(context) as fleet:
        steps = fleet.scale()
    rows = [
        {
            "slots": step.n_slots,
            "time_s": round(step.time, 3),
            "pieces_s": round(step.pieces_per_second, 2),
            "efficiency": round(step.efficiency, 2),
        }
        for step in steps
    ]
    context.output.table(["slots", "time_s", "pieces_s", "efficiency"], rows)
