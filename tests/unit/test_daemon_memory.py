"""Which slot is ended when memory runs short, and what a machine's files say there is."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wren_worker.daemon.memory import Machine, MemoryWatch, Shot
from wren_worker.testing import FakeClock

GIB = 1 << 30


class FakeMachine:
    total_bytes = 8 * GIB

    def __init__(self) -> None:
        self.available = 8 * GIB
        self.held: dict[int, int] = {}
        self.n_asked = 0

    def available_bytes(self) -> int:
        return self.available

    def held_bytes(self, roots: list[int]) -> dict[int, int]:
        self.n_asked += 1
        return {pid: self.held.get(pid, 0) for pid in roots}


@pytest.fixture
def killed() -> list[int]:
    return []


def slots_of(killed: list[int], n: int = 2) -> list[Any]:
    def kill(number: int, slot: int, why: str) -> None:
        assert (number, why) == (signal.SIGKILL, "memory")
        killed.append(slot)

    return [
        SimpleNamespace(number=i, keeper_pid=100 + i, kill=lambda number, why, i=i: kill(number, i, why))
        for i in range(n)
    ]


def watch(killed: list[int], machine: FakeMachine, budget: int = 0) -> tuple[MemoryWatch, list[Any], FakeClock]:
    slots, clock = slots_of(killed), FakeClock()
    return MemoryWatch(slots=slots, machine=machine, budget_bytes=budget, clock=clock), slots, clock  # type: ignore[arg-type]


def test_as_long_as_there_is_enough_nobody_is_even_looked_at(killed):
    machine = FakeMachine()
    machine.held = {100: 7 * GIB}
    found, _, clock = watch(killed, machine)
    assert found.enforce() == 0.5
    clock.advance(0.5)
    found.enforce()
    assert (killed, machine.n_asked) == ([], 0)


def test_the_largest_above_its_share_is_ended_once_and_told_of(killed):
    machine = FakeMachine()
    found, slots, clock = watch(killed, machine)
    machine.available, machine.held = GIB // 8, {100: 2 * GIB, 101: 5 * GIB}
    assert found.enforce() == 0.1  # little is left: look again soon
    clock.advance(0.1)
    found.enforce()
    assert killed == [1]
    assert found.shot(slots[1]) == Shot(5 * GIB, found.share_bytes)
    assert found.shot(slots[1]) is None


def test_nobody_within_its_share_is_ended_whatever_else_takes_the_memory(killed):
    machine = FakeMachine()
    found, _, _ = watch(killed, machine)
    machine.available, machine.held = GIB // 8, {100: GIB, 101: 2 * GIB}
    found.enforce()
    assert (killed, machine.n_asked) == ([], 1)


def test_a_budget_of_ones_own_counts_though_the_machine_has_more(killed):
    machine = FakeMachine()
    found, _, _ = watch(killed, machine, budget=GIB)
    machine.available, machine.held = 6 * GIB, {100: GIB, 101: GIB // 4}
    found.enforce()
    assert killed == [0]


def files(root: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = root / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_control_group_s_limit_counts_when_it_is_the_smaller(tmp_path):
    meminfo = "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    600 kB\n"
    proc = files(tmp_path / "proc", meminfo=meminfo, self__cgroup="0::/a/b\n")
    groups = files(
        tmp_path / "groups",
        a__b__memoryDOTmax=f"{500 * 1024}\n",
        a__b__memoryDOTcurrent=f"{300 * 1024}\n",
        a__b__memoryDOTstat=f"anon 1\ninactive_file {100 * 1024}\n",
    )
    machine = Machine(proc=proc, groups=groups)
    assert (machine.total_bytes, machine.available_bytes()) == (500 * 1024, 300 * 1024)
    (groups / "a/b/memory.max").write_text("max\n")
    machine = Machine(proc=proc, groups=groups)
    assert (machine.total_bytes, machine.available_bytes()) == (1000 * 1024, 600 * 1024)


def test_a_limit_of_the_older_kind_counts_too(tmp_path):
    proc = files(tmp_path / "proc", meminfo="MemTotal: 1000 kB\nMemAvailable: 900 kB\n", self__cgroup="4:memory:/x\n")
    groups = files(
        tmp_path / "groups",
        memory__x__memoryDOTlimit_in_bytes=str(400 * 1024),
        memory__x__memoryDOTusage_in_bytes=str(350 * 1024),
        memory__x__memoryDOTstat="total_inactive_file 0\n",
    )
    machine = Machine(proc=proc, groups=groups)
    assert (machine.total_bytes, machine.available_bytes()) == (400 * 1024, 50 * 1024)


def test_where_there_is_no_proc_nothing_is_ever_short(tmp_path, killed):
    machine = Machine(proc=tmp_path, groups=tmp_path)
    found = MemoryWatch(slots=slots_of(killed), machine=machine, budget_bytes=0, clock=FakeClock())
    found.enforce()
    assert killed == []


def test_what_a_process_started_counts_as_its_own_and_odd_names_do_not_confuse(tmp_path):
    page = __import__("os").sysconf("SC_PAGE_SIZE")
    proc = files(
        tmp_path,
        **{
            "10__stat": "10 (keeper) S 1 10 10 0",
            "11__stat": "11 (a) b (c) S 10 11 11 0",
            "12__stat": "12 (d e) S 11 12 12 0",
            "13__stat": "13 (other) S 1 13 13 0",
            "10__statm": "100 5 5 0",
            "11__statm": "100 50 10 0",
            "12__statm": "100 30 10 0",
            "13__statm": "100 90 0 0",
            "99__stat": "garbage",
        },
    )
    assert Machine(proc=proc, groups=tmp_path).held_bytes([10, 77]) == {10: 60 * page, 77: 0}
