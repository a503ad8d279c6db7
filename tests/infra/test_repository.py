"""What is shipped: the wheel carries the instance's files, and supervisord.conf agrees with the code it runs."""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import wren_worker
from wren_worker.config import shared_file
from wren_worker.daemon import listener
from wren_worker.daemon.exits import EXPECTED, Exit

ROOT = Path(wren_worker.__file__).parents[1]
CONF = ROOT / "supervisord.conf"
SHIPPED = ("supervisord.conf", "cloud-init", "packer", "examples")

#: Runs in a process of its own: Supervisor's parser reads the environment and keeps module state.
PARSE = """
import json, sys
from supervisor.options import ServerOptions
options = ServerOptions()
options.realize(["-n", "-c", sys.argv[1]])
found = {}
for group in options.process_group_configs:
    [process] = group.process_configs
    facts = {name: getattr(process, name) for name in sys.argv[2:]}
    facts["events"] = sorted(event.__name__ for event in getattr(group, "pool_events", ()))
    found[group.name] = facts
print(json.dumps(found | {"warnings": options.parse_warnings}, default=str))
"""
FACTS = (
    *("command", "autostart", "exitcodes", "startsecs", "startretries", "stopwaitsecs", "stopasgroup", "killasgroup"),
    "stopsignal",
)


@pytest.fixture
def parsed(tmp_path):
    environ = {
        "PATH": os.environ["PATH"],
        "WREN_PYTHON": sys.executable,
        "WREN_PACKAGE": str(ROOT / "wren_worker"),
        "WREN_RUN_DIR": str(tmp_path),
        "WREN_LOG_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", PARSE, str(CONF), *FACTS]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_supervisor_itself_accepts_the_file(parsed):
    assert {"daemon", "poweroff"} <= set(parsed)


def test_the_daemon_is_run_and_kept_running(parsed):
    daemon = parsed["daemon"]
    assert daemon["command"] == f"{sys.executable} -m wren_worker daemon"
    assert daemon["autostart"] is True
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read(CONF)
    # "unexpected" would leave an instance without a daemon after exit code 0, and nobody to power it off
    assert parser["program:daemon"]["autorestart"] == "true"
    assert parser["supervisord"]["nodaemon"] == "true"


def test_expected_exit_codes_are_the_code_s(parsed):
    assert parsed["daemon"]["exitcodes"] == [int(code) for code in EXPECTED]
    assert [code for code in Exit if code not in EXPECTED], "nothing would count as a crash"


def test_a_daemon_that_dies_at_once_never_counts_as_started(parsed):
    assert parsed["daemon"]["startsecs"] >= 5


def test_the_crash_loop_is_caught_within_a_minute(parsed):
    # tries, and the waits of 1, 2, 3 s between them, before FATAL
    retries = parsed["daemon"]["startretries"]
    assert (retries + 1) * parsed["daemon"]["startsecs"] + sum(range(1, retries + 1)) < listener.EXITS_TIME
    # exits after startsecs: so many must fit the listener's window
    assert listener.MAX_EXITS * (parsed["daemon"]["startsecs"] + 1) < listener.EXITS_TIME


def test_stopping_reaches_the_whole_group_and_leaves_time_to_publish(parsed):
    daemon = parsed["daemon"]
    assert daemon["stopasgroup"] is True
    assert daemon["killasgroup"] is True
    assert daemon["stopsignal"] == 15
    assert daemon["stopwaitsecs"] > 10


def test_the_listener_is_run_by_path_and_hears_both_signs(parsed):
    poweroff = parsed["poweroff"]
    assert poweroff["events"] == ["ProcessStateExitedEvent", "ProcessStateFatalEvent"]
    python, script = poweroff["command"].split()
    assert python == sys.executable
    assert Path(script) == Path(listener.__file__)


def test_no_key_is_misspelt():
    """Supervisor passes over keys that it does not know."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read(CONF)
    program = {
        *("command", "autostart", "autorestart", "exitcodes", "startsecs", "startretries", "stopsignal"),
        *("stopwaitsecs", "stopasgroup", "killasgroup", "environment", "directory", "umask", "user", "priority"),
        *("redirect_stderr", "stdout_logfile", "stdout_logfile_maxbytes", "stdout_logfile_backups"),
        *("stderr_logfile", "stderr_logfile_maxbytes", "stderr_logfile_backups"),
    }
    known = {
        "supervisord": {
            *("nodaemon", "logfile", "logfile_maxbytes", "logfile_backups", "loglevel", "pidfile", "childlogdir"),
            *("minfds", "user", "umask", "identifier", "strip_ansi", "silent"),
        },
        "program": program,
        "eventlistener": program | {"events", "buffer_size", "result_handler"},
        "unix_http_server": {"file", "chmod", "chown", "username", "password"},
        "rpcinterface": {"supervisor.rpcinterface_factory"},
        "supervisorctl": {"serverurl"},
    }
    for section in parser.sections():
        assert set(parser[section]) <= known[section.partition(":")[0]], section


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    source, target = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("wheel")
    # a copy: the build leaves files behind, and another test may build at the same time
    ignore = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, source, ignore=ignore)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = target.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_carries_what_an_instance_needs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for shared in SHIPPED:
            path = ROOT / shared
            files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
            for file in files:
                if "__pycache__" in file.parts:
                    continue
                name = f"wren_worker/_files/{file.relative_to(ROOT)}"
                assert name in names
                assert archive.read(name) == file.read_bytes()
    assert {"wren_worker/_files/supervisord.conf", "wren_worker/_files/cloud-init/deadman.py"} <= names
    assert any(name.startswith("wren_worker/_files/packer/") for name in names)


@pytest.mark.slow
def test_the_wheel_carries_the_whole_package_and_nothing_else(wheel):
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "wren_worker").rglob("*")
        if path.is_file() and path.suffix != ".pyc" and "_files" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if "/_files/" not in name and ".dist-info/" not in name}
    assert "wren_worker/py.typed" in names
    assert names == package


@pytest.mark.slow
def test_an_installed_wheel_finds_its_files(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    script = "from wren_worker.config import shared_file; print(shared_file('supervisord.conf'))"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert Path(done.stdout.strip()) == tmp_path / "site" / "wren_worker" / "_files" / "supervisord.conf"


@pytest.fixture
def installed(wheel, tmp_path):
    """Return the folder of an environment's programs: the wheel and what it depends on, and no checkout."""
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], timeout=60, check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check"]
    command = [*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # The dependencies are borrowed. A .pth file inside a borrowed folder is not read, so an editable install stays out.
    [site] = folder.glob("lib/python*/site-packages")
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "borrowed.pth").write_text("".join(f"{path}\n" for path in sorted(borrowed)))
    return folder / "bin"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_runs_from_a_wheel_with_no_checkout_beside_it(installed, tmp_path, processes):
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    where = [installed / "python", "-c", "import wren_worker; print(wren_worker.__file__)"]
    found = subprocess.run(where, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert Path(found.stdout.strip()).is_relative_to(installed.parent)

    log = tmp_path / "demo.log"
    with log.open("wb") as output:
        demo = processes(
            [installed / "wren-standalone", "demo"], env=environ, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT
        )
        code = demo.wait(240)
    assert code == 0, log.read_text()
    assert processes.alive() == []


@pytest.mark.slow
def test_the_wheel_names_its_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [entry] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "wren-standalone = wren_worker.cli.main:main" in archive.read(entry).decode()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_checkout_has_what_the_wheel_ships(name):
    assert shared_file(name).exists()


def test_every_file_of_the_package_compiles_for_the_oldest_python():
    import ast

    for path in (ROOT / "wren_worker").rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 11))


def test_the_license_is_the_text_itself_and_names_nobody_else():
    text = (ROOT / "LICENSE").read_bytes()
    # Source: https://www.apache.org/licenses/LICENSE-2.0.txt, as Debian ships it
    assert hashlib.sha256(text).hexdigest() == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_the_repository_holds_text_and_nothing_large():
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert len(paths) > 100
    assert not [path.name for path in paths if path.stat().st_size > 300_000 or b"\0" in path.read_bytes()]
