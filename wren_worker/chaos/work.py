"""Jobs of every kind, and what may come of them: each call has exactly one permitted outcome.

The functions are made inside others, so that they travel by value: an instance has nothing of this package to import.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wren_worker.errors import JobIncomplete, StoreError

if TYPE_CHECKING:
    from wren_worker.client.executor import Executor
    from wren_worker.client.future import Future

__all__ = ["KINDS", "Round", "outcome_of", "start"]

#: Kind of round -> how often, relative to each other.
KINDS = {"short": 5, "longer": 4, "raising": 3, "large": 2, "submits": 3, "printing": 1, "exiting": 1, "orphaned": 2}
_ATTACH_TIME = 5.0
_LARGE_BYTES = 1_500_000


@dataclass(slots=True)
class Round:
    """One job (or one burst of submits) and what each of its calls must come to."""

    kind: str
    futures: Sequence[Future[Any]]
    wanted: Callable[[int], str]
    began: float

    def wrong(self, index: int, found: str) -> str:
        """Return what is wrong with an outcome, "" if nothing."""
        wanted = self.wanted(index)
        where = f"call {index} of {self.futures[index].job_id} ({self.kind})"
        return "" if found == wanted else f"{where}: {found} instead of {wanted}"


def outcome_of(future: Future[Any]) -> str:
    """Return the outcome of a call that is done as text that two readers can compare."""
    error = future.exception(timeout=30)
    return f"raised {type(error).__name__}: {error}" if error is not None else f"gave {future.result()!r}"


def start(number: int, seed: int, executor: Executor) -> Round | None:
    """Start the round of a number; None when its client was killed before there was a job."""
    draw = random.Random(seed * 100_003 + number)  # noqa: S311 - a plan, no secret
    (kind,) = draw.choices(list(KINDS), weights=list(KINDS.values()))
    began = time.monotonic()
    made = _MAKERS[kind](draw, number, executor)
    return None if made is None else Round(kind, made[0], made[1], began)


_Made = tuple[Sequence[Any], Callable[[int], str]]


def _short(draw: random.Random, salt: int, executor: Executor) -> _Made:
    def call(x: int) -> int:
        return x * x + salt

    n_calls = draw.randint(50, 400)
    return executor.map(call, range(n_calls)), lambda i: f"gave {i * i + salt!r}"


def _longer(draw: random.Random, salt: int, executor: Executor) -> _Made:
    seconds = [round(draw.uniform(0.05, 0.8), 3) for _ in range(draw.randint(6, 20))]

    def call(one: float) -> tuple[int, float]:
        import time  # noqa: PLC0415 - on the instance

        time.sleep(one)
        return salt, one

    size = draw.choice(["auto", 1, 4])
    futures = executor.map(call, seconds, chunksize=size)  # type: ignore[arg-type]
    return futures, lambda i: f"gave {(salt, seconds[i])!r}"


def _raising(draw: random.Random, salt: int, executor: Executor) -> _Made:
    def call(x: int) -> int:
        if x % 5 == 0:
            raise ValueError(f"{x} of {salt}")
        return -x

    def wanted(i: int) -> str:
        return f"raised ValueError: {i} of {salt}" if i % 5 == 0 else f"gave {-i!r}"

    return executor.map(call, range(draw.randint(10, 80)), retries=draw.choice([0, 1])), wanted


def _large(draw: random.Random, salt: int, executor: Executor) -> _Made:
    n_bytes = [draw.randint(1, _LARGE_BYTES) for _ in range(4)]
    items = [bytes([salt % 256, i]) * (size // 2) for i, size in enumerate(n_bytes)]

    class Blob(bytes):
        def __repr__(self) -> str:
            import hashlib  # noqa: PLC0415 - on the instance

            return f"{len(self)} bytes, sha256 {hashlib.sha256(self).hexdigest()}"

    def call(data: bytes) -> bytes:
        return Blob(data[::-1])

    def wanted(i: int) -> str:
        return f"gave {len(items[i])} bytes, sha256 {hashlib.sha256(items[i][::-1]).hexdigest()}"

    return executor.map(call, items), wanted


def _submits(draw: random.Random, salt: int, executor: Executor) -> _Made:
    def call(a: int, *, b: int) -> int:
        return a - b

    return [executor.submit(call, i, b=salt) for i in range(draw.randint(3, 25))], lambda i: f"gave {i - salt!r}"


def _printing(draw: random.Random, salt: int, executor: Executor) -> _Made:
    def call(x: int) -> int:
        print(f"{salt} " * 2000)
        return x + salt

    return executor.map(call, range(draw.randint(5, 30))), lambda i: f"gave {i + salt!r}"


def _exiting(draw: random.Random, salt: int, executor: Executor) -> _Made:
    def call(x: int) -> int:
        import os  # noqa: PLC0415 - on the instance

        if x == 3:
            os._exit(salt % 100 + 1)
        return x

    futures = executor.map(call, range(draw.randint(4, 20)))

    def wanted(i: int) -> str:
        # its text tells the exit code, and whatever else is known of the crash
        return f"raised SlotCrashed: {futures[3].exception()}" if i == 3 else f"gave {i!r}"

    return futures, wanted


_SCRIPT = """
import sys, time
import wren_worker as wren

def call(x):
    time.sleep(0.02)
    return x * 3 + {salt}

futures = wren.executor(backend="sqs", progress=False).map(call, range({n_calls}))
print(futures[0].job_id, flush=True)
time.sleep(600)
"""


def _orphaned(draw: random.Random, salt: int, executor: Executor) -> _Made | None:  # noqa: ARG001 - one shape for all
    """Kill a client soon after it has sent, or while it sends; go on as another reader."""
    from wren_worker.wiring.client import attach  # noqa: PLC0415 - the face a user would import

    n_calls = draw.randint(20, 120)
    package_parent = str(Path(__file__).resolve().parents[2])
    user = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT.format(salt=salt, n_calls=n_calls)],
        env={**os.environ, "PYTHONPATH": package_parent},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert user.stdout is not None  # noqa: S101 - asked for above
    with user.stdout:
        job_id = user.stdout.readline().strip()
        time.sleep(draw.uniform(0.0, 2.0))
        user.kill()
        user.wait()
    if not job_id:
        return None
    deadline = time.monotonic() + _ATTACH_TIME
    while True:
        try:
            try:
                futures = attach(job_id, backend="sqs", progress=False)
            except JobIncomplete:
                futures = attach(job_id, backend="sqs", partial=True, progress=False)
        except StoreError:
            # it may have died before anything was stored; and answers of S3 are lost here all the time
            if time.monotonic() > deadline:
                return None
            time.sleep(0.5)
        else:
            return _left_behind(futures, salt)


def _left_behind(futures: Sequence[Any], salt: int) -> _Made | None:
    # what died in the middle of storing may leave holes: each future knows which call it is of
    return (futures, lambda i: f"gave {futures[i].call_index * 3 + salt!r}") if futures else None


_MAKERS: dict[str, Callable[[random.Random, int, Executor], _Made | None]] = {
    "short": _short,
    "longer": _longer,
    "raising": _raising,
    "large": _large,
    "submits": _submits,
    "printing": _printing,
    "exiting": _exiting,
    "orphaned": _orphaned,
}
