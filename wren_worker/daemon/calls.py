"""A chunk's argument bytes as the daemon handles them: cut at lengths it has checked, never unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from wren_worker.protocol.frames import CALL, CALL_COUNT, FrameError, Kind, call_columns, pack_calls

__all__ = ["CallTable", "Run"]


@dataclass(frozen=True, slots=True)
class Run:
    """Calls that a slot is given together; ``attempts`` names those that are not at their first."""

    calls: Sequence[int]
    attempts: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class CallTable:
    """Where each call of a CALLS body has its argument bytes: call ``first_call + i`` at ``offsets[i]`` to the next."""

    first_call: int
    offsets: Sequence[int]

    @classmethod
    def read(cls, head: bytes | memoryview, *, n_bytes: int, first_call: int, n_calls: int) -> CallTable:
        """Read the table of a body of ``n_bytes`` that starts with ``head``.

        Raises:
            FrameError: It is not whole in ``head``, its lengths do not add up, or it is of other calls.
        """
        indexes, lengths = call_columns(head)
        if indexes != list(range(first_call, first_call + n_calls)):
            raise FrameError("the arguments are of other calls")
        start = CALL_COUNT.size + n_calls * CALL.size
        offsets = list(accumulate(lengths, initial=start))
        if offsets[-1] != n_bytes:
            raise FrameError("the calls' lengths do not add up")
        return cls(first_call, offsets)

    def frame(self, args: bytes | Path, run: Run) -> tuple[Kind, bytes]:
        """Return the frame that gives a slot these calls of ``args``."""
        at = [call - self.first_call for call in run.calls]
        offsets = self.offsets
        if isinstance(args, Path):
            table = [
                (call, run.attempts.get(call, 1), offsets[i], offsets[i + 1] - offsets[i])
                for i, call in zip(at, run.calls, strict=True)
            ]
            return Kind.CALLS_FILE, json.dumps({"path": str(args), "calls": table}).encode()
        view = memoryview(args)
        first, end = at[0], at[-1] + 1
        if not run.attempts and end - first == len(at) and at == list(range(first, end)):
            # the usual case: neighbours, as they lie, however many
            head = view[CALL_COUNT.size + first * CALL.size : CALL_COUNT.size + end * CALL.size]
            return Kind.CALLS, b"".join((CALL_COUNT.pack(len(at)), head, view[offsets[first] : offsets[end]]))
        return Kind.CALLS, pack_calls(
            (call, run.attempts.get(call, 1), view[offsets[i] : offsets[i + 1]])
            for i, call in zip(at, run.calls, strict=True)
        )
