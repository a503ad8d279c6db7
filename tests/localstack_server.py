"""LocalStack's SQS and S3: a second implementation that shares no code with ours, so that we fit no single emulator.

It lives in an environment of its own, ``.venv/localstack`` (see ``.ci/localstack.txt``; ``.ci/run`` makes it).
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["ACCOUNT", "REGION", "running"]

ACCOUNT, REGION = "000000000000", "us-east-1"
_PYTHON = Path(__file__).parent.parent / ".venv" / "localstack" / "bin" / "python"
_START_TIME = 100.0


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Run it; yield its endpoint. Skips where it is not installed, and fails there in CI."""
    if not _PYTHON.exists():
        reason = "LocalStack is not installed: see .ci/localstack.txt"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "FILESYSTEM_ROOT": str(folder / "fs"),
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "LOCALSTACK_HOST": f"127.0.0.1:{port}",
        "SQS_ENDPOINT_STRATEGY": "path",
        "SERVICES": "sqs,s3",
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "DNS_ADDRESS": "0",  # no name server of its own, which would look for another one first
    }
    log = folder / "localstack.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [_PYTHON, "-m", "localstack.runtime.main"], env=environ, cwd=folder, stdout=output, stderr=output
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()  # it has nothing to save, and takes seconds to say goodbye
        process.wait()


def _wait(process: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIME
    while True:
        try:
            with urllib.request.urlopen(f"{endpoint}/_localstack/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"LocalStack did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.1)
