from __future__ import annotations

import itertools
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from wren_worker.config import shared_file
from wren_worker.errors import ConfigError, FleetError
from wren_worker.fleet.image import (
    BASES,
    Build,
    build_command,
    find,
    find_packer,
    monthly_price,
    newest,
    pythons,
    read_result,
    run_packer,
)
from wren_worker.protocol.images import ImageInfo
from wren_worker.version import VERSION

FOLDER = Path("/somewhere/packer")


def image_of(image_id="ami-1", **changes):
    values = {
        "name": "n",
        "state": "available",
        "python": "3.11",
        "version": "1",
        "runtime": "d",
        "created_timestamp": 1.0,
        "n_bytes": 1,
        "is_exact": True,
        "snapshot_ids": (),
    }
    return ImageInfo(image_id=image_id, **{**values, **changes})


@pytest.fixture
def packer(tmp_path, monkeypatch):
    """Return a function that puts a program named packer onto an otherwise useful PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")

    def put(script):
        path = folder / "packer"
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return put


# --- what is asked of packer ------------------------------------------------------------------------------------------


def test_every_python_that_is_served_has_an_environment():
    assert pythons() == ("3.11", "3.12", "3.13", "3.14")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"python": "3.10"}, "3.11, 3.12"),
        ({"python": "3.11", "base": "arch"}, "ubuntu-24.04"),
        ({"python": "3.12", "runtime": "wheels"}, "debian-12 has Python 3.11"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_can(values, told):
    with pytest.raises(ConfigError, match=told):
        Build(region="us-east-1", **values)


def test_wheels_go_with_the_base_s_own_python():
    for base, python in (("debian-12", "3.11"), ("ubuntu-24.04", "3.12")):
        assert Build(region="r", python=python, base=base, runtime="wheels").variables(Path("/"))["runtime"] == "wheels"


def test_only_what_has_a_value_is_given_to_packer():
    build = Build(python="3.12", region="eu-west-1", encrypt=False)
    command = build_command("packer", ["build"], build.variables(Path("/out")), FOLDER)
    assert command[0:2] == ["packer", "build"]
    assert command[-1] == str(FOLDER)
    given = [value for flag, value in itertools.pairwise(command) if flag == "-var"]
    assert {"python=3.12", "region=eu-west-1", "encrypt=false", f"wren_version={VERSION}", "output=/out"} <= set(given)
    assert not any(value.startswith(("profile=", "subnet=")) for value in given)


@pytest.mark.parametrize("base", BASES)
def test_variables_are_the_template_s(base):
    declared = (shared_file("packer") / "variables.pkr.hcl").read_text(encoding="utf-8")
    for name in Build(python="3.11", region="r", base=base).variables(Path("/out")):
        assert f'variable "{name}" {{' in declared


# --- packer is there --------------------------------------------------------------------------------------------------


def test_without_packer_it_says_so_and_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FleetError, match=r"not installed\. Install 1\.7 or newer: https://"):
        find_packer()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 'Packer v1.6.6'", "too old"),
        ("echo 'usage: packer dictionary'; exit 1", "not HashiCorp's"),
    ],
)
def test_a_packer_that_will_not_do_is_refused(packer, script, told):
    packer(script)
    with pytest.raises(FleetError, match=told):
        find_packer()


@pytest.mark.parametrize("version", ["Packer v1.7.0", "Packer v1.14.2\n\nYour version is out of date", "Packer v2.0.0"])
def test_a_packer_that_will_do_is_found(packer, version):
    path = packer(f"echo '{version}'")
    assert find_packer() == path


# --- packer runs ------------------------------------------------------------------------------------------------------


def test_what_it_prints_is_passed_on_in_order():
    said = []
    run_packer(["sh", "-c", "echo one; echo two >&2; printf 'caf\\303\\251 \\377'"], said.append)
    assert said == ["one", "two", "café �"]


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        ("Did you run packer init for this project?", f"packer init {FOLDER}"),
        ("VPCIdNotSpecified: No default VPC for this user", "--subnet"),
        ("UnauthorizedOperation: You are not authorized", "docs/ami.md"),
        ("something new", "printed last"),
    ],
)
def test_a_failure_says_what_to_do(printed, told):
    with pytest.raises(FleetError) as caught:
        run_packer(["sh", "-c", f"echo '{printed}'; exit 3", str(FOLDER)], lambda line: None)
    assert told in str(caught.value)
    assert "(3)" in str(caught.value)


def test_a_packer_that_is_gone_is_a_sentence(tmp_path):
    with pytest.raises(FleetError, match="could not be started"):
        run_packer([str(tmp_path / "packer")], lambda line: None)


INTERRUPTED = """
import sys
from wren_worker.fleet.image import run_packer
script = 'trap "sleep 0.3; echo removed all; exit 1" INT; echo ready; while :; do sleep 0.05; done'
try:
    run_packer(["sh", "-c", script], lambda line: print(line, flush=True))
except KeyboardInterrupt:
    print("interrupted at last", flush=True)
"""


def test_an_interrupt_waits_until_packer_has_cleaned_up(processes):
    process = processes([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to both
    rest = process.stdout.read().splitlines()
    assert process.wait(30) == 0
    assert rest[-2:] == ["removed all", "interrupted at last"]


# --- what is left -----------------------------------------------------------------------------------------------------


def write_result(folder, artifact, *, runtime=None, others=()):
    builds = [{"packer_run_uuid": "old", "artifact_id": "us-east-1:ami-00"}, *others]
    builds.append({"packer_run_uuid": "new", "artifact_id": artifact})
    manifest = {"builds": builds, "last_run_uuid": "new"}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    if runtime is not None:
        (folder / "runtime.json").write_text(json.dumps(runtime), encoding="utf-8")


def test_the_last_run_s_image_is_the_result(tmp_path):
    write_result(tmp_path, "eu-west-1:ami-0abc12", runtime={"digest": "d1", "python": "3.11"})
    built = read_result(tmp_path)
    assert (built.image_id, built.digest) == ("ami-0abc12", "d1")


@pytest.mark.parametrize("artifact", ["Null", "", "eu-west-1:"])
def test_a_manifest_without_an_image_is_an_error(tmp_path, artifact):
    write_result(tmp_path, artifact, runtime={})
    with pytest.raises(FleetError, match="names no image"):
        read_result(tmp_path)


def test_a_result_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FleetError, match="no readable result"):
        read_result(tmp_path)
    write_result(tmp_path, "r:ami-1")
    with pytest.raises(FleetError, match=r"no readable result.*runtime\.json"):
        read_result(tmp_path)
    (tmp_path / "manifest.json").write_text("[]", encoding="utf-8")
    with pytest.raises(FleetError, match="no readable result"):
        read_result(tmp_path)


def test_auto_is_the_newest_that_is_available():
    images = [
        image_of("ami-old", created_timestamp=1.0),
        image_of("ami-new", created_timestamp=2.0),
        image_of("ami-pending", created_timestamp=3.0, state="pending"),
        image_of("ami-other", python="3.12"),
    ]
    assert newest(images) == {"3.11": "ami-new", "3.12": "ami-other"}


def test_only_ours_are_found():
    assert find([image_of("ami-1")], "ami-1").image_id == "ami-1"
    with pytest.raises(FleetError, match="ami-2 is none of your images"):
        find([image_of("ami-1")], "ami-2")


def test_the_price_is_by_the_gibibyte_and_month():
    assert monthly_price(8 * 1024**3) == pytest.approx(0.40)
