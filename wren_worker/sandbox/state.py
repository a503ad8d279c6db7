"""``sandbox.json``: which process is the sandbox of a folder. Standard library only."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from wren_worker.sandbox import processes

__all__ = ["State", "load", "remove", "save"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A sandbox that runs; the pid alone could be another process by now."""

    pid: int
    process_start: str
    endpoint: str


def _path(folder: Path) -> Path:
    return folder / "sandbox.json"


def save(folder: Path, endpoint: str) -> None:
    """Record this process as the folder's sandbox, in one step."""
    state = State(pid=os.getpid(), process_start=processes.start_time(os.getpid()), endpoint=endpoint)
    fresh = _path(folder).with_suffix(".new")
    fresh.write_text(json.dumps(asdict(state)), encoding="utf-8")
    fresh.replace(_path(folder))


def load(folder: Path) -> State | None:
    """Return the folder's sandbox, None when none runs, whatever the file says."""
    try:
        state = State(**json.loads(_path(folder).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return state if processes.start_time(state.pid) == state.process_start else None


def remove(folder: Path) -> None:
    """Forget the folder's sandbox."""
    _path(folder).unlink(missing_ok=True)
