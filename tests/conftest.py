"""What every test gets: an environment of its own. And what some ask for: tools, processes, ports."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

_HOST_PREFIXES = ("AWS_", "WREN_", "SUPERVISOR_", "BOTO_", "MOTO_", "PYWREN_")
_HOST_NAMES = ("PYTHONPATH", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
_XDG = ("CONFIG", "CACHE", "DATA", "STATE")
_MARK = "SWEPT_BY_TEST"

# A shared machine stalls for seconds at times; a slow example is no failure.
hypothesis.settings.register_profile("house", deadline=None, max_examples=100)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "house")


def _isolate(patch: pytest.MonkeyPatch, home: Path) -> None:
    for name in list(os.environ):
        if name.startswith(_HOST_PREFIXES) or name in _HOST_NAMES:
            patch.delenv(name)
    patch.setenv("HOME", str(home))
    patch.setenv("USERPROFILE", str(home))
    for kind in _XDG:
        patch.setenv(f"XDG_{kind}_HOME", str(home / f".{kind.lower()}"))
    patch.delenv("XDG_RUNTIME_DIR", raising=False)


@pytest.fixture(scope="session", autouse=True)
def _isolated_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What module and session fixtures see; a test's own environment goes over it."""
    with pytest.MonkeyPatch.context() as patch:
        _isolate(patch, tmp_path_factory.mktemp("home"))
        yield


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home of the test's own; nothing of the host's AWS or wren settings is in the environment."""
    home = tmp_path / "home"
    home.mkdir()
    _isolate(monkeypatch, home)
    return home


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], str]:
    """Return a function that finds a program. Without it a test is skipped here, and fails in CI."""
    in_ci = os.environ.get("CI") == "true"

    def require(name: str) -> str:
        found = shutil.which(name)
        if found is None and in_ci:
            pytest.fail(f"{name} is missing, and CI must have it")
        if found is None:
            pytest.skip(f"{name} is not installed")
        return found

    return require


@pytest.fixture
def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], object], *, timeout: float = 30.0) -> None:
    """Wait for a condition; fail with its source line when it does not come true within ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= end:
            where = f"{Path(condition.__code__.co_filename).name}:{condition.__code__.co_firstlineno}"
            pytest.fail(f"not true within {timeout:g} s: the condition at {where}")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def deadline() -> Callable[..., None]:
    """Return a function that waits for a condition, for at most ``timeout`` seconds."""
    return until


class Processes:
    """Starts programs, each in a session of its own, and finds all that came of them."""

    def __init__(self) -> None:
        self.stop_timeout = 5.0  # seconds
        self._mark = uuid.uuid4().hex
        self._started: list[subprocess.Popen[Any]] = []

    def __call__(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start a program; options are Popen's."""
        environ = {**(options.pop("env", None) or os.environ), _MARK: self._mark}
        process = subprocess.Popen([*map(str, command)], env=environ, start_new_session=True, **options)
        self._started.append(process)
        return process

    def alive(self) -> list[psutil.Process]:
        """Return every living process that descends from a started one, sessions of their own included."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(_MARK) == self._mark:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def end(self) -> list[str]:
        """End what was started; return what outlived its parent, which is ended too."""
        for process in self._started:
            if process.poll() is None:
                process.terminate()
        for process in self._started:
            try:
                process.wait(self.stop_timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        left = self.alive()
        psutil.wait_procs(left, timeout=self.stop_timeout)  # those that are just about to go
        names = []
        for left_over in self.alive():
            try:
                names.append(f"{left_over.pid} {' '.join(left_over.cmdline())}")
                left_over.kill()
            except psutil.NoSuchProcess:
                continue
        return names


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Return a starter of programs; what they left behind when the test ends is a failure."""
    made = Processes()
    yield made
    assert made.end() == []
