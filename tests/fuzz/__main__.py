"""``python -m tests.fuzz --inputs 1000000 --seed 7``: the loop by hand. Exit code 1 when it found something."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fuzz_loop import Report, fuzz
from fuzz_targets import FRAMES, TARGETS, WIRE


def _print(report: Report) -> None:
    n_inputs = report.n_inputs
    print(f"{n_inputs:,} inputs in {report.seconds:.1f} s: {n_inputs / report.seconds:,.0f} a second")
    for name in sorted(report.accepted.keys() | report.rejected.keys()):
        print(f"  {name:10} {report.rejected[name]:>10,} rejected {report.accepted[name]:>10,} accepted")
    print(f"slowest {report.slowest[0] * 1000:.1f} ms ({report.slowest[1]})")
    print(f"largest allocation {report.largest[0]:,} bytes for {report.largest[1]:,} of input ({report.largest[2]})")
    for finding in report.findings:
        print(f"FOUND {finding.target}: {finding.reason}\n  {finding.data[:4000]!r}")
    print(f"{len(report.findings)} findings")


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["wire", "frames", "all"], default="all")
    given = parser.parse_args()
    targets = {"wire": WIRE, "frames": FRAMES, "all": TARGETS}[given.only]
    report = fuzz(targets, n_inputs=given.inputs, seed=given.seed)
    _print(report)
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
