"""What an image and user-data bring: linted by the tools that will read them."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import wren_worker
from wren_worker.config import InstanceConfig
from wren_worker.fleet.userdata import Bootstrap, render

ROOT = Path(wren_worker.__file__).parents[1]
FOLDER = ROOT / "cloud-init"
SHELL = sorted(FOLDER.glob("*.sh"))
#: What is on an image under these paths; here they are something that is there.
INTERPRETERS = re.compile(r"/opt/wren/venv/bin/python|/usr/bin/python3")

LARGEST = InstanceConfig(
    fleet="f" * 24,
    account="123456789012",
    region="ap-southeast-3",
    python="3.14",
    slots="192",
    idle_timeout=86399.75,
    max_lifetime=604799.25,
    lease_time=86399.5,
    boot_timeout=86399.5,
    stale_timeout=86399.5,
    deadman_interval=86399.5,
    runtime="/" + "r" * 64,
    version="100.100.100.dev100+local",
)
ARCHIVE = Bootstrap(
    bucket=f"wren-123456789012-ap-southeast-3-{'f' * 24}",
    key=f"wheels/bootstrap-{'0' * 64}.tar.gz",
    sha256="0" * 64,
    region="ap-southeast-3",
)
USER_DATA = {"plain": render(LARGEST), "bootstrap": render(LARGEST, bootstrap=ARCHIVE)}
#: cloud-init's modules that we use; its own schema lets keys pass that it does not know.
KNOWN_KEYS = {"bootcmd", "write_files", "runcmd"}


def tool(name):
    path = shutil.which(name)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return path


def run(*command, **options):
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False, **options)


# --- user-data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", USER_DATA)
def test_the_largest_user_data_is_small(kind):
    assert len(USER_DATA[kind].encode()) < 4096


def unknown_keys(text):
    return set(yaml.safe_load(text)) - KNOWN_KEYS


@pytest.mark.parametrize("kind", USER_DATA)
def test_user_data_has_no_key_that_cloud_init_would_ignore(kind):
    assert unknown_keys(USER_DATA[kind]) == set()
    assert unknown_keys(USER_DATA[kind].replace("runcmd:", "runcmds:")) == {"runcmds"}


@pytest.mark.parametrize("kind", USER_DATA)
def test_cloud_init_s_own_schema(kind, tmp_path):
    cloud_init = tool("cloud-init")
    path = tmp_path / "user-data"
    path.write_text(USER_DATA[kind])
    done = run(cloud_init, "schema", "--config-file", path)
    assert done.returncode == 0, done.stdout + done.stderr
    path.write_text(USER_DATA[kind].replace("content: |", "contents: |"))
    assert run(cloud_init, "schema", "--config-file", path).returncode != 0


def test_the_program_in_user_data_is_python_for_3_11(tmp_path):
    [program] = [
        one["content"] for one in yaml.safe_load(USER_DATA["bootstrap"])["write_files"] if "fetch" in one["path"]
    ]
    compile(program, "fetch.py", "exec")
    assert len((FOLDER / "fetch.py").read_text().splitlines()) <= 60


# --- units ------------------------------------------------------------------------------------------------------------


def verify(folder):
    """Return what systemd has to say about units in a folder."""
    for unit in folder.iterdir():
        unit.write_text(INTERPRETERS.sub("/bin/true", unit.read_text()))
    units = [path for path in sorted(folder.iterdir()) if "@" not in path.name]
    done = run(tool("systemd-analyze"), "verify", *units, cwd=folder)
    return done.stdout + done.stderr


def test_systemd_finds_nothing_in_the_units(tmp_path):
    tool("systemd-analyze")
    units = shutil.copytree(FOLDER / "units", tmp_path / "units", ignore=shutil.ignore_patterns("*.conf"))
    assert verify(units) == ""
    path = units / "wren-supervisord.service"
    path.write_text(path.read_text().replace("KillMode=", "KilMode="))
    assert "KilMode" in verify(units)


def unit(name):
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str
    parser.read(FOLDER / "units" / name)
    return parser


def test_the_supervisord_unit_ends_the_machine_and_all_that_it_started():
    found = unit("wren-supervisord.service")
    assert found["Unit"]["StartLimitAction"] == "poweroff-force"
    assert found["Service"]["Restart"] == "always"
    # asked once, by supervisord, and killed together
    assert found["Service"]["KillMode"] == "mixed"
    assert int(found["Service"]["OOMScoreAdjust"]) <= -900
    # a greedy call is killed alone
    assert found["Service"]["OOMPolicy"] == "continue"
    # systemd must not lose patience before supervisord does
    supervisord = configparser.RawConfigParser()
    supervisord.read(ROOT / "supervisord.conf")
    assert float(found["Service"]["TimeoutStopSec"]) > float(supervisord["program:daemon"]["stopwaitsecs"])


def test_nothing_stops_the_dead_man():
    for name in ("wren-deadman.timer", "wren-deadman.service"):
        found = unit(name)
        assert found["Unit"]["DefaultDependencies"] == "no"
        assert not {"After", "Requires", "Conflicts"} & set(found["Unit"])
    assert unit("wren-deadman.service")["Service"]["OOMScoreAdjust"] == "-1000"


def test_install_places_every_unit_and_twice_is_once(tmp_path):
    for _ in range(2):
        done = run("bash", FOLDER / "install.sh", tmp_path)
        assert done.returncode == 0, done.stderr
    system = tmp_path / "etc/systemd/system"
    placed = {path.name for path in system.glob("wren-*")}
    assert placed == {path.name for path in (FOLDER / "units").glob("wren-*")}
    enabled = {path.name: path.resolve() for path in system.glob("*.wants/*")}
    assert set(enabled) == {name for name in placed if "Install" in unit(name)} - {"wren-supervisord.service"}
    assert all(path.exists() for path in enabled.values())
    for name in ("cloud-init-local", "cloud-init", "cloud-config", "cloud-final"):
        assert "OnFailure=wren-failed@" in (system / f"{name}.service.d/50-wren.conf").read_text()
    # whatever a unit runs is there: on the image's own, or placed
    for path in (FOLDER / "units").glob("wren-*"):
        for script in re.findall(r"/opt/wren/lib/\S+", path.read_text()):
            assert (tmp_path / script.lstrip("/")).is_file(), script


# --- scripts ----------------------------------------------------------------------------------------------------------


def test_shellcheck_finds_nothing():
    assert SHELL
    done = run(Path(sys.executable).with_name("shellcheck"), "--severity=style", *SHELL)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["deadman.py", "lastwords.py", "nudge.py", "fetch.py"])
def test_scripts_of_the_machine_need_the_standard_library_only(name):
    """They run under the distribution's Python, when everything of ours may be what is broken."""
    text = (FOLDER / name).read_text()
    modules = {
        module.strip().split(".")[0]
        for line in re.findall(r"^(?:import|from) ([\w., ]+?)(?: import .*)?$", text, re.MULTILINE)
        for module in line.split(",")
    }
    assert modules
    assert modules <= set(sys.stdlib_module_names)
