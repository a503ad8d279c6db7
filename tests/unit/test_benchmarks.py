"""The pure parts of the benchmark suite: bounds, prices, medians, tables, and that what it names is there."""

from __future__ import annotations

import ast
import itertools
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wren_worker

CHECKOUT = Path(wren_worker.__file__).parent.parent
sys.path.insert(0, str(CHECKOUT))  # the suite is no part of the package

from benchmarks import catalogue, figures, page, paper, report, schedule, tables  # noqa: E402

ROWS = catalogue.workloads(quick=False)
MACHINE = {"date": "2026-11-01", "cores": "2", "memory": "8 GiB", "python": "3.11.7", "system": "Linux x86_64"}

durations = st.lists(st.floats(0.001, 100), min_size=1, max_size=7)


def figure(metric: str, *runs: float, workload: str = "noop_20000", system: str = "wren") -> figures.Figure:
    (made,) = figures.figures((workload, system, {metric: run}) for run in runs)
    return made


# schedules


@given(durations, st.integers(1, 3))
def test_no_schedule_beats_the_bound(times: list[float], n_slots: int) -> None:
    best = min(
        max(sum(t for t, place in zip(times, places, strict=True) if place == slot) for slot in range(n_slots))
        for places in itertools.product(range(n_slots), repeat=len(times))
    )
    assert schedule.best_makespan_bound(times, n_slots) <= best * (1 + 1e-9)
    assert best * (1 - 1e-9) <= schedule.longest_first_makespan(times, n_slots) <= best * 4 / 3 * (1 + 1e-9)


def test_the_skewed_jobs_are_skewed_and_as_long_as_they_say() -> None:
    times = schedule.pareto_times(400, ideal_time=10.7, n_slots=2)
    assert sum(times) == pytest.approx(21.4)
    assert times == schedule.pareto_times(400, ideal_time=10.7, n_slots=2)
    assert max(times) > 100 * sorted(times)[200]
    assert schedule.best_makespan_bound(times, 2) == pytest.approx(10.7)
    assert schedule.longest_first_makespan(times, 2) == pytest.approx(10.7, rel=0.001)
    assert schedule.in_order_makespan(times, 2) == pytest.approx(10.7, rel=0.01)


def test_dealing_in_order_may_end_with_the_longest() -> None:
    assert schedule.in_order_makespan([1.0, 1.0, 4.0], 2) == 5.0
    assert schedule.longest_first_makespan([1.0, 1.0, 4.0], 2) == 4.0


# prices and rates


def test_list_prices() -> None:
    million = 1e6
    assert figures.usd({"sqs.SendMessageBatch": million}) == pytest.approx(0.40)
    assert figures.usd({"s3.PutObject": million}) == pytest.approx(5.0)
    assert figures.usd({"s3.ListObjectsV2": million}) == pytest.approx(5.0)
    assert figures.usd({"s3.UploadPart": million}) == pytest.approx(5.0)
    assert figures.usd({"s3.GetObject": million, "s3.HeadObject": million}) == pytest.approx(0.80)
    assert figures.usd({"s3.DeleteObjects": million, "logs.PutLogEvents": million, "ec2.DescribeInstances": 1}) == 0


def test_a_run_in_rates_per_thousand_calls() -> None:
    told = figures.derive(
        {
            "wall_s": 2.0,
            "n_calls": 500,
            "calls_per_s": 250.0,
            "grown:requests:sqs.SendMessage": 10,
            "grown:requests:s3.PutObject": 5,
            "grown:requests:sts.GetCallerIdentity": 0,
            "grown:units:sqs.SendMessage": 20,
            "grown:units:s3.PutObject": 5,
            "grown:cpu_client_s": 0.5,
            "grown:cpu_daemon_s": 0.25,
            "grown:cpu_slot_s": 0.125,
            "grown:cpu_emulator_s": 4.0,
        },
        ideal_time=1.6,
    )
    assert told["requests_total_per_1000"] == pytest.approx(30)
    assert told["requests_per_1000:s3.PutObject"] == pytest.approx(10)
    assert "requests_per_1000:sts.GetCallerIdentity" not in told
    assert told["usd_per_million"] == pytest.approx((20 * 0.4e-6 + 5 * 5e-6) * 2000)
    assert told["cpu_s_per_1000_client"] == pytest.approx(1.0)
    assert told["cpu_s_per_1000_emulator"] == pytest.approx(8.0)
    assert told["cpu_s_per_1000"] == pytest.approx(1.75)  # the emulator is no part of ours
    assert told["wall_over_ideal"] == pytest.approx(1.25)
    assert not [name for name in told if name.startswith("grown:")]


def test_a_peer_has_one_cpu_figure() -> None:
    told = figures.derive({"wall_s": 1.0, "n_calls": 100, "grown:cpu_s": 0.3})
    assert told["cpu_s_per_1000"] == pytest.approx(3.0)
    assert "requests_total_per_1000" not in told
    assert "wall_over_ideal" not in told


# medians


def test_medians_over_runs_and_a_count_that_a_run_does_not_have() -> None:
    runs = [
        ("w", "s", {"calls_per_s": 10.0, "requests_per_1000:sqs.ReceiveMessage": 6.0}),
        ("w", "s", {"calls_per_s": 30.0}),
        ("w", "other", {"calls_per_s": 1.0}),
        ("w", "s", {"calls_per_s": 20.0, "requests_per_1000:sqs.ReceiveMessage": 8.0}),
    ]
    found = {(one.system, one.metric): one for one in figures.figures(runs)}
    assert found["s", "calls_per_s"].value == 20.0
    assert found["s", "calls_per_s"].runs == (10.0, 30.0, 20.0)
    assert found["s", "requests_per_1000:sqs.ReceiveMessage"].runs == (6.0, 0.0, 8.0)
    assert found["other", "calls_per_s"].value == 1.0


def test_results_survive_their_file_and_stand_in_the_catalogues_order(tmp_path: Path) -> None:
    some = [
        figure("wall_s", 2.0, workload="sleep_1s"),
        figure("calls_per_s", 5.0, 7.0, system="dask"),
        figure("calls_per_s", 9.0),
    ]
    file = tmp_path / "latest.json"
    file.write_text(json.dumps([one.as_json() for one in some]))
    assert set(json.loads(file.read_text())[0]) == {"workload", "system", "metric", "value", "unit", "runs"}
    loaded = report.load(file)
    assert loaded == some
    ordered = report.in_order(loaded, ROWS)
    assert [(one.workload, one.system) for one in ordered] == [
        ("noop_20000", "wren"),
        ("noop_20000", "dask"),
        ("sleep_1s", "wren"),
    ]
    assert report.load(tmp_path / "missing.json") == []


# text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (47695.2, "47,695"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.5, "0.5"), (0.0123, "0.0123"),
     (0.000361, "0.000361"), (-2.5, "-2.5")],
)  # fmt: skip
def test_numbers_for_people(value: float, text: str) -> None:
    assert tables.number(value) == text


def test_a_cell_has_median_and_spread() -> None:
    assert tables.cell(figure("calls_per_s", 1000.0, 3000.0, 2000.0)) == "2,000 (1,000–3,000)"
    assert tables.cell(figure("calls_per_s", 5.0, 5.0)) == "5"
    assert tables.cell(None) == "–"


def test_a_table_is_markdown() -> None:
    assert tables.table(["", "a"], [["x", "1"]]) == "|  | a |\n|---|---:|\n| x | 1 |"


def test_the_page_shows_both_systems_their_ratio_and_no_path_of_this_machine() -> None:
    found = [
        figure("calls_per_s", 40_000.0),
        figure("requests_total_per_1000", 8.0),
        figure("requests_per_1000:sqs.SendMessageBatch", 2.0),
        figure("usd_per_million", 0.01),
        figure("calls_per_s", 2000.0, system="ray"),
    ]
    text = page.page(found, ROWS, MACHINE, quick=True)
    assert "| wren_worker, the whole path | 40,000 |" in text
    assert "| Ray, one task a call | 2,000 |" in text
    assert "20 ×" in text
    assert "sqs.SendMessageBatch 2" in text
    assert "bench-quick" in text
    assert str(CHECKOUT) not in text
    assert "sleep_1s" not in text  # what was not measured is not there


# on paper


def test_costs_of_calls_and_chunks_are_found_again() -> None:
    def cell(n_calls: float, n_chunks: float) -> dict[str, figures.Figure]:
        seconds = n_calls * 10e-6 + n_chunks * 500e-6
        told = {"cpu_s_per_1000_client": seconds / n_calls * 1000, "n_calls": n_calls, "n_chunks": n_chunks}
        return {name: figure(name, value) for name, value in told.items()}

    cells = {("noop_20000", "wren"): cell(20_000, 20), ("sleep_10ms", "wren"): cell(1000, 60)}
    found = paper.costs(cells)
    assert found is not None
    assert found.per_call == pytest.approx(10e-6)
    assert found.per_chunk == pytest.approx(500e-6)
    assert "## On paper" in paper.section(cells)
    assert paper.section({}) == ""


def test_limits_come_in_the_order_in_which_a_growing_fleet_meets_them() -> None:
    found = paper.limits(paper.Costs(per_call=10e-6, per_chunk=500e-6))
    assert [one.n_instances for one in found] == sorted(one.n_instances for one in found)
    by_name = {one.what: one for one in found}
    puts = next(one for name, one in by_name.items() if "3,500 PUT" in name)
    assert puts.n_instances == pytest.approx(3500 / 4)
    in_flight = next(one for name, one in by_name.items() if "in flight" in name)
    assert in_flight.n_instances == pytest.approx(15_000)


# what is named is there


def test_every_system_has_its_runner_and_its_pins() -> None:
    peers = CHECKOUT / "benchmarks" / "peers"
    for system in catalogue.SYSTEMS.values():
        assert (peers / f"run_{system.runner}.py").is_file()
        lines = (peers / f"{system.venv}.txt").read_text().splitlines()
        pins = [line for line in lines if line and not line.startswith("#")]
        assert pins
        assert all("==" in line for line in pins)


def test_workloads_name_systems_and_kinds_that_exist() -> None:
    tree = ast.parse((CHECKOUT / "benchmarks" / "peers" / "harness.py").read_text())
    (work,) = [node.value for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and node.target.id == "_WORK"]
    kinds = {key.value for key in work.keys} | {"latency", "dgemm", "first_result", "idle"}
    for quick in (True, False):
        rows = catalogue.workloads(quick=quick)
        assert len({row.name for row in rows}) == len(rows)
        for row in rows:
            assert row.kind in kinds
            assert set(row.systems) <= set(catalogue.SYSTEMS)
            assert set(row.fewer) <= set(catalogue.SYSTEMS)
            assert "wren" in row.systems


def test_what_slow_systems_sleep_has_a_bound_of_its_own() -> None:
    row = next(row for row in catalogue.workloads(quick=True) if row.name == "sleep_10ms")
    assert row.ideal_for("wren") == pytest.approx(5.0)
    assert row.ideal_for("ray") == pytest.approx(1.5)
