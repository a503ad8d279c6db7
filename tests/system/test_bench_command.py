"""``wren-standalone bench`` on a fleet, and without one."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest
from world import World


@pytest.fixture
def fleet(world: World) -> World:
    world.launch(2)
    return world


def measured(world: World, *arguments: str) -> Any:
    done = world.command("--json", "bench", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_latency_of_single_calls(fleet: World) -> None:
    told = measured(fleet, "latency", "--calls", "12")
    assert told["n_calls"] == 12
    assert 0 < told["shortest_time"] <= told["p50_time"] <= told["p99_time"]


def test_throughput_and_the_way_through_s3(fleet: World) -> None:
    told = measured(fleet, "throughput", "--calls", "500", "--s3", "--megabytes", "1")
    assert told["n_slots"] == 2
    assert told["calls_per_second"] == pytest.approx(500 / told["time"])
    assert told["s3"]["n_calls"] == 8
    assert min(told["s3"]["arguments_mb_per_second"], told["s3"]["results_mb_per_second"]) > 0


def test_scale_goes_up_to_all_slots(fleet: World) -> None:
    told = measured(fleet, "scale")
    assert [row["slots"] for row in told] == [1, 2]
    assert told[0]["efficiency"] == 1.0


def test_text_is_one_line_for_people(fleet: World) -> None:
    done = fleet.command("bench", "latency", "--calls", "3")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("one call: p50 ")


def test_flops_or_why_there_are_none(fleet: World) -> None:
    # the instances run this interpreter
    done = fleet.command("--json", "bench", "flops", "--size", "64", "--products", "2")
    if importlib.util.find_spec("numpy") is None:
        assert done.returncode == 1
        assert "numpy is not installed where the calls run" in done.stderr
        assert "Traceback" not in done.stderr
    else:
        told = json.loads(done.stdout)
        assert told["n_slots"] == 2
        assert 0 < told["gflops_per_slot"] <= told["gflops_total"]


def test_a_fleet_without_instances_says_what_to_do(world: World) -> None:
    done = world.command("bench", "throughput")
    assert done.returncode == 1
    assert "no instance in fleet" in done.stderr
    assert "launch --count" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_sandbox_says_what_to_do(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WREN_BACKEND", "local")
    done = world.command("bench", "latency")
    assert done.returncode == 1
    assert "wren-standalone sandbox up" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("latency", "--calls", "0"), ("flops", "--size", "-1"), ("throughput", "--megabytes", "x")]
)
def test_values_that_make_no_sense_are_refused(world: World, arguments: tuple[str, ...]) -> None:
    done = world.command("bench", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
