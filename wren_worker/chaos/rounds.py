"""Keeps jobs going while things break, and holds what each call came to against what it may come to."""

from __future__ import annotations

import itertools
import threading
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING

from wren_worker.chaos.violations import Violation
from wren_worker.chaos.work import Round, outcome_of, start
from wren_worker.errors import JobIncomplete

if TYPE_CHECKING:
    from wren_worker.client.executor import Executor

__all__ = ["Rounds"]

_THREADS = 2
_PAUSE_TIME = 0.2
#: For a second reader, on a machine that may have much else to do.
_READ_TIME = 60.0


class Rounds:
    """A few threads that run one round after the other, until ``finish``.

    Args:
        executor: Runs them.
        seed: Which rounds these are.
        patience_time: Seconds for a round once nothing goes wrong any more.
    """

    def __init__(self, executor: Executor, *, seed: int, patience_time: float) -> None:
        self._executor = executor
        self._seed = seed
        self._patience_time = patience_time
        self._numbers = itertools.count()
        self._stopping = threading.Event()
        self._give_up_at = float("inf")
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, name=f"round-{n}", daemon=True) for n in range(_THREADS)]
        #: job id -> call index -> what the first reader was told.
        self.told: dict[str, dict[int, str]] = {}
        self.pending: list[tuple[str, int]] = []
        self.violations: list[Violation] = []
        self.kinds: Counter[str] = Counter()
        self.n_calls = 0
        self.n_done = 0

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Start no more rounds and wait for those that are open."""
        self._give_up_at = time.monotonic() + self._patience_time
        self._stopping.set()
        for thread in self._threads:
            thread.join(self._patience_time + 60)
            if thread.is_alive():
                self._wrong("hung", f"{thread.name} does not come back: a call of the client's own hangs")

    def _wrong(self, invariant: str, text: str) -> None:
        with self._lock:
            self.violations.append(Violation(invariant, text))

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                made = start(next(self._numbers), self._seed, self._executor)
                if made is not None:
                    self._judge(made)
            except Exception:  # noqa: BLE001 - whatever a user would have seen instead of futures is a finding
                self._wrong("submitting works", traceback.format_exc())
            self._stopping.wait(_PAUSE_TIME)

    def _judge(self, made: Round) -> None:
        with self._lock:
            self.n_calls += len(made.futures)
            self.kinds[made.kind] += 1
        for index, future in enumerate(made.futures):
            while not future.done() and time.monotonic() < self._give_up_at:
                try:
                    future.exception(timeout=1.0)
                except TimeoutError:
                    continue
            if not future.done():
                with self._lock:
                    self.pending.append((future.job_id, future.call_index))
                continue
            found = outcome_of(future)
            with self._lock:
                self.n_done += 1
                self.told.setdefault(future.job_id, {})[future.call_index] = found
            if text := made.wrong(index, found):
                self._wrong("a permitted outcome", text)

    def compare(self) -> tuple[int, int]:
        """Read every job again, as somebody else; return how many calls are lost, and how many hung.

        Where two readers were told different outcomes is noted as a violation.
        """
        lost, unread = 0, set(self.pending)
        for job_id in sorted({*self.told, *(job for job, _ in self.pending)}):
            again = _read_again(job_id)
            for index, found in self.told.get(job_id, {}).items():
                if again.get(index) != found:
                    text = f"call {index} of {job_id}: {found} for the first, {again.get(index)} for the second"
                    self._wrong("every reader is told the same", text)
            lost += sum(job == job_id and index not in again for job, index in unread)
        return lost, len(unread) - lost


def _read_again(job_id: str) -> dict[int, str]:
    from wren_worker.client.waiting import wait  # noqa: PLC0415 - with the face below
    from wren_worker.wiring.client import attach  # noqa: PLC0415 - the face a user would import

    try:
        futures = attach(job_id, backend="sqs", progress=False)
    except JobIncomplete:
        futures = attach(job_id, backend="sqs", partial=True, progress=False)
    done, _ = wait(futures, timeout=_READ_TIME)
    return {future.call_index: outcome_of(future) for future in done}
