"""Outcomes of status ERROR that a daemon may write: what happened, the likely cause, the next step."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

from wren_worker.clock import Clock
from wren_worker.daemon.memory import Shot
from wren_worker.daemon.slot import Ended, Given
from wren_worker.errors import CallTimeout
from wren_worker.protocol import records
from wren_worker.protocol.wire import error_value

__all__ = [
    "CALL_TIMEOUT_NAMES",
    "OomCounter",
    "attempts_exhausted",
    "lost_value",
    "out_of_memory",
    "slot_crashed",
    "timed_out",
]

#: What a filter of ``retries=`` may name to have calls retried that ran out of time; the built-in one because nobody
#: who asks for it means any other.
CALL_TIMEOUT_NAMES = frozenset(
    f"{kind.__module__}.{kind.__qualname__}" for kind in (*CallTimeout.__mro__, TimeoutError)
)


class OomCounter:
    """Tells whether the kernel has killed for memory since it was last asked.

    Source: proc_vmstat(5), ``oom_kill``, since Linux 4.13. Elsewhere it always says no.
    """

    def __init__(self, path: Path = Path("/proc/vmstat")) -> None:
        self._path = path
        self._seen = self._read()

    def _read(self) -> int:
        with suppress(OSError, ValueError):
            for line in self._path.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0

    def increased(self) -> bool:
        """Return whether there was a kill since the last time."""
        before, self._seen = self._seen, self._read()
        return self._seen > before


def _record(given: Given, event: Ended, value: bytes, clock: Clock, *, peak_rss_bytes: int = 0) -> bytes:
    now = clock.monotonic()
    run_time = now - event.start if event.start else 0.0
    return records.pack_record(
        given.call_index,
        records.ERROR,
        value,
        slot=event.slot.number,
        attempt=given.attempt,
        start_timestamp=clock.timestamp() - run_time,
        run_time=run_time,
        peak_rss_bytes=peak_rss_bytes or event.peak_rss_bytes,
    )


def timed_out(given: Given, event: Ended, timeout: float, instance_id: str, clock: Clock) -> bytes:
    """Return the record of a call that ran past its timeout and was killed."""
    return _record(
        given,
        event,
        error_value(
            "CallTimeout",
            f"process ran out of time: call {given.call_index} was ended after its timeout of {timeout:g} s. "
            "If it needs longer, pass timeout= to map (or job_max_runtime= to executor).",
            timeout=timeout,
            attempts=given.attempt,
            instance_id=instance_id,
        ),
        clock,
    )


def out_of_memory(given: Given, event: Ended, instance_id: str, clock: Clock, shot: Shot | None = None) -> bytes:
    """Return the record of a call that was ended for its memory: by the daemon, as ``shot`` says, or by the kernel."""
    peak_rss_bytes = max(event.peak_rss_bytes, shot.held_bytes if shot else 0)
    if shot is not None:
        how = (
            f"was ended because memory ran short: with what it started it held {shot.held_bytes / 2**20:.0f} MiB, "
            f"and a slot's share is {shot.share_bytes / 2**20:.0f} MiB."
        )
    else:
        how = f"was killed by the kernel for its memory; its process held {peak_rss_bytes / 2**20:.0f} MiB at most."
    value = error_value(
        "OutOfMemory",
        f"call {given.call_index} {how} Use a larger instance type or fewer slots.",
        attempts=given.attempt,
        instance_id=instance_id,
        peak_rss_bytes=peak_rss_bytes,
    )
    return _record(given, event, value, clock, peak_rss_bytes=peak_rss_bytes)


def slot_crashed(given: Given, event: Ended, instance_id: str, clock: Clock) -> bytes:
    """Return the record of a call that took its process down."""
    facts = {
        "attempts": given.attempt,
        "instance_id": instance_id,
        "peak_rss_bytes": event.peak_rss_bytes,
    }
    if event.status < 0:
        name = signal.Signals(-event.status).name if -event.status in list(signal.Signals) else str(-event.status)
        how, facts = f"was killed by {name}", facts | {"signal_name": name, "exit_code": None}
    else:
        how, facts = f"exited with code {event.status}", facts | {"signal_name": None, "exit_code": event.status}
    text = (
        f"python process failed, returned a non-zero return code: call {given.call_index} {how} "
        f"at attempt {given.attempt}. "
        "Crashes like this come from C extensions, os._exit, or too little memory; its output may say more."
    )
    return _record(given, event, error_value("SlotCrashed", text, **facts), clock)


def lost_value(error: Exception) -> bytes:
    """Return the value bytes of an ERROR: the instance had no room to keep an outcome until S3 has it."""
    text = f"the outcome could not be kept on the instance's disk until it was stored ({error}). Give it a larger disk."
    return error_value("ResultNotSerializable", text, type_name="", value_repr="")


def attempts_exhausted(call_index: int, deliveries: int) -> bytes:
    """Return the record of a call that was delivered again and again and never came to an end."""
    return records.pack_record(
        call_index,
        records.ERROR,
        error_value(
            "AttemptsExhausted",
            f"call {call_index} was started on {deliveries} deliveries and none came to an end: "
            "it most likely takes its whole instance down (memory, kernel), or every instance was lost.",
            deliveries=deliveries,
        ),
    )
