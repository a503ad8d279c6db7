"""A fleet in a real sandbox, and what the system tests ask of it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

import wren_worker
from wren_worker.chaos.checker import Budget, Violation, check
from wren_worker.chaos.place import Place
from wren_worker.chaos.proxy import FaultProxy
from wren_worker.config import Settings
from wren_worker.fleet.launch import launch
from wren_worker.fleet.setup import setup
from wren_worker.fleet.spec import Launch
from wren_worker.sandbox import control
from wren_worker.wiring.operator import Operator

CHECKOUT = Path(wren_worker.__file__).parent.parent


class World:
    """One fleet of its own in a sandbox that tests of a process share, behind a proxy that records every request."""

    def __init__(self, info: control.SandboxInfo, fleet: str, folder: Path) -> None:
        self.info = info
        self.fleet = fleet
        self.folder = folder
        self.proxy = FaultProxy(info.endpoint)
        control.put_in_front(info, self.proxy.endpoint)
        #: What breaks things on purpose and notes that it did.
        self.place = Place(info, self.proxy)
        # tests look at the roster many times a second
        self.budget = Budget(per_client_second=60.0)
        exports = {**info.exports, "AWS_ENDPOINT_URL": self.proxy.endpoint}
        self.operator = Operator(Settings(fleet=fleet), exports=exports)
        for _ in setup(self.operator.provisioner, self.operator.names, pythons=(self.operator.python,)):
            pass
        #: What a user's shell would have after `eval "$(wren-standalone sandbox up)"`.
        self.exports = {**exports, "WREN_FLEET": fleet}

    # --- instances ----------------------------------------------------------------------------------------------------

    def launch(self, count: int = 1, *, ready: bool = True, **spec: Any) -> list[str]:
        wanted = Launch(
            count=count,
            **{
                "types": ("c5.large",),
                "idle_timeout": 120.0,
                "lease_time": 3.0,
                "slots": "1",
                "deadman_interval": 1.0,
                **spec,
            },
        )
        report = launch(
            self.operator.machines,
            wanted,
            self.operator.names,
            python=self.operator.python,
            launch_id=secrets.token_hex(8),
        )
        ids = list(report.instance_ids)
        if ready:
            self.until(lambda: {row.instance_id for row in self.rows() if row.doing == "running"} >= set(ids))
        return ids

    def rows(self, *, alive_only: bool = True) -> list[Any]:
        return self.operator.roster(alive_only=alive_only)

    def row(self, instance_id: str) -> Any:
        return next(row for row in self.rows(alive_only=False) if row.instance_id == instance_id)

    def machine_folder(self, instance_id: str) -> Path:
        return self.info.directory / "instances" / instance_id

    def processes(self, instance_id: str = "") -> list[psutil.Process]:
        """Return what runs of an instance, or of the whole fleet."""
        wanted = {instance_id} if instance_id else {row.instance_id for row in self.rows(alive_only=False)}
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("IN_WREN_SANDBOX_INSTANCE") in wanted
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                pass
        return found

    def daemon(self, instance_id: str) -> psutil.Process:
        (found,) = [p for p in self.processes(instance_id) if p.cmdline()[-2:] == ["wren_worker", "daemon"]]
        return found

    def systemctl_callers(self, instance_id: str) -> list[str]:
        lines = (self.machine_folder(instance_id) / "log" / "systemctl.log").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        return [entry["caller"] for entry in entries if entry["arguments"][:1] == ["poweroff"]]

    # --- a user -------------------------------------------------------------------------------------------------------

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, **self.exports, "PYTHONPATH": str(CHECKOUT), **more}

    def script(self, text: str, *arguments: str, name: str = "job.py") -> list[str]:
        path = self.folder / name
        path.write_text(textwrap.dedent(text))
        return [sys.executable, str(path), *arguments]

    def run(self, text: str, *arguments: str, timeout: float = 90.0, name: str = "job.py") -> Any:
        """Run a user's script to its end and return what it printed last, as JSON."""
        done = subprocess.run(
            self.script(text, *arguments, name=name),
            env=self.environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def command(self, *arguments: str, input_: str = "") -> subprocess.CompletedProcess[str]:
        """Run ``wren-standalone``."""
        code = "from wren_worker.cli.main import main; main(prog_name='wren-standalone')"
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=self.environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            input=input_,
            timeout=60,
            check=False,
        )

    def until(self, done: Callable[[], bool], timeout: float = 40.0) -> float:
        began = time.monotonic()
        while not done():
            assert time.monotonic() - began < timeout, self.state()
            time.sleep(0.05)
        return time.monotonic() - began

    def state(self) -> str:
        logs = []
        for row in self.rows(alive_only=False):
            log = self.machine_folder(row.instance_id) / "log" / "daemon.log"
            logs.append(f"{row}\n{log.read_text()[-2000:] if log.exists() else 'no log'}")
        return "\n".join(logs)

    def close(self) -> None:
        try:
            self.proxy.script.clear()
            self.place.settle()
            alive = [info.instance_id for info in self.operator.machines.instances(self.fleet)]
            self.operator.machines.terminate(alive)
            self.until(lambda: not self.processes(), timeout=20.0)
        finally:
            control.put_in_front(self.info, "")
            self.proxy.close()

    def violations(self) -> list[Violation]:
        """Return what the requests of this test's whole life show that must never be."""
        return check(self.proxy.record, budget=self.budget) + self.place.violations


def gone(processes: Sequence[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)
