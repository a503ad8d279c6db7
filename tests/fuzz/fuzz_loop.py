"""The loop: makes inputs by a seed, gives them to the targets, and watches time and memory."""

from __future__ import annotations

import faulthandler
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from fuzz_targets import Target

__all__ = ["Finding", "Report", "fuzz", "run_one"]

#: What decoding may allocate: JSON's worst is an empty object in three bytes; the rest is the target's own.
BYTES_PER_BYTE, SPARE_BYTES = 64, 1024 * 1024
#: An input that takes longer than this is a finding; one that takes longer than the second ends the process, told.
SLOW_TIME, HANG_TIME = 5.0, 120.0


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that was neither refused by its typed error nor accepted with everything holding."""

    target: str
    data: bytes
    reason: str


@dataclass(slots=True)
class Report:
    """What a run saw. Times in seconds."""

    accepted: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[int, int, str] = (0, 0, "")
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def n_inputs(self) -> int:
        """Return how many inputs were given."""
        return self.accepted.total() + self.rejected.total() + len(self.findings)


def run_one(target: Target, data: bytes, report: Report) -> None:
    """Give a target one input; tracemalloc runs."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    start = time.perf_counter()
    try:
        target.take(data)
        verdict, reason = report.accepted, ""
    except target.refusals:
        verdict, reason = report.rejected, ""
    except Exception as error:
        verdict, reason = report.rejected, f"{type(error).__name__}: {str(error)[:200]}"
    seconds = time.perf_counter() - start
    allocated = tracemalloc.get_traced_memory()[1] - before
    if not reason and allocated > BYTES_PER_BYTE * len(data) + SPARE_BYTES:
        reason = f"{allocated} bytes were allocated for {len(data)}"
    if not reason and seconds > SLOW_TIME:
        reason = f"it took {seconds:.1f} s"
    if reason:
        report.findings.append(Finding(target.name, data, reason))
    else:
        verdict[target.name] += 1
    report.slowest = max(report.slowest, (seconds, target.name))
    report.largest = max(report.largest, (allocated, len(data), target.name))


def fuzz(targets: Sequence[Target], *, n_inputs: int, seed: int, most_findings: int = 20) -> Report:
    """Give each target its share of inputs, by turns."""
    random, report = Random(seed), Report()
    start = time.perf_counter()
    tracemalloc.start()
    try:
        for number in range(n_inputs):
            if number % 1000 == 0:
                faulthandler.dump_traceback_later(HANG_TIME, exit=True)
            target = targets[number % len(targets)]
            run_one(target, target.make(random), report)
            if len(report.findings) >= most_findings:
                break
    finally:
        faulthandler.cancel_dump_traceback_later()
        tracemalloc.stop()
    report.seconds = time.perf_counter() - start
    return report
