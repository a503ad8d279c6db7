"""What runs on this machine: trees, markers and identities of processes. Standard library only.

Linux answers from /proc, macOS from ps(1).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["alive", "command_line", "descendants", "end_marked", "kill", "marked", "parent", "start_time"]

_LINUX = sys.platform.startswith("linux")


def _ps(*arguments: str) -> str:
    return subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False).stdout


def _stat(pid: int | str) -> list[str] | None:
    """Return the fields of /proc/<pid>/stat after the command name, or None when it is gone."""
    try:
        # the command name stands in brackets and may itself hold spaces and brackets
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _parents() -> dict[int, int]:
    """Return ``{pid: parent}`` of everything that runs; what is dead but not yet waited for does not count."""
    found: dict[int, int] = {}
    if _LINUX:
        for name in os.listdir("/proc"):
            if name.isdigit() and (fields := _stat(name)) and fields[0] not in "ZX":
                found[int(name)] = int(fields[1])
        return found
    for line in _ps("-axo", "pid=,ppid=,stat=").splitlines():
        pid, parent_pid, state = line.split()[:3]
        if not state.startswith("Z"):
            found[int(pid)] = int(parent_pid)
    return found


def descendants(pid: int) -> list[int]:
    """Return every process below ``pid``, nearest first."""
    children: dict[int, list[int]] = {}
    for child, parent_pid in _parents().items():
        children.setdefault(parent_pid, []).append(child)
    found: list[int] = []
    wave = children.get(pid, [])
    while wave:
        found += wave
        wave = [child for member in wave for child in children.get(member, [])]
    return found


def dead_children(pid: int) -> list[int]:
    """Return the children that are dead and not yet waited for; only Linux hands orphans to a process that asks."""
    if not _LINUX:
        return []
    stats = ((int(name), _stat(name)) for name in os.listdir("/proc") if name.isdigit())
    return [child for child, fields in stats if fields and fields[0] == "Z" and int(fields[1]) == pid]


def marked(marker: str) -> list[int]:
    """Return every other process whose environment holds ``marker`` ("NAME=value")."""
    own = os.getpid()
    found = []
    if _LINUX:
        wanted = marker.encode()
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == own:
                continue
            try:
                environment = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue  # gone, or not ours
            if wanted in environment.split(b"\0"):
                found.append(int(name))
        return [pid for pid in found if alive(pid)]
    for line in _ps("axEww", "-o", "pid=,command=").splitlines():
        pid, _, command = line.strip().partition(" ")
        if int(pid) != own and f" {marker} " in f"{command} ":
            found.append(int(pid))
    return found


def parent(pid: int) -> int:
    """Return the parent's pid, 0 when unknown."""
    if _LINUX:
        fields = _stat(pid)
        return int(fields[1]) if fields else 0
    text = _ps("-o", "ppid=", "-p", str(pid)).strip()
    return int(text) if text else 0


def command_line(pid: int) -> str:
    """Return the command line as one text, "" when unknown."""
    if _LINUX:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    return _ps("-ww", "-o", "command=", "-p", str(pid)).strip()


def start_time(pid: int) -> str:
    """Return what, together with the pid, names one process for ever; "" when it is gone or only a zombie."""
    if _LINUX:
        fields = _stat(pid)
        return fields[19] if fields and fields[0] not in "ZX" else ""
    text = _ps("-o", "stat=,lstart=", "-p", str(pid)).strip()
    return "" if text.startswith("Z") else text.partition(" ")[2].strip()


def alive(pid: int) -> bool:
    """Return whether the process runs; a zombie does not."""
    return bool(start_time(pid))


def kill(pids: Iterable[int], signal_number: int = signal.SIGKILL) -> None:
    """Send a signal to each; who is gone already is none of our business."""
    for pid in pids:
        try:
            os.kill(pid, signal_number)
        except (ProcessLookupError, PermissionError):
            pass


def end_all(find: Callable[[], list[int]], *, timeout: float = 5.0) -> list[int]:
    """Kill what ``find`` finds until it finds nothing, since a tree may fork while it dies; return who is left."""
    deadline = time.monotonic() + timeout
    while pids := find():
        if time.monotonic() > deadline:
            return pids
        kill(pids)
        for pid in pids:
            try:
                os.waitpid(pid, os.WNOHANG)  # some may be our own children
            except ChildProcessError:
                pass
        time.sleep(0.005)
    return []


def end_marked(marker: str, *, timeout: float = 5.0) -> list[int]:
    """Kill every other process with the marker in its environment; return who is left."""
    return end_all(lambda: marked(marker), timeout=timeout)
