"""How many calls travel together, and which limits are refused. Pure."""

from __future__ import annotations

from wren_worker.protocol.model import MAX_CALLS_PER_CHUNK

__all__ = ["CHUNK_BYTES", "check_limits", "chunk_size"]

#: Chunks of a job whose length is known: about 64 for each of a handful of slots. More would cost requests, fewer
#: would leave slots idle at the end.
TARGET_CHUNKS = 256
#: Of a job whose length is not known, so many chunks of each size are cut before the size doubles.
_CHUNKS_PER_SIZE = 64
#: Arguments of one chunk, in bytes; a single call may have more.
CHUNK_BYTES = 4 * 1024 * 1024


def chunk_size(number: int, *, n_expected: int | None, chunksize: int | None) -> int:
    """Return how many calls the ``number``-th chunk (from 0) should hold.

    Args:
        number: Which chunk of the job is cut next.
        n_expected: How many calls the job will have, None when its input does not say.
        chunksize: What the user asked for, None for "auto".
    """
    if chunksize is not None:
        wanted = chunksize
    elif n_expected is not None:
        wanted = -(-n_expected // TARGET_CHUNKS)
    else:
        wanted = 1 << min(number // _CHUNKS_PER_SIZE, 30)
    return max(1, min(wanted, MAX_CALLS_PER_CHUNK))


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
