"""One invocation: choose, install, measure, write."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from benchmarks import catalogue, facts, figures, install, report, runs

__all__ = ["run"]

RESULTS = install.FOLDER / "results" / "latest.json"
PAGE = install.CHECKOUT / "docs" / "benchmarks.md"


def run(
    *, quick: bool, names: Sequence[str], systems: Sequence[str], n_rounds: int, write: bool, list_only: bool
) -> int:
    """Measure; return the exit code. A part of the suite replaces just its own figures in the results.

    Args:
        quick: The small workloads only, with fewer calls.
        names: Workloads; empty for all.
        systems: Columns; empty for all.
        n_rounds: How often everything runs.
        write: Whether to write results and page.
        list_only: Say what there is.
    """
    rows = catalogue.workloads(quick=quick)
    if list_only:
        report.print_choice(rows)
        return 0
    unknown = [one for one in names if one not in {row.name for row in rows}]
    unknown += [one for one in systems if one not in catalogue.SYSTEMS]
    if unknown:
        print(f"there is no {', '.join(unknown)}; --list shows what there is", file=sys.stderr)
        return 2
    chosen = [row for row in rows if not names or row.name in names]
    columns = [name for name in catalogue.SYSTEMS if not systems or name in systems]
    needed = {catalogue.SYSTEMS[name].venv for row in chosen for name in row.systems if name in columns}
    for venv in sorted(needed):
        install.ensure(venv)
    by_name = {row.name: row for row in rows}
    failures: list[str] = []
    measured: list[tuple[str, str, dict[str, float]]] = []
    try:
        for one in runs.measure(chosen, columns, n_rounds=n_rounds, say=_say, complain=failures.append):
            ideal_time = by_name[one.workload].ideal_for(one.system)
            measured.append((one.workload, one.system, figures.derive(one.figures, ideal_time=ideal_time)))
    except KeyboardInterrupt:
        failures.append("interrupted: what had been measured until then follows")
    found = figures.figures(measured)
    report.print_figures(found, chosen)
    if write:
        _write(found, quick=quick)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


def _write(found: list[figures.Figure], *, quick: bool) -> None:
    new = {(one.workload, one.system) for one in found}
    kept = [one for one in report.load(RESULTS) if (one.workload, one.system) not in new]
    rows = catalogue.workloads(quick=False)  # what the quick ones leave out stands there from before
    everything = report.in_order(kept + found, rows)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([one.as_json() for one in everything], indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(report.page(everything, rows, facts.machine(), quick=quick), encoding="utf-8")
