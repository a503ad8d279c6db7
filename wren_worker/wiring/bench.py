"""PyWren's headline measurements over whatever fleet is there: what ``wren-standalone bench`` calls."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from wren_worker.client.executor import Executor
from wren_worker.client.future import Future
from wren_worker.client.waiting import wait
from wren_worker.config import Settings
from wren_worker.errors import FleetError
from wren_worker.fleet.roster import Row, why_nothing_runs
from wren_worker.sandbox import control
from wren_worker.wiring.client import executor
from wren_worker.wiring.operator import Operator

__all__ = ["Bench", "Flops", "Latency", "Step", "Throughput", "Transfer", "open_bench"]

#: Seconds after which a measurement is given up: somebody else's job may hold every slot.
_PATIENCE = 900.0
#: Seconds of work of one piece of ``scale``, about.
_PIECE_TIME = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """One call at a time on a warm fleet, in seconds."""

    n_calls: int
    p50_time: float
    p99_time: float
    shortest_time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Calls that do nothing, in one map."""

    n_calls: int
    time: float
    calls_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Data by way of S3: arguments to the calls, and results back, in MB (10⁶ bytes) per second."""

    n_calls: int
    bytes_each: int
    arguments_mb_per_second: float
    results_mb_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Products of matrices of doubles. ``gflops_of_the_job`` counts everything from the map to the last result."""

    n_slots: int
    size: int
    gflops_per_slot: float
    gflops_total: float
    gflops_of_the_job: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """So many equal pieces of work at once, one for each of so many slots; ``efficiency`` 1 is as fast as one alone."""

    n_slots: int
    time: float
    pieces_per_second: float
    efficiency: float


class Bench:
    """Measures one fleet.

    Args:
        executor: Runs the calls.
        n_slots: Of the whole fleet.
        why: Says why calls do not come back.
    """

    def __init__(self, executor: Executor, *, n_slots: int, why: Callable[[], str]) -> None:
        self._executor = executor
        self.n_slots = n_slots
        self._why = why

    def close(self) -> None:
        """End the executor."""
        self._executor.close()

    def latency(self, *, n_calls: int) -> Latency:
        """Make calls one after the other.

        Raises:
            FleetError: No result came for a quarter of an hour.
        """
        self._warm_up()
        times = []
        for number in range(n_calls):
            began = time.perf_counter()
            self._results([self._executor.call_async(_travelling(_same), number)])
            times.append(time.perf_counter() - began)
        times.sort()
        return Latency(
            n_calls=n_calls,
            p50_time=statistics.median(times),
            p99_time=times[min(n_calls - 1, int(n_calls * 0.99))],
            shortest_time=times[0],
        )

    def throughput(self, *, n_calls: int) -> Throughput:
        """Map a function that does nothing.

        Raises:
            FleetError: Results did not come for a quarter of an hour, or are wrong.
        """
        self._warm_up()
        results, took = self._timed(_same, range(n_calls))
        if results != list(range(n_calls)):
            raise FleetError("The calls returned something else than they were given: this fleet cannot be trusted.")
        return Throughput(n_calls=n_calls, time=took, calls_per_second=n_calls / took)

    def transfer(self, *, n_calls: int, bytes_each: int) -> Transfer:
        """Send arguments of that size, then fetch results of that size.

        Raises:
            FleetError: Results did not come for a quarter of an hour, or are wrong.
        """
        self._warm_up()
        block = bytes(bytes_each)
        lengths, sending = self._timed(_length, (block for _ in range(n_calls)), chunksize=1)
        fetched, fetching = self._timed(_zeros, [bytes_each] * n_calls, chunksize=1)
        if lengths != [bytes_each] * n_calls or [len(one) for one in fetched] != lengths:
            raise FleetError("The data came out of another length than it went in: this fleet cannot be trusted.")
        megabytes = n_calls * bytes_each / 1e6
        return Transfer(
            n_calls=n_calls,
            bytes_each=bytes_each,
            arguments_mb_per_second=megabytes / sending,
            results_mb_per_second=megabytes / fetching,
        )

    def flops(self, *, size: int, n_products: int) -> Flops:
        """Multiply matrices in every slot at once.

        Raises:
            FleetError: Calls run under a Python without numpy, or results did not come for a quarter of an hour.
        """
        self._warm_up()
        jobs = [(size, n_products)] * self.n_slots
        speeds, took = self._timed(_dgemm, jobs, chunksize=1)
        if None in speeds:
            raise FleetError(
                "numpy is not installed where the calls run, so there is nothing to multiply matrices with. "
                "Use an image or a runtime that has it; `bench scale` needs nothing."
            )
        return Flops(
            n_slots=self.n_slots,
            size=size,
            gflops_per_slot=statistics.median(speeds),
            gflops_total=sum(speeds),
            # the first product is not timed inside, and is work all the same
            gflops_of_the_job=2e-9 * size**3 * (n_products + 1) * self.n_slots / took,
        )

    def scale(self) -> list[Step]:
        """Run equal pieces of pure Python on 1, 2, 4, … slots at once, up to all of them.

        Raises:
            FleetError: Results did not come for a quarter of an hour.
        """
        self._warm_up()
        n_turns = self._turns_of_a_piece()
        steps: list[Step] = []
        n_slots = 1
        while True:
            took = min(self._timed(_count, [n_turns] * n_slots, chunksize=1)[1] for _ in range(3))
            alone = steps[0].time if steps else took
            steps.append(Step(n_slots=n_slots, time=took, pieces_per_second=n_slots / took, efficiency=alone / took))
            if n_slots == self.n_slots:
                return steps
            n_slots = min(2 * n_slots, self.n_slots)

    def _turns_of_a_piece(self) -> int:
        n_turns = 200_000
        ((run_time,), _) = self._timed(_count, [n_turns], chunksize=1)
        return max(n_turns, int(n_turns * _PIECE_TIME / max(run_time, 1e-6)))

    def _warm_up(self) -> None:
        """Have a process in every slot, and everything imported."""
        self._timed(_same, range(4 * self.n_slots), chunksize=1)

    def _timed(self, function: Callable[[Any], Any], items: Iterable[Any], **options: Any) -> tuple[list[Any], float]:
        began = time.perf_counter()
        results = self._results(self._executor.map(_travelling(function), items, **options))
        return results, time.perf_counter() - began

    def _results(self, futures: Sequence[Future[Any]]) -> list[Any]:
        _, missing = wait(futures, timeout=_PATIENCE)
        if missing:
            raise FleetError(
                f"{len(missing)} of {len(futures)} calls had no result after {_PATIENCE:.0f} s: {self._why()}."
            )
        return [future.result() for future in futures]


def open_bench(settings: Settings) -> Bench:
    """Return what measures the fleet that the settings name.

    Raises:
        FleetError: No instance takes calls; says why and what to do.
        ConfigError: There is no region, or there are no credentials.
    """
    backend, operator = _find_fleet(settings)
    rows = operator.roster()
    ready = [row for row in rows if row.doing == "running" and row.python == operator.python]
    if not ready:
        raise FleetError(f"Nothing here to measure: {_why(operator, rows)}.")
    n_slots = sum(row.slots or 1 for row in ready)
    given = {name: value for name, value in asdict(replace(settings, backend=backend)).items() if value}
    return Bench(executor(config={**given, "progress": False}), n_slots=n_slots, why=operator.why_nothing_runs)


def _why(operator: Operator, rows: Sequence[Row]) -> str:
    return why_nothing_runs(
        rows, operator.depth(), fleet=operator.names.fleet, python=operator.python, place=operator.place
    )


def _find_fleet(settings: Settings) -> tuple[str, Operator]:
    """Return the backend and the fleet: the sandbox that runs where none is named, AWS otherwise."""
    if settings.backend == "inline":
        raise FleetError("backend='inline' has no fleet: it runs calls in this process. Measure 'local' or 'sqs'.")
    running = control.status(control.default_directory(setting=settings.sandbox_dir))
    if settings.backend == "local" or (not settings.backend and not settings.fleet and running is not None):
        if running is not None:
            return "local", Operator(settings, exports=running.exports)
        raise FleetError(
            "No sandbox is running. Start one with `wren-standalone sandbox up`, then launch instances in it."
        )
    return "sqs", Operator(settings)


def _travelling(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the function as a script's own, which travels by value: instances have nothing of this package."""
    function.__module__ = "__main__"
    return function


def _same(x: int) -> int:
    return x


def _length(block: bytes) -> int:
    return len(block)


def _zeros(n_bytes: int) -> bytes:
    return bytes(n_bytes)


def _count(n_turns: int) -> float:
    import time  # noqa: PLC0415 - travels alone

    began = time.perf_counter()
    total = 0
    for number in range(n_turns):
        total += number
    return time.perf_counter() - began


def _dgemm(job: tuple[int, int]) -> float | None:
    """Return GFLOPS; None where there is no numpy."""
    import time  # noqa: PLC0415 - travels alone

    try:
        import numpy as np  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415
    except ImportError:
        return None
    size, n_products = job
    a, b = np.ones((size, size)), np.full((size, size), 0.5)
    a @ b  # starts threads, touches memory
    began = time.perf_counter()
    for _ in range(n_products):
        a @ b
    return float(2e-9 * size**3 * n_products / (time.perf_counter() - began))
