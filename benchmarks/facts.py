"""What machine it was: enough to read the figures by, nothing that names it."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime

import psutil

__all__ = ["machine"]


def machine() -> dict[str, str]:
    """Return facts for the page."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
