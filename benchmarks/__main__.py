"""``python -m benchmarks``: installs the systems, runs the workloads, writes results and page."""

from __future__ import annotations

import argparse
import os
import sys
import time

from benchmarks import install


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small workloads only, with fewer calls: ≤ 3 min")
    parser.add_argument(
        "--workload", action="append", default=[], help="only these; may be repeated, or comma-separated"
    )
    parser.add_argument("--system", action="append", default=[], help="only these; likewise")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything runs")
    parser.add_argument("--no-write", action="store_true", help="print only; leave results and page as they are")
    parser.add_argument("--list", action="store_true", help="list workloads and systems")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Install, then go on in our own environment, which has the project."""
    options = _parse(arguments)
    install.ensure("wren")
    ours = install.python_of("wren")
    if os.path.realpath(sys.prefix) != os.path.realpath(ours.parent.parent):
        os.chdir(install.CHECKOUT)
        os.execv(ours, [str(ours), "-m", "benchmarks", *arguments])
    from benchmarks import suite

    began = time.monotonic()
    code = suite.run(
        quick=options.quick,
        names=_names(options.workload),
        systems=_names(options.system),
        n_rounds=options.rounds,
        write=not options.no_write,
        list_only=options.list,
    )
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return code


def _names(given: list[str]) -> list[str]:
    return [name for text in given for name in text.split(",") if name]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
