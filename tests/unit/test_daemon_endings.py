"""Who pays for a slot's end: what the kernel killed for memory, what crashed, what nobody can tell."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_daemon_holding import holding

from wren_worker.daemon.endings import Endings
from wren_worker.daemon.holding import Holding
from wren_worker.daemon.memory import Shot
from wren_worker.daemon.outputs import Outputs
from wren_worker.daemon.slot import Ended, Given
from wren_worker.daemon.verdicts import OomCounter
from wren_worker.log import NullLog
from wren_worker.protocol import records, wire
from wren_worker.testing import FakeClock


class Rig:
    def __init__(self, folder: Path) -> None:
        self.vmstat = folder / "vmstat"
        self.vmstat.write_text("nr_free_pages 3\noom_kill 2\n")
        self.holding = holding(max_attempts=3)
        self.condemned: Any = None
        self.shot: Shot | None = None
        self.slot: Any = SimpleNamespace(number=1, folder=folder, killing="")
        self.endings = Endings(
            holdings={"h": self.holding},
            timeouts=SimpleNamespace(condemned=lambda _: self.condemned),  # type: ignore[arg-type]
            memory=SimpleNamespace(shot=lambda _: self.shot),  # type: ignore[arg-type]
            outputs=Outputs(tell=lambda _: None, folder=folder),
            clock=FakeClock(),
            log=NullLog(),
            instance_id="i-1",
            chance=random.Random(1),
            oom=OomCounter(self.vmstat),
        )

    def end(self, running: int | None, *left: int, status: int = -signal.SIGKILL) -> None:
        def given(call: int) -> Given:
            return Given(receipt_handle="h", call_index=call, attempt=1)

        event = Ended(
            slot=self.slot,
            running=None if running is None else given(running),
            left=tuple(map(given, left)),
            status=status,
            peak_rss_bytes=123 << 20,
        )
        self.endings.ended(event)


@pytest.fixture
def rig(tmp_path) -> Rig:
    made = Rig(tmp_path)
    made.holding.take(4, now=0.0)
    return made


def verdict(held: Holding) -> tuple[str, dict[str, Any]]:
    (put,) = held.puts(split=True, timestamp=0.0)
    head = records.HEAD.unpack_from(put.records[0])
    kind, _, data = wire.parse_error_value(put.records[0][records.HEAD.size : records.HEAD.size + head[9]])
    return kind, data


def test_what_the_kernel_killed_for_memory_is_told_so_with_its_peak_and_not_tried_again(rig):
    rig.vmstat.write_text("oom_kill 3\n")
    rig.end(10, 11)
    assert rig.holding.n_waiting == 1  # the neighbour
    kind, data = verdict(rig.holding)
    assert (kind, data["peak_rss_bytes"]) == ("OutOfMemory", 123 << 20)


def test_what_the_daemon_ended_for_memory_is_told_with_what_it_held(rig):
    rig.shot = Shot(500 << 20, 200 << 20)
    rig.slot.killing = "memory"
    rig.end(10)
    kind, data = verdict(rig.holding)
    assert (kind, data["peak_rss_bytes"]) == ("OutOfMemory", 500 << 20)


def test_a_kill_by_others_is_a_crash_and_tried_again(rig):
    rig.end(10)
    assert (rig.holding.n_waiting, rig.holding.attempts(10), rig.holding.n_outcomes) == (1, 1, 0)


def test_of_several_suspects_none_pays_and_they_go_one_by_one_from_then_on(rig):
    rig.end(None, 10, 11, 12)
    assert (rig.holding.n_waiting, rig.holding.attempts(10), rig.holding.singly) == (3, 0, True)


def test_the_only_suspect_pays(rig):
    rig.end(None, 10)
    assert rig.holding.attempts(10) == 1


def test_what_no_frame_can_be_is_a_crash_and_not_tried_for_ever(rig):
    rig.slot.killing = "it wrote what is no frame"
    for _ in range(3):
        rig.end(10)
        rig.holding.take(4, now=0.0)
    assert verdict(rig.holding)[0] == "SlotCrashed"
