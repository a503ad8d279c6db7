"""Small parts of the sandbox: systemctl's words, cloud-init's files, state files, processes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wren_worker.sandbox import cloudinit, control, processes, state, systemctl


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        (["poweroff"], {"verb": "poweroff", "force": False}),
        (["poweroff", "--force", "--force"], {"verb": "poweroff", "force": True}),
        (["start", "--no-block", "wren-supervisord.service"], {"verb": "start", "unit": "wren-supervisord.service"}),
        (["start", "wren-deadman.timer"], {"verb": "start", "unit": "wren-deadman.timer"}),
        (["start", "sshd.service"], None),
        (["reboot"], None),
        ([], None),
    ],
)
def test_systemctl_words(arguments, request_):
    assert systemctl.parse(arguments) == request_


def test_write_files_stay_inside_the_instance(tmp_path, monkeypatch):
    text = """#cloud-config
write_files:
  - {path: /etc/wren/instance.json, permissions: "0600", content: "{}"}
  - {path: /../../outside, content: x}
  - {path: /b, encoding: b64, content: aGk=}
runcmd:
  - [sh, -c, "echo $GREETING > ran"]
  - echo shell > ran2
"""
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setattr(cloudinit, "fetch_user_data", lambda _endpoint: text.encode())
    environment = {"PATH": os.environ["PATH"], "GREETING": "hello", "AWS_EC2_METADATA_SERVICE_ENDPOINT": ""}
    cloudinit.run(root, environment)
    assert (root / "etc/wren/instance.json").stat().st_mode & 0o777 == 0o600
    assert (root / "outside").read_text() == "x"
    assert (root / "b").read_text() == "hi"
    assert (root / "ran").read_text() == "hello\n"
    assert (root / "ran2").read_text() == "shell\n"


@pytest.mark.parametrize(
    "text", ["#cloud-config\n{", "no yaml: [", "#cloud-config\n- 1", "#cloud-config\nwrite_files: 7"]
)
def test_broken_user_data_is_told_on_the_console(tmp_path, monkeypatch, capsys, text):
    monkeypatch.setattr(cloudinit, "fetch_user_data", lambda _endpoint: text.encode())
    cloudinit.run(tmp_path, {"AWS_EC2_METADATA_SERVICE_ENDPOINT": ""})
    assert json.loads(capsys.readouterr().out)["event"] in ("cloud_init.failed", "cloud_init.not_a_cloud_config")


def test_state_of_another_process_is_stale(tmp_path):
    assert state.load(tmp_path) is None
    state.save(tmp_path, "http://x")
    found = state.load(tmp_path)
    assert found is not None
    assert found.pid == os.getpid()
    content = json.loads((tmp_path / "sandbox.json").read_text())
    (tmp_path / "sandbox.json").write_text(json.dumps({**content, "process_start": "1"}))
    assert state.load(tmp_path) is None
    (tmp_path / "sandbox.json").write_text("{")
    assert state.load(tmp_path) is None


def test_finds_trees_and_markers_and_ends_them(tmp_path):
    sleeping = "import time; time.sleep(60)"
    script = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{sleeping}']); {sleeping}"
    marker = f"IN_WREN_SANDBOX={tmp_path}"
    child = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "IN_WREN_SANDBOX": str(tmp_path)})
    try:
        deadline = time.monotonic() + 20
        while len(processes.marked(marker)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert child.pid in processes.descendants(os.getpid())
        assert len(processes.descendants(child.pid)) == 1
        assert processes.parent(child.pid) == os.getpid()
        assert "time.sleep(60)" in processes.command_line(child.pid)
        assert processes.end_marked(marker) == []
        assert not processes.alive(child.pid)
    finally:
        child.kill()
        child.wait()


def test_default_directory():
    assert control.default_directory({"HOME": "/h"}) == Path("/h/.local/state/wren/sandbox")
    assert control.default_directory({"HOME": "/h", "XDG_STATE_HOME": "/s"}) == Path("/s/wren/sandbox")
    assert control.default_directory({}, "/d") == Path("/d")


def test_missing_extra_says_what_to_install(tmp_path, monkeypatch):
    from wren_worker.errors import ConfigError

    monkeypatch.setattr(control.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'wren-worker\[sandbox\]'"):
        control.up(tmp_path)
