"""From raw measurements to figures: rates per thousand calls, prices, medians with their spread. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Figure", "derive", "figures", "unit_of", "usd"]

#: Dollars. Source: AWS's price lists for us-east-1, read 2026-11: SQS standard $0.40 a million units of 64 KB;
#: S3 PUT, COPY, POST and LIST $5 a million, GET and all others $0.40, DELETE and CANCEL free.
_SQS_UNIT = 0.40e-6
_S3_PUT = 5e-6
_S3_GET = 0.40e-6
_S3_PUTS = ("Put", "Copy", "List", "Create", "Complete", "Upload", "Post")
_S3_FREE = ("Delete", "Abort")

_UNITS = {
    "calls_per_s": "1/s",
    "gflops_per_slot": "GFLOPS",
    "gflops_total": "GFLOPS",
    "bare_gflops_per_slot": "GFLOPS",
    "n_calls": "calls",
    "n_chunks": "chunks",
    "usd_per_million": "$",
    "daemon_cpu_percent": "%",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One cell: the median of the runs, and the runs."""

    workload: str
    system: str
    metric: str
    value: float
    unit: str
    runs: tuple[float, ...]

    def as_json(self) -> dict[str, object]:
        """Return what stands in ``latest.json``."""
        return {
            "workload": self.workload,
            "system": self.system,
            "metric": self.metric,
            "value": self.value,
            "unit": self.unit,
            "runs": list(self.runs),
        }


def usd(units: Mapping[str, float]) -> float:
    """Return the list price of billed units by "service.Operation"; what is neither SQS nor S3 costs nothing here."""
    total = 0.0
    for name, count in units.items():
        service, _, operation = name.partition(".")
        if service == "sqs":
            total += count * _SQS_UNIT
        elif service == "s3" and not operation.startswith(_S3_FREE):
            total += count * (_S3_PUT if operation.startswith(_S3_PUTS) else _S3_GET)
    return total


def derive(raw: Mapping[str, float], *, ideal_time: float = 0.0) -> dict[str, float]:
    """Return the figures of one run: counters per thousand calls, dollars per million, the wall over its ideal.

    Args:
        raw: What a runner told; counters are named "grown:…".
        ideal_time: The seconds that nobody can beat, 0 if unknown.
    """
    told = {name: value for name, value in raw.items() if not name.startswith("grown:")}
    n_calls = raw["n_calls"]
    counters = {name.removeprefix("grown:"): value for name, value in raw.items() if name.startswith("grown:")}
    if n_calls:
        told |= _per_thousand(counters, n_calls)
    if ideal_time:
        told["ideal_s"] = ideal_time
        told["wall_over_ideal"] = raw["wall_s"] / ideal_time
    return told


def _per_thousand(counters: Mapping[str, float], n_calls: float) -> dict[str, float]:
    told: dict[str, float] = {}
    requests = {name.partition(":")[2]: n for name, n in counters.items() if name.startswith("requests:") and n}
    units = {name.partition(":")[2]: n for name, n in counters.items() if name.startswith("units:")}
    for name, count in requests.items():
        told[f"requests_per_1000:{name}"] = count * 1000 / n_calls
    if units:
        told["requests_total_per_1000"] = sum(requests.values()) * 1000 / n_calls
        told["usd_per_million"] = usd(units) * 1e6 / n_calls
    cpu = {name.removeprefix("cpu_").removesuffix("_s"): v for name, v in counters.items() if name.startswith("cpu_")}
    for place, seconds in cpu.items():
        told[f"cpu_s_per_1000_{place}" if place != "s" else "cpu_s_per_1000"] = seconds * 1000 / n_calls
    if "client" in cpu:
        # the emulator is no part of ours, and stands apart
        told["cpu_s_per_1000"] = sum(cpu.get(place, 0.0) for place in ("client", "daemon", "slot")) * 1000 / n_calls
    return told


def unit_of(metric: str) -> str:
    """Return what a metric counts."""
    if metric in _UNITS:
        return _UNITS[metric]
    for end, unit in (("_mb", "MB"), ("_s", "s"), ("_share", "share"), ("_over_ideal", "ratio")):
        if metric.endswith(end):
            return unit
    if metric.startswith("cpu_s_per_1000"):
        return "CPU s / 1,000 calls"
    if metric.startswith(("requests_per_1000", "requests_total_per_1000")):
        return "requests / 1,000 calls"
    return "requests / h" if metric.startswith("requests_per_hour") else "ratio"


def figures(runs: Iterable[tuple[str, str, Mapping[str, float]]]) -> list[Figure]:
    """Return the median of each metric over runs of ``(workload, system, figures)``, in the order of their coming.

    A metric that a run does not have (an operation that it did not make) counts as 0 there if it is a count.
    """
    cells: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for workload, system, told in runs:
        cells.setdefault((workload, system), []).append(told)
    found = []
    for (workload, system), all_told in cells.items():
        for metric in dict.fromkeys(name for told in all_told for name in told):
            is_count = metric.startswith("requests_per_")
            values = tuple(told.get(metric, 0.0) for told in all_told if metric in told or is_count)
            found.append(
                Figure(
                    workload=workload,
                    system=system,
                    metric=metric,
                    value=statistics.median(values),
                    unit=unit_of(metric),
                    runs=values,
                )
            )
    return found
