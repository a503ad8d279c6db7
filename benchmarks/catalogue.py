"""What is measured: the workloads, the systems, and which system runs how much of what."""

from __future__ import annotations

import csv
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from benchmarks.schedule import best_makespan_bound, pareto_times

__all__ = ["N_WORKERS", "SYSTEMS", "System", "Workload", "workloads"]

N_WORKERS = 2
_PARETO = pareto_times(400, ideal_time=10.7, n_slots=N_WORKERS)
_PARETO_SHORT = pareto_times(400, ideal_time=1.07, n_slots=N_WORKERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One column: a runner in an environment, with options."""

    venv: str
    runner: str
    #: What it needs around it: "" nothing, "sandbox" the emulator, "fleet" instances too.
    needs: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Calls are grouped by hand, at the chunk size that ours had in the same round.
    grouped: bool = False
    #: For people.
    title: str = ""


SYSTEMS: dict[str, System] = {
    "wren": System(venv="wren", runner="wren", needs="fleet", title="wren_worker, the whole path"),
    "pool": System(venv="pool", runner="pool", title="ProcessPoolExecutor, chunksize 1"),
    "pool_tuned": System(
        venv="pool", runner="pool", options={"chunksize": "best"}, title="ProcessPoolExecutor, best chunksize"
    ),
    "joblib": System(venv="joblib", runner="joblib", title="joblib/loky, batching by itself"),
    "ray": System(venv="ray", runner="ray", title="Ray, one task a call"),
    "ray_grouped": System(venv="ray", runner="ray", grouped=True, title="Ray, grouped by hand at our chunk size"),
    "dask": System(venv="dask", runner="dask", title="Dask distributed, one task a call"),
    "dask_grouped": System(venv="dask", runner="dask", grouped=True, title="Dask, grouped by hand at our chunk size"),
    "celery_sqs": System(
        venv="celery", runner="celery", needs="sandbox", title="Celery on the same SQS emulator, results in a folder"
    ),
    "celery_sqs_s3": System(
        venv="celery",
        runner="celery",
        needs="sandbox",
        options={"results": "s3"},
        title="Celery on the same SQS and S3 emulator",
    ),
    "lithops": System(venv="lithops", runner="lithops", title="Lithops, localhost"),
}

_ONE_BY_ONE = ("wren", "pool", "joblib", "ray", "dask", "celery_sqs", "lithops")
_ALL = tuple(SYSTEMS)
_LOCAL = ("wren", "pool", "joblib", "ray", "dask")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One row: what runs, on which systems."""

    name: str
    title: str
    kind: str
    params: Mapping[str, Any]
    systems: tuple[str, ...]
    #: Workloads of a group run in one start of a system.
    group: str
    #: System -> other parameters: slow ones shall end (with ten seconds of work), fast ones last long enough to time.
    fewer: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    n_instances: int = N_WORKERS
    n_rounds: int = 3

    def params_for(self, system: str) -> dict[str, Any]:
        """Return what the runner is asked for; what has to be read or drawn is read or drawn now."""
        told = {"name": self.name, "kind": self.kind, **self.params, **self.fewer.get(system, {})}
        return {name: value() if callable(value) else value for name, value in told.items()}

    def ideal_for(self, system: str = "") -> float:
        """Return the seconds that no schedule of these calls can beat, 0 where that is not known."""
        times = {**self.params, **self.fewer.get(system, {})}.get("times")
        return best_makespan_bound(times, N_WORKERS) if times else 0.0


def _fertility() -> list[tuple[str, list[float], list[float]]]:
    """Return births per woman by year for each country: the World Bank's table, as statsmodels ships it."""
    files = importlib.metadata.files("statsmodels") or []
    (path,) = [file for file in files if file.name == "fertility.csv"]
    series = []
    with open(str(path.locate()), encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            points = [(float(year), float(value)) for year, value in row.items() if year.isdigit() and value]
            if len(points) > 2:
                series.append((row["Country Name"], [x for x, _ in points], [y for _, y in points]))
    return series


def _small(*, quick: bool) -> list[Workload]:
    """Return what shows what a call costs. Quick: slow systems run fewer calls and not everything."""
    fast = ("wren", "pool", "joblib", "ray", "dask")
    brief = {"times": [0.01] * 300}
    return [
        Workload(
            name="noop_20000",
            title="20,000 no-ops in one map",
            kind="noop_map",
            params={"n": 20_000},
            systems=(*fast, "pool_tuned", "celery_sqs", "lithops") if quick else _ALL,
            fewer={
                "joblib": {"n_maps": 10},
                "pool_tuned": {"n_maps": 10},
                "ray_grouped": {"n_maps": 10},
                "lithops": {"n": 8 if quick else 80},
                "celery_sqs": {"n": 600 if quick else 6000},
                "celery_sqs_s3": {"n": 2000},
                **({"ray": {"n": 4000}, "dask": {"n": 1000}} if quick else {}),
            },
            group="small",
        ),
        Workload(
            name="submits_2000",
            title="2,000 single submits from a loop",
            kind="submits",
            params={"n": 2000},
            systems=fast if quick else _ONE_BY_ONE,
            fewer={"dask": {"n": 300}} if quick else {"lithops": {"n": 80}},
            group="small",
        ),
        _sleeps(
            "sleep_10ms",
            "1,000 × 10 ms",
            [0.01] * 1000,
            group="small",
            systems=("wren", "ray", "dask") if quick else fast,
            fewer=dict.fromkeys(("ray", "dask"), brief) if quick else {},
        ),
        Workload(
            name="latency",
            title="One call on a warm, idle fleet",
            kind="latency",
            params={"n": 30 if quick else 200},
            systems=(*fast, "celery_sqs") if quick else _ONE_BY_ONE,
            fewer={} if quick else {"lithops": {"n": 20}},
            group="small",
        ),
        _sleeps(
            "pareto_short",
            "400 skewed calls, 1.07 s ideal",
            _PARETO_SHORT,
            group="small",
            systems=("wren",) if quick else fast,
        ),
    ]


def _sleeps(
    name: str,
    title: str,
    times: list[float],
    *,
    group: str,
    systems: tuple[str, ...] = _LOCAL,
    fewer: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Workload:
    return Workload(
        name=name,
        title=title,
        kind="sleeps",
        params={"times": times},
        systems=systems,
        group=group,
        fewer=fewer,
    )


def _long() -> list[Workload]:
    return [
        _sleeps("sleep_1s", "100 × 1 s", [1.0] * 100, group="long"),
        _sleeps("pareto", "400 skewed calls, 10.7 s ideal", _PARETO, group="long"),
    ]


def _data() -> list[Workload]:
    shared = ("wren", "pool", "joblib", "ray", "dask")
    return [
        Workload(
            name="args_10mb",
            title="100 × 10 MB arguments",
            kind="blobs",
            params={"n": 100, "bytes": 10_000_000},
            systems=shared,
            group="data",
        ),
        Workload(
            name="shared_200mb",
            title="One 200 MB array read by 100 calls",
            kind="shared_array",
            params={"n": 100, "bytes": 200_000_000},
            systems=shared,
            fewer={"pool": {"n": 20}},
            group="data",
        ),
        Workload(
            name="shared_100mb",
            title="One 100 MB array read by 50 calls",
            kind="shared_array",
            params={"n": 50, "bytes": 100_000_000},
            systems=shared,
            fewer={"pool": {"n": 20}},
            group="data1",
        ),
    ]


def _compute() -> list[Workload]:
    return [
        Workload(
            name="dgemm_2048",
            title="2048² dgemm in every slot",
            kind="dgemm",
            params={"n": 4, "size": 2048, "n_products": 4, "n_turns": 5},
            systems=("wren", "pool", "joblib", "ray", "dask"),
            group="compute",
        ),
        Workload(
            name="regression",
            title="A linear regression per country (statsmodels' fertility table)",
            kind="regressions",
            params={"series": _fertility},
            systems=("wren", "pool", "joblib", "ray", "dask"),
            group="compute",
        ),
    ]


def _starts() -> list[Workload]:
    every = ("wren", "pool", "joblib", "ray", "dask", "celery_sqs", "lithops")
    return [
        Workload(
            name="first_result",
            title="From process start to the first result (ours: against a running fleet)",
            kind="first_result",
            params={},
            systems=every,
            group="first",
        ),
        Workload(
            name="first_result_local",
            title='From process start to the first result, `executor(backend="local")`, its own sandbox included',
            kind="first_result",
            params={"options": {"backend": "local"}, "needs": ""},
            systems=("wren",),
            group="first_local",
        ),
    ]


def _growth() -> list[Workload]:
    sizes = [
        Workload(
            name=f"growth_1e{power}",
            title=f"{10**power:,} no-ops in one map",
            kind="noop_map",
            params={"n": 10**power},
            systems=("wren",),
            group=f"growth{power}",
        )
        for power in range(3, 7)
    ]
    fleets = [
        Workload(
            name=f"daemons_{count}",
            title=f"20,000 no-ops, {count} instance{'s' * (count > 1)} on these cores",
            kind="noop_map",
            params={"n": 20_000},
            systems=("wren",),
            group=f"daemons{count}",
            n_instances=count,
        )
        for count in (1, 2, 4, 8)
    ]
    return sizes + fleets


def _idle() -> list[Workload]:
    return [
        Workload(
            name="idle_instance",
            title="An instance with nothing to do",
            kind="idle",
            params={"seconds": 330.0},
            systems=("wren",),
            group="idle",
            n_rounds=1,
        )
    ]


def workloads(*, quick: bool) -> list[Workload]:
    """Return the rows, in order; the quick ones are the small ones and dgemm."""
    if quick:
        return _small(quick=True)
    return [*_small(quick=False), *_long(), *_data(), *_compute(), *_starts(), *_growth(), *_idle()]
