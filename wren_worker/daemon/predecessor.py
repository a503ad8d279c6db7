"""What a daemon killed by -9 leaves behind: its slots die with it, but not what their calls had started.

Every process below a keeper carries the instance's mark in the environment it was started with, forks and sessions of
its own included. A new daemon ends them all before it receives anything.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

__all__ = ["MARK", "end_predecessors", "mark_value"]

#: Environment variable that a slot's processes inherit.
MARK = "WREN_SLOT_OF"


def mark_value(run_dir: Path) -> str:
    """Return the mark of this instance: its run folder, which no two instances of one machine share."""
    return str(run_dir)


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except (psutil.Error, OSError):
        return False


def end_predecessors(run_dir: Path, *, timeout: float = 5.0) -> int:
    """Kill every process with this instance's mark but this one; return how many there were."""
    mark = mark_value(run_dir)
    found = [p for p in psutil.process_iter() if p.pid != os.getpid() and _marked(p, mark)]
    for process in found:
        try:
            process.kill()
        except psutil.Error:
            pass  # gone by itself
    psutil.wait_procs(found, timeout=timeout)
    return len(found)
