"""Markdown tables and numbers for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.catalogue import Workload
from benchmarks.figures import Figure

__all__ = ["cell", "headline", "number", "table"]

#: Kind of workload -> the figures that say most, the first that is there is taken.
_HEADLINES = {
    "latency": ("latency_p50_s",),
    "dgemm": ("gflops_per_slot",),
    "sleeps": ("wall_over_ideal",),
    "idle": ("daemon_cpu_percent",),
    "first_result": ("wall_s",),
    "blobs": ("wall_s",),
    "shared_array": ("wall_s",),
}


def headline(row: Workload, told: Mapping[str, Figure]) -> str:
    """Return the metric that stands for a workload, "" when it was not measured."""
    metrics: tuple[str, ...] = (*_HEADLINES.get(row.kind, ()), "calls_per_s")
    for metric in metrics:
        if metric in told:
            return metric
    return ""


def number(value: float) -> str:
    """Return three significant digits, thousands apart; never an exponent."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    if size < 0.1:
        digits = 4 if size >= 0.01 else 6
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def cell(figure: Figure | None) -> str:
    """Return median and spread: "1,234 (1,200–1,300)"."""
    if figure is None:
        return "–"
    middle, low, high = number(figure.value), number(min(figure.runs)), number(max(figure.runs))
    return middle if low == high else f"{middle} ({low}–{high})"


def table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    head = f"| {' | '.join(columns)} |"
    rule = "|" + "---|" + "---:|" * (len(columns) - 1)
    return "\n".join([head, rule, *(f"| {' | '.join(line)} |" for line in lines)])
