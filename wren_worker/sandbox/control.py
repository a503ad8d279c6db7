"""Starts, finds and ends sandboxes: what the command line and ``executor(backend="local")`` call.

Imports nothing of moto: that happens in the sandbox's own process.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from wren_worker.errors import ConfigError, FleetError
from wren_worker.sandbox import processes, state

__all__ = [
    "PrivateSandbox",
    "SandboxInfo",
    "billed_units",
    "crash",
    "default_directory",
    "down",
    "interrupt",
    "private",
    "put_in_front",
    "request_counts",
    "set_capacity",
    "status",
    "up",
]

ACCOUNT = "123456789012"
REGION = "us-east-1"
_START_TIMEOUT = 30.0  # seconds; it takes about one
_STOP_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxInfo:
    """A sandbox that runs."""

    endpoint: str
    region: str
    account: str
    pid: int
    directory: Path

    @property
    def exports(self) -> dict[str, str]:
        """Return the environment in which boto3 and the ``aws`` command talk to it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": "AKIAWRENSANDBOX00000",
            "AWS_SECRET_ACCESS_KEY": "sandbox",
        }


def default_directory(environ: Mapping[str, str] | None = None, setting: str = "") -> Path:
    """Return where the user's sandbox lives, unless another place is named (``Settings.sandbox_dir``)."""
    environ = os.environ if environ is None else environ
    if setting:
        return Path(setting).expanduser()
    home = environ.get("HOME") or str(Path.home())
    return Path(environ.get("XDG_STATE_HOME") or Path(home) / ".local" / "state") / "wren" / "sandbox"


def up(
    directory: Path,
    *,
    port: int | None = None,
    supervisord_conf: Path | None = None,
    deadman: Path | None = None,
) -> SandboxInfo:
    """Return the directory's sandbox, starting one in the background unless one runs.

    Args:
        directory: Its folder; made when missing.
        port: Of AWS on loopback; None takes a free one.
        supervisord_conf: What instances run instead of our own.
        deadman: The dead-man script instead of our own.

    Raises:
        ConfigError: The sandbox extra is not installed.
        FleetError: It did not start; says what it printed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
    with _locked(directory):
        running = state.load(directory)
        if running is None:
            _check_installed()
            _clear(directory)
            command = [*_command(directory, port, supervisord_conf, deadman), "--detach"]
            # it returns once the sandbox serves, and leaves it running as nobody's child
            running = _await_ready(directory, _spawn(directory, command, stdin=subprocess.DEVNULL))
    return _info(directory, running)


def down(directory: Path) -> bool:
    """End the directory's sandbox and every process of its instances; return whether one ran.

    Raises:
        FleetError: A process would not end; ``pids`` says which.
    """
    if not directory.is_dir():
        return False
    directory = directory.resolve()
    with _locked(directory):
        running = state.load(directory)
        if running is not None:
            processes.kill([running.pid], signal.SIGTERM)
            deadline = time.monotonic() + _STOP_TIMEOUT
            while state.load(directory) is not None and time.monotonic() < deadline:
                time.sleep(0.01)
            if state.load(directory) is not None:
                processes.kill([running.pid])
        _clear(directory)
        state.remove(directory)
    return running is not None


def status(directory: Path) -> SandboxInfo | None:
    """Return the directory's sandbox, None when none runs."""
    if not directory.is_dir():
        return None
    directory = directory.resolve()
    running = state.load(directory)
    return None if running is None else _info(directory, running)


def machines(info: SandboxInfo) -> list[dict[str, Any]]:
    """Return the local instances: ``instance_id, instance_type, pid, folder, up_time`` of each."""
    found: list[dict[str, Any]] = _ask(info, "GET", "status")["machines"]
    return found


def request_counts(info: SandboxInfo) -> dict[str, int]:
    """Return how many AWS requests were made so far, by "service.Operation"."""
    return _ask(info, "GET", "requests")


def billed_units(info: SandboxInfo) -> dict[str, int]:
    """Return the requests as SQS and S3 would bill them: more than one for an SQS payload above 64 KiB."""
    return _ask(info, "GET", "units")


def set_capacity(info: SandboxInfo, limits: Mapping[str, int | None]) -> None:
    """Let only so many more instances of a type start; None takes the limit away."""
    _ask(info, "POST", "capacity", dict(limits))


def put_in_front(info: SandboxInfo, endpoint: str) -> None:
    """Let instances that start from now on reach AWS at another address, such as a proxy's; "" is the sandbox's own."""
    _ask(info, "POST", "front", {"endpoint": endpoint})


def interrupt(info: SandboxInfo, instance_id: str, *, notice_time: float = 120.0) -> None:
    """Give an instance a spot interruption notice, and take it away ``notice_time`` seconds later.

    Raises:
        FleetError: No such instance runs.
    """
    _ask(info, "POST", f"interrupt/{instance_id}", {"notice_time": notice_time})


def crash(info: SandboxInfo, instance_id: str) -> None:
    """Kill an instance without a word.

    Raises:
        FleetError: No such instance runs.
    """
    _ask(info, "POST", f"crash/{instance_id}", {})


class PrivateSandbox:
    """A sandbox that lives as long as this object, and never longer than this process.

    It ends when its standard input does, which the kernel sees to, however this process dies.
    """

    def __init__(self, info: SandboxInfo, process: subprocess.Popen[bytes], *, temporary: bool) -> None:
        self.info = info
        self._process = process
        self._temporary = temporary

    def close(self) -> None:
        """End it and every process of its instances."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _clear(self.info.directory)
        if self._temporary:
            shutil.rmtree(self.info.directory, ignore_errors=True)

    def __enter__(self) -> PrivateSandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def private(
    directory: Path | None = None, *, supervisord_conf: Path | None = None, deadman: Path | None = None
) -> PrivateSandbox:
    """Start a sandbox of this process's own, in a temporary folder unless one is given.

    Raises:
        ConfigError: The sandbox extra is not installed.
        FleetError: It did not start; says what it printed.
    """
    _check_installed()
    folder = Path(tempfile.mkdtemp(prefix="wren-sandbox-")) if directory is None else directory
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    command = [*_command(folder, None, supervisord_conf, deadman), "--until-eof"]
    process = _spawn(folder, command, stdin=subprocess.PIPE)
    running = _await_ready(folder, process)
    return PrivateSandbox(_info(folder, running), process, temporary=directory is None)


def _info(directory: Path, running: state.State) -> SandboxInfo:
    return SandboxInfo(endpoint=running.endpoint, region=REGION, account=ACCOUNT, pid=running.pid, directory=directory)


def _check_installed() -> None:
    missing = [name for name in ("moto", "flask", "werkzeug") if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        text = f"The sandbox needs {names}, which is not installed. Run: pip install 'wren-worker[sandbox]'"
        raise ConfigError(text, missing=missing)


def _command(directory: Path, port: int | None, supervisord_conf: Path | None, deadman: Path | None) -> list[str]:
    command = [sys.executable, "-P", "-m", "wren_worker.sandbox", str(directory), "--port", str(port or 0)]
    if supervisord_conf is not None:
        command += ["--supervisord-conf", str(supervisord_conf.resolve())]
    if deadman is not None:
        command += ["--deadman", str(deadman.resolve())]
    return command


def _spawn(directory: Path, command: list[str], *, stdin: int) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    package_parent = Path(__file__).resolve().parents[2]
    if package_parent.name not in ("site-packages", "dist-packages"):
        # a checkout that was never installed must be found: -P takes the working folder off the path
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(package_parent), environment.get("PYTHONPATH"))))
    with (directory / "sandbox.log").open("ab") as log:
        # a session of its own: Ctrl-C at the terminal is for the owner, who then ends it in order
        return subprocess.Popen(command, stdin=stdin, stdout=log, stderr=log, env=environment, start_new_session=True)


def _await_ready(directory: Path, process: subprocess.Popen[bytes]) -> state.State:
    """Return the sandbox that the process is, or that it left running.

    Raises:
        FleetError: It did not start; says what it printed.
    """
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline:
        exit_code = process.poll()
        running = state.load(directory)
        if running is not None and (running.pid == process.pid or exit_code == 0):
            return running
        if exit_code is not None:
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    said = (directory / "sandbox.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = said[-1] if said else "it printed nothing"
    raise FleetError(f"The sandbox did not start: {reason}. See {directory / 'sandbox.log'}.")


def _clear(directory: Path) -> None:
    """End what a sandbox that was killed may have left."""
    left = processes.end_marked(f"IN_WREN_SANDBOX={directory}")
    if left:
        raise FleetError(f"Processes {left} of the sandbox in {directory} would not end.", pids=left)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep two commands from starting or ending one sandbox at once; the kernel releases a dead one's lock."""
    with (directory / "sandbox.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _ask(info: SandboxInfo, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{info.endpoint}/wren/{path}", data=data, method=method)  # noqa: S310 - loopback
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        text = json.load(error).get("message", "")
        raise FleetError(f"The sandbox refused '{path}': {text} 'sandbox status' lists what runs.") from error
    except OSError as error:
        raise FleetError(f"The sandbox at {info.endpoint} does not answer: {error}. Run 'sandbox up'.") from error
