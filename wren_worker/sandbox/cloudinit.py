"""Plays cloud-init in a local instance: user-data from IMDSv2, then write_files and runcmd.

Runs in a child of the instance's machine. Like the real one it logs its errors and leaves the machine running.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import posixpath
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["run"]


def fetch_user_data(endpoint: str) -> bytes | None:
    """Return the instance's user-data, token first; None when the launch gave none."""
    parts = urlsplit(endpoint)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=5)
    try:
        connection.request("PUT", "/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        token = connection.getresponse().read().decode()
        connection.request("GET", "/latest/user-data", headers={"X-aws-ec2-metadata-token": token})
        response = connection.getresponse()
        body = response.read()
        return body if response.status == http.HTTPStatus.OK else None
    finally:
        connection.close()


def _target(root: Path, path: str) -> Path:
    """Return where a file of the instance lies on this machine; ``..`` cannot leave the root."""
    return root / posixpath.normpath("/" + path).lstrip("/")


def _write(root: Path, entry: Mapping[str, Any]) -> None:
    content = entry.get("content", "")
    data = content if isinstance(content, bytes) else str(content).encode()
    if entry.get("encoding") in ("b64", "base64"):
        data = base64.b64decode(data)
    target = _target(root, str(entry["path"]))
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("ab" if entry.get("append") else "wb") as file:
        file.write(data)
    target.chmod(int(str(entry.get("permissions", "0644")), 8))


def _log(event: str, **fields: object) -> None:
    line = {"timestamp": round(time.time(), 3), "event": event, **fields}
    sys.stdout.write(json.dumps(line, default=str) + "\n")
    sys.stdout.flush()


def run(root: Path, environment: Mapping[str, str]) -> None:
    """Do what the user-data says; stdout is the console.

    Args:
        root: The instance's folder, which stands for "/".
        environment: What commands see.
    """
    import yaml  # noqa: PLC0415 - comes with moto, and only an instance with user-data needs it

    try:
        user_data = fetch_user_data(environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"])
        if user_data is None:
            _log("cloud_init.no_user_data")
            return
        config = yaml.safe_load(user_data)
        if not user_data.startswith(b"#cloud-config") or not isinstance(config, dict):
            _log("cloud_init.not_a_cloud_config")
            return
        for entry in config.get("write_files") or []:
            _write(root, entry)
        for command in config.get("runcmd") or []:
            argv = [str(word) for word in command] if isinstance(command, list) else ["/bin/sh", "-c", str(command)]
            done = subprocess.run(argv, env=dict(environment), cwd=root, stdin=subprocess.DEVNULL, check=False)
            _log("cloud_init.ran", command=argv, exit_code=done.returncode)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        _log("cloud_init.failed", error=f"{type(error).__name__}: {error}")
        return
    _log("cloud_init.finished", pid=os.getpid())
