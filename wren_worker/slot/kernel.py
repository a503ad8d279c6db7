"""What the kernel is asked for: to die with one's parent, to inherit orphans. Linux; elsewhere without effect."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

__all__ = ["adopt_orphans", "children_of", "die_with_parent", "invite_oom_killer"]

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def die_with_parent(parent_pid: int, number: int = signal.SIGKILL) -> None:
    """Have this process signalled, killed by default, when the thread that started it ends.

    Source: prctl(2): the setting is cleared by a change of credentials, so it comes after one; and the parent may have
    ended before it was made, so the parent is asked for again.
    """
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent_pid:
        os._exit(1)


def adopt_orphans() -> None:
    """Have every orphaned descendant become a child of this process, even one that made a session of its own."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children_of(pid: int) -> list[int]:
    """Return the direct children of ``pid``; zombies count. Empty where there is no /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # the command in parentheses may hold anything, so split after its end
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(entry.parent.name))
    return found


def invite_oom_killer() -> None:
    """Make this process the kernel's choice before the daemon, should memory run out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
