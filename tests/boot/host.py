"""What the drill needs of this machine, and how it runs programs there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TOOLS = {"mmdebstrap": "mmdebstrap", "systemd-nspawn": "systemd-container", "nft": "nftables", "ip": "iproute2"}
KERNEL_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "qemu-system-x86_64": "qemu-system-x86",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "journalctl": "systemd",
}
#: The Debian whose own Python the client shares: one fleet, one Python minor.
SUITES = {"3.11": "bookworm", "3.13": "trixie"}


def this_python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def missing(tools: dict[str, str] = TOOLS) -> str:
    """Return why a drill that needs these tools cannot run here, "" when it can."""
    if not sys.platform.startswith("linux"):
        return "it needs Linux"
    if os.geteuid() != 0:
        return "it needs root, for namespaces and mounts"
    absent = sorted({package for tool, package in tools.items() if shutil.which(tool) is None})
    if absent:
        return f"it needs {', '.join(absent)} (apt-get install)"
    if this_python() not in SUITES:
        return f"no Debian has Python {this_python()}; {' and '.join(SUITES)} have one"
    probe = "mount -t tmpfs none /mnt && mount -t proc none /mnt && mkdir -p /tmp/.wren-probe"
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", probe], capture_output=True, check=False
    )
    if done.returncode:
        return "mounts are not allowed in this container"
    probe = "nft list ruleset" if "nft" in tools else "ip link set lo up"
    done = subprocess.run(["unshare", "-n", "sh", "-c", probe], capture_output=True, check=False)
    return "network namespaces are not allowed in this container" if done.returncode else ""


def run(command: Sequence[str | Path], **options: Any) -> str:
    """Run a program to its end and return what it printed; what it said is in the error when it fails."""
    done = subprocess.run([*map(str, command)], text=True, capture_output=True, check=False, **options)
    if done.returncode:
        said = (done.stdout + done.stderr)[-3000:]
        raise RuntimeError(f"{' '.join(map(str, command))[:300]} ended with {done.returncode}:\n{said}")
    return done.stdout


def in_netns(name: str, command: Sequence[str | Path]) -> list[str | Path]:
    return ["ip", "netns", "exec", name, *command]
