"""What a daemon killed by -9 leaves behind: its slots die with it, but not what their calls had started.

Every process below a keeper carries the instance's mark in the environment it was started with, forks and sessions of
its own included. A new daemon ends them all before it receives anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import psutil

__all__ = ["MARK", "SLOT_MARK", "end_predecessors", "end_slot", "mark_value"]

#: Environment variable that a slot's processes inherit.
MARK = "WREN_SLOT_OF"
#: And another, that says of which slot.
SLOT_MARK = "WREN_SLOT_NUMBER"


def mark_value(run_dir: Path) -> str:
    """Return the mark of this instance: its run folder, which no two instances of one machine share."""
    return str(run_dir)


def _marked(process: psutil.Process, marks: Mapping[str, str]) -> bool:
    try:
        found = process.environ()
    except (psutil.Error, OSError):
        return False
    return all(found.get(name) == value for name, value in marks.items())


def end_predecessors(run_dir: Path, *, timeout: float = 5.0) -> int:
    """Kill every process with this instance's mark but this one; return how many there were."""
    return _end({MARK: mark_value(run_dir)}, timeout=timeout)


def end_slot(environ: Mapping[str, str], *, timeout: float = 0.5) -> int:
    """Kill every process that a slot with this environment left when its keeper was killed; return how many."""
    if MARK not in environ:
        return 0
    return _end({name: environ[name] for name in (MARK, SLOT_MARK)}, timeout=timeout)


def _end(marks: Mapping[str, str], *, timeout: float) -> int:
    found = [p for p in psutil.process_iter() if p.pid != os.getpid() and _marked(p, marks)]
    for process in found:
        try:
            process.kill()
        except psutil.Error:
            pass  # gone by itself
    psutil.wait_procs(found, timeout=timeout)
    return len(found)
