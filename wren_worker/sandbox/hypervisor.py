"""Turns every running EC2 instance of the sandbox into a local process tree, and tells EC2 when one ends.

Runs in one thread of the sandbox's process. That thread starts the machines and lives as long as the process:
PDEATHSIG of a machine fires when the thread that started it ends.
"""

from __future__ import annotations

import os
import signal
import site
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wren_worker.sandbox import processes
from wren_worker.sandbox.blueprint import CUT, POWERED_OFF, Blueprint
from wren_worker.sandbox.cloud import ACCOUNT, REGION, Cloud
from wren_worker.sandbox.imds import Identity, MetadataServer

__all__ = ["Hypervisor", "Site"]

_TICK_TIME = 0.05
_BURIAL_INTERVAL = 5.0
_CONSOLE_BYTES = 65536  # what GetConsoleOutput keeps
_SOCKET_PATH_BYTES = 100  # sun_path is 104 bytes on macOS, 108 on Linux, and the name comes on top
_PASSED_ON = ("LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "USER", "LOGNAME")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where local instances live and what runs on them."""

    folder: Path  # of the sandbox
    endpoint: str  # of its AWS
    supervisord_conf: Path
    deadman: Path
    package: Path  # of wren_worker
    path: str  # the caller's PATH
    environment: Mapping[str, str]  # the caller's
    stop_timeout: float = 3.0

    @property
    def marker(self) -> str:
        """Return what every process of the sandbox's instances has in its environment."""
        return f"IN_WREN_SANDBOX={self.folder}"


@dataclass(slots=True, kw_only=True)
class _Local:
    """One local instance."""

    instance: Any
    folder: Path
    alias: Path | None
    process: subprocess.Popen[bytes]
    metadata: MetadataServer
    verdict: tuple[str, str] | None = None  # state reason, when somebody else than EC2 or itself ends it
    cut_at: float | None = None  # monotonic; when patience with its shutdown ends
    started_at: float = field(default_factory=time.monotonic)


class Hypervisor:
    """Watches EC2 and keeps local instances in step with it."""

    def __init__(self, cloud: Cloud, place: Site, *, launching: AbstractContextManager[object] | None = None) -> None:
        self._cloud = cloud
        # held by EC2 while it starts a fleet: one seen half started would count too few instances to share the cores
        self._launching = launching or nullcontext()
        self._site = place
        self._locals: dict[str, _Local] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._next_burial = 0.0
        self._doomed: list[tuple[float, str, str, str]] = []  # (when, instance id, state reason code, text)
        self._thread = threading.Thread(target=self._run, name="hypervisor", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> list[int]:
        """Cut every instance off; return the pids that would not die (none, so far)."""
        self._stopping.set()
        self._thread.join(10)
        with self._lock:
            left = list(self._locals.values())
        for local in left:
            processes.kill([local.process.pid], signal.SIGTERM)
        deadline = time.monotonic() + 5
        for local in left:
            try:
                local.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                local.process.kill()
                local.process.wait()
            self._forget(local)
        return processes.end_marked(self._site.marker)

    def machines(self) -> list[dict[str, object]]:
        """Return what runs here."""
        with self._lock:
            return [
                {
                    "instance_id": instance_id,
                    "instance_type": local.instance.instance_type,
                    "pid": local.process.pid,
                    "folder": str(local.folder),
                    "up_time": round(time.monotonic() - local.started_at, 1),
                }
                for instance_id, local in self._locals.items()
            ]

    def reach_aws_by(self, endpoint: str) -> None:
        """Let instances that start from now on talk to AWS at another address."""
        with self._lock:
            self._site = replace(self._site, endpoint=endpoint)

    def interrupt(self, instance_id: str, notice_time: float) -> None:
        """Give a spot interruption notice, and take the instance away after ``notice_time`` seconds.

        Raises:
            KeyError: No such instance runs here.
        """
        with self._lock:
            self._local(instance_id).metadata.announce_interruption(notice_time)
            code, text = "Server.SpotInstanceTermination", "Spot instance termination"
            self._doomed.append((time.monotonic() + notice_time, instance_id, code, text))

    def crash(self, instance_id: str) -> None:
        """Kill an instance without a word, as failing hardware would.

        Raises:
            KeyError: No such instance runs here.
        """
        with self._lock:
            self._local(instance_id)
            self._doomed.append((0.0, instance_id, "Server.InternalError", "The host failed"))

    def _local(self, instance_id: str) -> _Local:
        if instance_id not in self._locals:
            raise KeyError(instance_id)
        return self._locals[instance_id]

    def _run(self) -> None:
        while not self._stopping.wait(_TICK_TIME):
            try:
                self.tick()
            except Exception:  # noqa: BLE001 - if this thread ended, every instance would lose its power
                traceback.print_exc()

    def tick(self) -> None:
        """Look once: who ended, who must go, who is new."""
        with self._lock:
            for local in list(self._locals.values()):
                if local.process.poll() is not None:
                    self._ended(local)
            self._bury_orphans()
            self._carry_out_verdicts()
            running = []
            with self._launching:
                instances = list(self._cloud.instances())
            for instance in instances:
                local = self._locals.get(instance.id)  # type: ignore[assignment]
                if instance.state == "running":
                    running.append(instance)
                elif local is not None:
                    self._press_button(local)
            for instance in running:
                if instance.id not in self._locals:
                    self._launch(instance, len(running))

    def _bury_orphans(self) -> None:
        """Reap what machines that were killed left to this process, which is everybody's subreaper here."""
        now = time.monotonic()
        if now < self._next_burial:
            return
        self._next_burial = now + _BURIAL_INTERVAL
        own = {local.process.pid for local in self._locals.values()}
        for pid in processes.dead_children(os.getpid()):
            if pid not in own:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def _carry_out_verdicts(self) -> None:
        now = time.monotonic()
        due = [doom for doom in self._doomed if doom[0] <= now]
        self._doomed = [doom for doom in self._doomed if doom[0] > now]
        for _, instance_id, code, text in due:
            local = self._locals.get(instance_id)
            if local is not None and local.verdict is None:
                local.verdict = (code, text)
                # a spot instance is shut down like any other, only later; a crash asks nobody
                if code.startswith("Server.Spot"):
                    self._press_button(local)
                else:
                    processes.kill([local.process.pid], signal.SIGTERM)

    def _press_button(self, local: _Local) -> None:
        now = time.monotonic()
        if local.cut_at is None:
            local.cut_at = now + self._site.stop_timeout + 2
            processes.kill([local.process.pid], signal.SIGUSR1)
        elif now > local.cut_at + 5:
            local.process.kill()
        elif now > local.cut_at:
            processes.kill([local.process.pid], signal.SIGTERM)

    def _ended(self, local: _Local) -> None:
        """Record how an instance ended."""
        self._locals.pop(local.instance.id)
        instance, code = local.instance, local.process.returncode
        was_told = instance.state != "running"
        instance.wren_machine_runs = False
        if code not in (POWERED_OFF, CUT):  # the machine itself was killed: what it held is orphaned
            processes.end_marked(f"IN_WREN_SANDBOX_INSTANCE={instance.id}")
        self._forget(local)
        if local.verdict is not None:
            self._cloud.end(instance, code=local.verdict[0], reason=local.verdict[1])
        elif was_told:
            self._cloud.set_state(instance, "stopped" if instance.state in ("stopping", "stopped") else "terminated")
        elif code == POWERED_OFF:
            stop = instance.instance_initiated_shutdown_behavior == "stop"
            reason = "Instance initiated shutdown"
            self._cloud.end(instance, code="Client.InstanceInitiatedShutdown", reason=reason, stop=stop)
        else:
            self._cloud.end(instance, code="Server.InternalError", reason="Internal error on launch or while running")

    def _forget(self, local: _Local) -> None:
        local.metadata.close()
        if local.alias is not None:
            local.alias.unlink(missing_ok=True)
            local.alias.parent.rmdir()

    def _launch(self, instance: Any, n_running: int) -> None:
        folder = self._site.folder / "instances" / instance.id
        for name in ("bin", "etc/wren", "log", "root", "run", "work"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._write_systemctl(folder)
        metadata = MetadataServer(self._identity(instance))
        alias = _alias(folder)
        cores = max(1, min(self._cloud.n_vcpus(instance.instance_type), _cores() // n_running))
        blueprint = Blueprint(
            instance_id=instance.id,
            folder=str(folder),
            run_dir=str((alias or folder) / "run"),
            sandbox_pid=os.getpid(),
            python=sys.executable,
            supervisord_conf=str(self._site.supervisord_conf),
            deadman=str(self._site.deadman),
            environment=self._environment(folder, (alias or folder) / "run", instance.id, metadata.endpoint, cores),
            stop_timeout=self._site.stop_timeout,
        )
        blueprint.save()
        console = folder / "log" / "console.log"
        instance.wren_console = lambda: _tail(console)
        instance.wren_machine_runs = True
        with console.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "wren_worker.sandbox.machine", str(folder)],
                env=dict(blueprint.environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._locals[instance.id] = _Local(
            instance=instance, folder=folder, alias=alias, process=process, metadata=metadata
        )

    def _write_systemctl(self, folder: Path) -> None:
        program = Path(__file__).with_name("systemctl.py")
        script = folder / "bin" / "systemctl"
        # exec keeps the pid, so that the program's parent is the caller
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{program}" "{folder}" "$@"\n', encoding="utf-8")
        script.chmod(0o755)

    def _identity(self, instance: Any) -> Identity:
        return Identity(
            instance_id=instance.id,
            instance_type=instance.instance_type,
            image_id=instance.image_id,
            region=REGION,
            zone=str(instance.availability_zone),
            account=ACCOUNT,
            private_ip=str(instance.private_ip),
            launch_timestamp=time.time(),
            # asked at each request: EC2 associates the profile a moment after the instance has started
            role=lambda: self._cloud.role(instance),
            access_key="ASIA" + instance.id.removeprefix("i-").upper()[:16].ljust(16, "0"),
            user_data=self._cloud.user_data(instance),
            spot=getattr(instance, "lifecycle", None) == "spot",
            tags=lambda: self._cloud.tags(instance),
        )

    def _environment(
        self, folder: Path, run_dir: Path, instance_id: str, imds_endpoint: str, cores: int
    ) -> dict[str, str]:
        """Return what every process of the instance sees; of the caller's shell only what is harmless."""
        place = self._site
        environment = {name: place.environment[name] for name in _PASSED_ON if name in place.environment}
        environment |= {
            "PATH": f"{folder / 'bin'}:{place.path}",
            "HOME": str(folder / "root"),  # no ~/.aws of the user's: credentials come from IMDS, as on EC2
            "WREN_PYTHON": sys.executable,
            "WREN_PACKAGE": str(place.package),
            "WREN_INSTANCE_CONFIG": str(folder / "etc" / "wren" / "instance.json"),
            "WREN_RUN_DIR": str(run_dir),
            "WREN_LOG_DIR": str(folder / "log"),
            "WREN_WORK_DIR": str(folder / "work"),
            "WREN_CORES": str(cores),
            "WREN_BOOT_ID": f"{instance_id}-{time.time_ns()}",
            # not WREN_…, which a daemon keeps from its slots: what calls start must be found, too
            "IN_WREN_SANDBOX": str(place.folder),
            "IN_WREN_SANDBOX_INSTANCE": instance_id,
            "AWS_ENDPOINT_URL": place.endpoint,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds_endpoint,
        }
        if place.package.parent.name not in ("site-packages", "dist-packages"):  # a checkout
            environment["PYTHONPATH"] = str(place.package.parent)
        if site.ENABLE_USER_SITE:  # HOME is another one now
            environment["PYTHONUSERBASE"] = site.getuserbase()
        return environment


def _alias(folder: Path) -> Path | None:
    """Return a short name for a folder that is too deep for sockets in it, None when it is not."""
    if len(os.fsencode(folder / "run" / "supervisor.sock")) <= _SOCKET_PATH_BYTES:
        return None
    base = tempfile.mkdtemp(prefix="wren-", dir="/tmp")
    alias = Path(base) / folder.name
    alias.symlink_to(folder, target_is_directory=True)
    return alias


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _CONSOLE_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
