"""Which limits are refused, before anything is sent. Pure."""

from __future__ import annotations

from wren_worker.protocol.model import MAX_CALLS_PER_CHUNK

__all__ = ["check_limits"]


def check_limits(*, timeout: float, chunksize: int | None, longest_call_time: float) -> None:
    """Refuse what no instance could finish.

    Raises:
        ValueError: ``timeout``, or ``chunksize`` times ``timeout``, is more than a delivery can last.
    """
    longest = f"{longest_call_time / 3600:.3g} h"
    if timeout <= 0:
        raise ValueError(f"timeout={timeout:g} is no time to run in; give a number of seconds above 0.")
    if timeout > longest_call_time:
        raise ValueError(
            f"timeout={timeout:g} s is more than the {longest} that one call may take: SQS keeps a delivery for 12 h, "
            "and an instance leaves at its maximum lifetime. Split the call, or save its state in S3."
        )
    if chunksize is None:
        return
    if not 1 <= chunksize <= MAX_CALLS_PER_CHUNK:
        raise ValueError(f"chunksize={chunksize} is out of range; give 1 to {MAX_CALLS_PER_CHUNK:,}, or 'auto'.")
    if chunksize * timeout > longest_call_time:
        raise ValueError(
            f"chunksize={chunksize} × timeout={timeout:g} s is more than the {longest} that one chunk may take. "
            "Lower one of them."
        )
