"""Who ended a machine, by what it left: its journal, its logs, its console. One name, or the drill is fooled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ending:
    """``who`` asked first; ``also`` are those that asked later, while it was going."""

    who: str
    why: str
    timestamp: float
    also: tuple[str, ...] = ()


def json_lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # cut off by a full disk or a lost machine
    return found


def journal(folder: Path) -> list[tuple[float, str, str]]:
    """Return ``(timestamp, unit or program, message)`` of everything in the journal."""
    return [
        (
            int(line["__REALTIME_TIMESTAMP"]) / 1e6,
            line.get("UNIT") or line.get("_SYSTEMD_UNIT") or line.get("SYSLOG_IDENTIFIER", ""),
            str(line.get("MESSAGE", "")),
        )
        for line in json_lines(folder / "journal.json")
    ]


def endings_of(root: Path) -> list[dict[str, Any]]:
    """Return what a running machine's daemon has said about going."""
    return [line for line in json_lines(root / "var/log/wren/daemon.log") if line["event"] == "power_off"]


#: What systemd says when it ends the machine by itself.
_SYSTEMD = (
    "Triggering OnFailure",
    "Job poweroff.target/start timed out",
    "Start request repeated too quickly",
)


def endings(folder: Path) -> list[Ending]:
    """Return everybody who asked for power-off, first first."""
    found = []
    for line in json_lines(folder / "log" / "wren" / "daemon.log"):
        if line["event"] == "power_off":
            found.append(Ending("daemon", line["why"], line["timestamp"]))
        elif line["event"] == "stop_asked":
            found.append(Ending("stop", "SIGTERM reached the daemon", line["timestamp"]))
    wren = folder / "log" / "wren"
    found += [Ending("listener", line["why"], line["timestamp"]) for line in json_lines(wren / "listener.log")]
    found += [Ending("dead-man", line["reason"], line["timestamp"]) for line in json_lines(wren / "deadman.log")]
    for timestamp, unit, message in journal(folder):
        if any(sign in message for sign in _SYSTEMD):
            found.append(Ending("systemd", f"{unit}: {message}", timestamp))
        elif "wren: bootstrap" in message and "power off" in message:
            found.append(Ending("bootstrap", message, timestamp))
    return sorted(found, key=lambda ending: ending.timestamp)


def ending(folder: Path) -> Ending:
    """Return who ended it. Everybody else's later word is only the shutdown reaching them."""
    first, *rest = endings(folder) or [Ending("nobody", "nothing was left behind", 0.0)]
    if first.who == "stop":
        first = Ending("button", first.why, first.timestamp)
    return Ending(first.who, first.why, first.timestamp, tuple(e.who for e in rest if e.who != "stop"))


def console(folder: Path) -> str:
    path = folder / "console.log"
    return path.read_text(errors="replace") if path.exists() else ""


def unsafe_requests(folder: Path) -> list[str]:
    """Return what the metadata service answered without a token: nothing, or the drill has found a hole."""
    return [
        f"{line['method']} {line['path']}"
        for line in json_lines(folder / "imds.log")
        if line["method"] == "GET" and line["status"] == 200 and not line["token"]
    ]


def timeline(folder: Path, booted: float, operations: list[float]) -> dict[str, float]:
    """Return seconds since power-on of each step of a boot."""
    steps: dict[str, float] = {}
    for timestamp, _, message in journal(folder):
        for sign, step in (
            ("Cloud-init v.", "cloud-init starts"),
            ("running 'modules:final'", "cloud-init's last stage"),
            ("Starting wren-supervisord.service", "supervisord's unit starts"),
            ("supervisord started with pid", "supervisord runs"),
            ("spawned: 'daemon'", "daemon starts"),
        ):
            if sign in message and (step not in steps or step == "cloud-init's last stage"):
                steps[step] = timestamp - booted
    for line in json_lines(folder / "log" / "wren" / "daemon.log"):
        if line["event"] == "started" and "daemon imported and set up" not in steps:
            steps["daemon imported and set up"] = line["timestamp"] - booted
    if operations:
        steps["first ReceiveMessage"] = operations[0] - booted
    return {step: round(when, 2) for step, when in sorted(steps.items(), key=lambda item: item[1])}
