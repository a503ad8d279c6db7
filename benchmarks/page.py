"""``docs/benchmarks.md``, written from the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks import paper
from benchmarks.catalogue import N_WORKERS, SYSTEMS, Workload
from benchmarks.figures import Figure
from benchmarks.schedule import in_order_makespan
from benchmarks.tables import cell, headline, number, table

__all__ = ["page"]

Cells = Mapping[tuple[str, str], Mapping[str, Figure]]

_INTRODUCTION = """\
# Benchmarks

Written by `make bench`; do not edit. {facts}

Every system runs on this one machine with two slots or workers, in its own virtual environment with pinned
versions (`benchmarks/peers/*.txt`). Figures are medians of {runs}, with the lowest and the highest run in brackets;
within a round the systems take turns. Ours runs through the whole path: client, SQS, S3 and EC2 emulated on this
machine, two instances with supervisord and a daemon each, one slot an instance, launched by the command line. The
emulator shares the cores with everything else and is reported apart. The others keep everything in memory or on
local disk, are not durable, and have no emulator to feed (but Celery). Slow systems run fewer calls. What every call
returned is compared with what it should have.
{quick}"""


def page(found: Sequence[Figure], rows: Sequence[Workload], machine: Mapping[str, str], *, quick: bool) -> str:
    """Return the whole page."""
    cells: dict[tuple[str, str], dict[str, Figure]] = {}
    for one in found:
        cells.setdefault((one.workload, one.system), {})[one.metric] = one
    parts = [_introduction(found, machine, quick=quick)]
    parts += [_workload(row, cells) for row in rows if any(name == row.name for name, _ in cells)]
    parts += [_ours(rows, cells), paper.section(cells), _RUNNING]
    return "\n\n".join(part for part in parts if part) + "\n"


def _introduction(found: Sequence[Figure], machine: Mapping[str, str], *, quick: bool) -> str:
    counts = sorted({len(one.runs) for one in found if not one.workload.startswith("idle")})
    facts = "{date}, {cores} cores, {memory}, {system}, Python {python}.".format(**machine)
    runs = f"{counts[0]} runs" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} runs" if counts else "no runs"
    note = "These are the figures of `make bench-quick`: fewer calls, fewer workloads.\n" if quick else ""
    return _INTRODUCTION.format(facts=facts, runs=runs, quick=note).rstrip()


_OURS = """\
## What a call of ours costs

CPU seconds per 1,000 calls by place; requests with polling included; dollars at list price (us-east-1) for SQS and S3,
instances and logs not included.

{table}

{operations}"""

_RUNNING = """\
## Running it

`make bench-quick` takes about three minutes once its environments are made (the first time installs the peers, 1.2 GB,
under `benchmarks/.venvs`), `make bench` measures everything and takes the better part of an hour. A part of it:
`python3 -m benchmarks --workload noop_20000,latency --system wren,ray --rounds 5`; `--list` names workloads and
systems, `--no-write` leaves this page as it is. What is measured is the code that lies in the checkout. All figures,
each run's included, stand in `benchmarks/results/latest.json`. A fleet of your own: `wren-standalone bench --help`."""

_NAMES = {
    "calls_per_s": "calls/s",
    "wall_s": "seconds",
    "wall_over_ideal": "wall ÷ ideal",
    "latency_p50_s": "p50, s",
    "latency_p99_s": "p99, s",
    "emulator_path_p50_s": "emulator's own, s",
    "p50_over_emulator_path": "p50 ÷ emulator's own",
    "gflops_per_slot": "GFLOPS a slot",
    "gflops_total": "GFLOPS in all",
    "cpu_s_per_1000": "CPU s / 1,000 calls",
    "client_peak_rss_mb": "client's peak RSS, MB",
    "n_calls": "calls",
    "bare_gflops_per_slot": "bare numpy beside it",
    "gflops_over_bare": "÷ bare numpy",
    "client_rss_over_array": "client's RSS ÷ array",
    "in_function_share": "inside the function",
    "daemon_cpu_percent": "CPU, % of a core",
    "daemon_rss_mb": "RSS, MB",
    "requests_per_hour": "requests / h",
}
_BESIDE = (
    "latency_p99_s",
    "emulator_path_p50_s",
    "p50_over_emulator_path",
    "bare_gflops_per_slot",
    "gflops_over_bare",
    "gflops_total",
    "client_rss_over_array",
    "requests_per_hour",
    "daemon_rss_mb",
)


def _workload(row: Workload, cells: Cells) -> str:
    mine = {system: cells[row.name, system] for system in SYSTEMS if (row.name, system) in cells}
    metric = next(filter(None, (headline(row, told) for told in mine.values())), "")
    if not metric:
        return ""
    columns = [metric]
    beside = (*_BESIDE, *(("in_function_share",) if row.kind in ("sleeps", "regressions") else ()))
    columns += [name for name in beside if any(name in told for told in mine.values())]
    if row.kind in ("blobs", "shared_array") or row.name.startswith("growth"):
        columns.append("client_peak_rss_mb")
    if row.kind not in ("latency", "idle", "first_result", "dgemm"):
        columns.append("cpu_s_per_1000")
    columns += [] if row.kind == "idle" else ["n_calls"]
    with_ratio = metric == "calls_per_s" and "wren" in mine and len(mine) > 1
    lines = []
    for system, told in mine.items():
        line = [SYSTEMS[system].title, *(cell(told.get(name)) for name in columns)]
        if with_ratio:
            line.append(f"{number(mine['wren'][metric].value / told[metric].value)} ×")
        lines.append(line)
    heads = ["", *(_NAMES.get(name, name) for name in columns), *(["ours is"] if with_ratio else [])]
    ideal = ""
    if row.ideal_for():
        in_order = in_order_makespan(row.params["times"], N_WORKERS)
        ideal = (
            f" No schedule ends before {number(row.ideal_for())} s; dealt in order to free slots, {number(in_order)} s."
        )
    return f"## {row.title}\n\n`{row.name}`.{ideal}\n\n{table(heads, lines)}"


def _ours(rows: Sequence[Workload], cells: Cells) -> str:
    lines, by_operation = [], []
    for row in rows:
        told = cells.get((row.name, "wren"), {})
        if "requests_total_per_1000" not in told:
            continue
        places = [told.get(f"cpu_s_per_1000_{place}") for place in ("client", "daemon", "slot", "other", "emulator")]
        money = [told.get("requests_total_per_1000"), told.get("usd_per_million")]
        lines.append([f"`{row.name}`", *(cell(one) for one in places), *(cell(one) for one in money)])
        start = "requests_per_1000:"
        counts = sorted(
            (one for name, one in told.items() if name.startswith(start) and one.value), key=lambda f: -f.value
        )
        text = ", ".join(f"{one.metric.removeprefix(start)} {number(one.value)}" for one in counts)
        by_operation.append([f"`{row.name}`", text])
    if not lines:
        return ""
    columns = [
        "",
        "client",
        "daemons",
        "slots",
        "rest of the instances",
        "emulator",
        "requests / 1,000 calls",
        "$ / million calls",
    ]
    operations = "\n".join(
        ["| | AWS requests per 1,000 calls, by operation |", "|---|---|"] + [f"| {a} | {b} |" for a, b in by_operation]
    )
    return _OURS.format(table=table(columns, lines), operations=operations)
