"""``wren-standalone selftest`` as typed: everything works here, and it holds when things break."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from world import CHECKOUT

# a pause of the machine is no failure of the run: its own bounds grow by it
pytestmark = pytest.mark.timeout(300)

CODE = "from wren_worker.cli.main import main; main(prog_name='wren-standalone')"


def command(folder: Path, *arguments: str, **patches: str) -> subprocess.CompletedProcess[str]:
    code = "".join(f"{text}\n" for text in patches.values()) + CODE
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(folder), "SELFTEST_OF": str(folder)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def left(folder: Path) -> list[str]:
    """Return what descends from the command, the sandbox's instances and slots included."""
    found = []
    for process in psutil.process_iter():
        try:
            environ = process.environ()
            ours = environ.get("SELFTEST_OF") == str(folder) or str(folder) in environ.get("IN_WREN_SANDBOX", "")
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            pass
    return found


def test_without_chaos_it_says_what_works(tmp_path: Path):
    done = command(tmp_path, "selftest")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every instance ended itself" in done.stderr
    assert done.stdout.strip().endswith("everything holds")
    assert "✗" not in done.stdout
    assert left(tmp_path) == []


def test_with_chaos_everything_holds(tmp_path: Path):
    done = command(tmp_path, "--json", "selftest", "--chaos", "--seconds", "20", "--seed", "11")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["holds"]
    assert found["seed"] == 11
    assert found["n_injected"] >= 20
    assert found["n_calls"] > 0
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("patch", "broken"),
    [
        (
            "import wren_worker.chaos.work as w; start = w._MAKERS['short']\n"
            "w._MAKERS['short'] = lambda *a: (start(*a)[0], lambda i: 'gave what nobody gave')\n"
            "w.KINDS = {'short': 1}",
            "a permitted outcome",
        ),
        (
            "import wren_worker.chaos.place as p; p._SLOT_DEATH_TIME = -1\n"
            "import wren_worker.chaos.plan as plan; plan.DEEDS = {'kill daemon': 1}",
            "slots die with their daemon",
        ),
    ],
)
def test_what_does_not_hold_is_said_and_is_the_exit_code(tmp_path: Path, patch, broken):
    done = command(tmp_path, "selftest", "--chaos", "--seconds", "6", "--seed", "2", patch=patch)
    assert done.returncode == 1, done.stderr
    assert f"✗ broken: {broken}" in done.stdout
    assert done.stdout.strip().endswith("something does not hold")
    assert "faults were injected" in done.stdout
