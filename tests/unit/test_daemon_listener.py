"""supervisord's event listener: what powers the machine off, and what does not."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

from wren_worker.daemon import listener
from wren_worker.daemon.listener import EXITS_TIME, MAX_EXITS, Listener


def event(name: str, body: str) -> str:
    return f"ver:3.0 server:supervisor serial:1 pool:poweroff poolserial:1 eventname:{name} len:{len(body)}\n{body}"


def test_fatal_is_a_reason_and_a_clean_exit_is_none(tmp_path):
    found = Listener(tmp_path / "log")
    assert "could not be started" in found.reason("PROCESS_STATE_FATAL", {"processname": "daemon"}, 0.0)
    assert found.reason("PROCESS_STATE_EXITED", {"processname": "daemon", "expected": "1"}, 0.0) is None


def test_repeated_unexpected_exits_are_a_reason_only_when_they_come_close_together(tmp_path):
    facts = {"processname": "daemon", "expected": "0"}
    close, apart = Listener(tmp_path / "log"), Listener(tmp_path / "log")
    reasons = [close.reason("PROCESS_STATE_EXITED", facts, 10.0 * n) for n in range(MAX_EXITS)]
    assert [bool(reason) for reason in reasons] == [False] * (MAX_EXITS - 1) + [True]
    assert not any(apart.reason("PROCESS_STATE_EXITED", facts, EXITS_TIME * n) for n in range(10))


def test_it_speaks_supervisords_protocol_by_path_without_our_package_and_asks_once(tmp_path: Path):
    stub = tmp_path / "bin" / "systemctl"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    stub.chmod(0o755)
    fatal = event("PROCESS_STATE_FATAL", "processname:daemon groupname:daemon from_state:BACKOFF")
    done = subprocess.run(
        [sys.executable, "-I", listener.__file__],
        input=fatal + fatal,
        capture_output=True,
        text=True,
        timeout=20,
        env={"PATH": f"{stub.parent}:{os.environ['PATH']}", "WREN_LOG_DIR": str(tmp_path)},
        check=True,
    )
    assert done.stdout == "READY\nRESULT 2\nOKREADY\nRESULT 2\nOKREADY\n"
    for _ in range(100):
        if (tmp_path / "asked").exists():
            break
        subprocess.run(["sleep", "0.05"], check=True)
    assert (tmp_path / "asked").read_text() == "poweroff\n"
    assert json.loads((tmp_path / "listener.log").read_text())["who"] == "listener"


def test_end_of_input_ends_it(tmp_path):
    answers = io.StringIO()
    Listener(tmp_path / "log").serve(io.StringIO(""), answers)
    assert answers.getvalue() == "READY\n"
