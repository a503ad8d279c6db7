"""What an instance costs that has nothing to do."""

from __future__ import annotations

import time

import psutil

from wren_worker.sandbox import control

__all__ = ["watch"]

#: Seconds after a launch in which a daemon still does what it does once.
_CALM_TIME = 10.0
_HOUR = 3600.0
#: What an instance asks of AWS; the rest is ours, who ask how many those are.
_OF_INSTANCES = ("sqs.", "s3.", "logs.")


def watch(sandbox: control.SandboxInfo, *, seconds: float) -> dict[str, float]:
    """Watch idle instances for so long; return a daemon's CPU share in percent, its RSS, and requests an hour."""
    time.sleep(_CALM_TIME)
    daemons = [
        process
        for process in psutil.Process(sandbox.pid).children(recursive=True)
        if process.cmdline()[-2:] == ["wren_worker", "daemon"]
    ]
    before, cpu_before, began = control.request_counts(sandbox), _cpu_time(daemons), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    after, cpu_after = control.request_counts(sandbox), _cpu_time(daemons)
    share = _HOUR / took / len(daemons)
    figures = {
        "daemon_cpu_percent": (cpu_after - cpu_before) / took / len(daemons) * 100,
        "daemon_rss_mb": max(process.memory_info().rss for process in daemons) / 1e6,
        "n_calls": 0.0,
    }
    total = 0.0
    for name, count in after.items():
        grown = count - before.get(name, 0)
        if grown and name.startswith(_OF_INSTANCES):
            figures[f"requests_per_hour:{name}"] = grown * share
            total += grown * share
    return figures | {"requests_per_hour": total}


def _cpu_time(processes: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))
