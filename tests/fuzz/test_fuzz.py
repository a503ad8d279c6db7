"""The loop for a few seconds by a fixed seed; and the loop itself: it sees what it is there to see."""

from __future__ import annotations

import base64
import json

import pytest
from fuzz_loop import fuzz
from fuzz_targets import FRAMES, TARGETS, WIRE, Target

from wren_worker.errors import WireError


@pytest.mark.parametrize("targets", [WIRE, FRAMES], ids=["wire", "frames"])
def test_spoiled_bytes_are_refused_or_hold_what_they_promise(targets):
    report = fuzz(targets, n_inputs=3000, seed=20261121)
    assert report.findings == []
    assert report.n_inputs == 3000


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_some_inputs_are_accepted_and_some_refused(target):
    report = fuzz([target], n_inputs=150, seed=1)
    assert report.accepted[target.name]
    assert report.rejected[target.name]


def _crash(data: bytes) -> None:
    json.loads(data)["a"]


def _hoard(data: bytes) -> None:
    bytearray(8 * 1024 * 1024 + len(data))


def _obey(data: bytes) -> None:
    if len(base64.b64encode(data)) > 0:
        raise WireError("no")


@pytest.mark.parametrize(("take", "reason"), [(_crash, "Error"), (_hoard, "allocated"), (_obey, "")])
def test_the_loop_reports_crashes_and_hoards_and_nothing_else(take, reason):
    report = fuzz([Target("t", lambda _: b"[" * 10, take, (WireError,))], n_inputs=3, seed=1)
    assert [reason in finding.reason for finding in report.findings] == ([True] * 3 if reason else [])
