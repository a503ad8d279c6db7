#!/usr/bin/env python3
"""Writes daemon.lock: what the daemon imports, pinned by constraints.txt, each wheel for 3.11 to 3.14 by its sha256.

Run by hand in a checkout, with a pip of 23.1 or newer, after constraints.txt has changed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
#: setup.cfg's install_requires without the command line's own (click, rich)
_WANTED = ("boto3", "cloudpickle", "cryptography", "psutil", "supervisor", "watchtower")
_PLATFORMS = ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def _wheels(minor: str) -> list[tuple[str, str, str]]:
    command = [sys.executable, "-m", "pip", "--quiet", "install", "--dry-run", "--ignore-installed", "--report", "-"]
    command += ["--only-binary", ":all:", "--target", "unused", "--python-version", minor]
    command += ["--constraint", str(_HERE.parent / "constraints.txt")]
    for platform in _PLATFORMS:
        command += ["--platform", platform]
    done = subprocess.run([*command, *_WANTED], check=True, stdout=subprocess.PIPE, text=True)
    return [
        (
            item["metadata"]["name"].lower().replace("_", "-"),
            item["metadata"]["version"],
            item["download_info"]["archive_info"]["hash"].removeprefix("sha256="),
        )
        for item in json.loads(done.stdout)["install"]
    ]


def main() -> None:
    """Look the wheels up and write the file."""
    hashes: dict[tuple[str, str], set[str]] = {}
    for minor in ("3.11", "3.12", "3.13", "3.14"):
        for name, version, sha256 in _wheels(minor):
            hashes.setdefault((name, version), set()).add(sha256)
    lines = ["# Made by make_daemon_lock.py: what the daemon imports, wheels for x86_64 and Python 3.11 to 3.14."]
    for (name, version), found in sorted(hashes.items()):
        lines.append(" \\\n    ".join([f"{name}=={version}", *(f"--hash=sha256:{one}" for one in sorted(found))]))
    (_HERE / "daemon.lock").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
