"""The dead-man script, run as the timer runs it: one process a look, a clock that files make old."""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wren_worker.config import shared_file

SCRIPT = shared_file("cloud-init/deadman.py")
ASKED = "poweroff --no-block"


def boottime():
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Box:
    """An instance's folders, and a systemctl that only takes notes."""

    def __init__(self, folder: Path):
        self.run, self.log, self.work = folder / "run", folder / "log", folder / "work"
        self.config = folder / "instance.json"
        (folder / "bin").mkdir()
        program = folder / "bin" / "systemctl"
        program.write_text(f'#!/bin/sh\necho "$@" >> "{folder}/asked"\n')
        program.chmod(0o755)
        self.asked = folder / "asked"
        self.environ = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "WREN_RUN_DIR": str(self.run),
            "WREN_LOG_DIR": str(self.log),
            "WREN_WORK_DIR": str(self.work),
            "WREN_INSTANCE_CONFIG": str(self.config),
            "WREN_BOOT_ID": "boot-1",
        }

    def configure(self, **limits):
        self.config.write_text(json.dumps({"fleet": "x", **limits}))

    def age(self, name, seconds):
        self.run.mkdir(exist_ok=True)
        (self.run / name).write_text(f"{boottime() - seconds:.3f}\n")

    def look(self):
        subprocess.run([sys.executable, "-I", "-S", SCRIPT], env=self.environ, check=True, timeout=30)

    def patience_is_over(self, age):
        path = self.run / "deadman.asked"
        count, when = path.read_text().split()
        path.write_text(f"{count} {float(when) - age:.3f}\n")

    def requests(self):
        return self.asked.read_text().splitlines() if self.asked.exists() else []

    def reasons(self):
        return [json.loads(line)["reason"] for line in (self.log / "deadman.log").read_text().splitlines()]


@pytest.fixture
def box(tmp_path):
    return Box(tmp_path)


def test_first_look_notes_the_boot_and_leaves_the_machine_alone(box):
    box.configure()
    box.look()
    assert abs(float((box.run / "booted").read_text()) - boottime()) < 60
    assert box.requests() == []


def test_living_daemon_is_left_alone(box):
    box.configure(boot_timeout=10, stale_timeout=60)
    box.age("booted", 5000)
    box.age("heartbeat", 1)
    box.look()
    assert box.requests() == []


@pytest.mark.parametrize(
    ("booted", "heartbeat", "reason"),
    [
        (100, None, "no_heartbeat_after_boot"),
        (100, 61, "stale_heartbeat"),
        (1181, 1, "max_lifetime"),
    ],
)
def test_powers_off(box, booted, heartbeat, reason):
    box.configure(boot_timeout=90, stale_timeout=60, max_lifetime=1000)
    box.age("booted", booted)
    if heartbeat is not None:
        box.age("heartbeat", heartbeat)
    box.look()
    assert box.requests() == [ASKED]
    assert box.reasons() == [reason]


def test_lifetime_has_three_minutes_of_grace(box):
    box.configure(max_lifetime=1000)
    box.age("booted", 1170)
    box.age("heartbeat", 1)
    box.look()
    assert box.requests() == []


def test_asks_harder_each_time(box):
    box.configure(stale_timeout=60)
    box.age("booted", 100)
    box.age("heartbeat", 61)
    for age in (None, 26, 26, 26):
        if age is not None:
            box.patience_is_over(age)
        box.look()
        box.look()  # the last request has its time
    assert box.requests() == [ASKED, f"{ASKED} --force", f"{ASKED} --force --force", f"{ASKED} --force --force"]


def test_second_boot_ends_at_once(box):
    box.configure()
    box.look()
    box.look()
    assert box.requests() == []
    (box.run / "booted").unlink()  # tmpfs
    box.environ["WREN_BOOT_ID"] = "boot-2"
    box.look()
    assert box.reasons() == ["second_boot"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"boot_timeout": "soon"}', '{"boot_timeout": -1}', "\ud83d"])
def test_broken_configuration_still_ends_by_the_default_boot_timeout(box, content):
    box.config.write_bytes(content.encode("utf-8", "surrogatepass"))
    box.age("booted", 890)
    box.look()
    assert box.requests() == []
    box.age("booted", 901)
    box.look()
    assert box.requests() == [ASKED]


def test_missing_configuration_ends_by_the_default_boot_timeout(box):
    box.age("booted", 901)
    box.look()
    assert box.requests() == [ASKED]


def test_unreadable_heartbeat_counts_as_none(box):
    box.configure(boot_timeout=90)
    box.age("booted", 100)
    (box.run / "heartbeat").write_text("not a number\n")
    box.look()
    assert box.reasons() == ["no_heartbeat_after_boot"]


def test_needs_the_standard_library_only():
    assert runpy.run_path(str(SCRIPT))["DEFAULTS"]["boot_timeout"] == 900.0
