"""Results as text: what the terminal shows, and what ``latest.json`` held before."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.catalogue import SYSTEMS, Workload
from benchmarks.figures import Figure
from benchmarks.page import page
from benchmarks.tables import headline, number

__all__ = ["in_order", "load", "page", "print_choice", "print_figures"]

#: Beginnings of the metrics that the terminal shows beside the headline.
_SHOWN = (
    "latency_p99",
    "emulator_path",
    "p50_over",
    "gflops",
    "in_function",
    "daemon_rss",
    "requests_per_hour",
    "requests_total",
    "usd",
    "client_peak",
    "cpu_s_per_1000",
)


def load(path: Path) -> list[Figure]:
    """Return the figures of a results file, none when there is no file."""
    if not path.exists():
        return []
    told = json.loads(path.read_text(encoding="utf-8"))
    return [Figure(**{**one, "runs": tuple(one["runs"])}) for one in told]


def in_order(found: Iterable[Figure], rows: Sequence[Workload]) -> list[Figure]:
    """Return the figures by workload, system and metric, in the catalogue's order."""
    places = {row.name: place for place, row in enumerate(rows)}
    columns = {name: place for place, name in enumerate(SYSTEMS)}
    last = len(places)
    return sorted(found, key=lambda one: (places.get(one.workload, last), one.workload, columns.get(one.system, 99)))


def print_choice(rows: Sequence[Workload]) -> None:
    """Print the workloads with their systems."""
    for row in rows:
        print(f"{row.name:20} {row.title}\n{'':20} {' '.join(row.systems)}")


def print_figures(found: Sequence[Figure], rows: Sequence[Workload]) -> None:
    """Print one line per workload and system: its headline, and what it costs."""
    for row in rows:
        mine = [one for one in found if one.workload == row.name]
        for system in dict.fromkeys(one.system for one in mine):
            told = {one.metric: one for one in mine if one.system == system}
            metric = headline(row, told)
            parts = [f"{metric} {number(told[metric].value)}"] if metric else []
            shown = [name for name in told if name != metric and name.startswith(_SHOWN)]
            parts += [f"{name} {number(told[name].value)}" for name in shown]
            print(f"{row.name:18} {system:13} {'  '.join(parts)}")
