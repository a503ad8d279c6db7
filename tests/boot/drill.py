"""The boot drill: real machines, from power on to power off, and who ended them.

``drill.py [--only NAME]… [--without LAYER]… [--jobs N] [--keep FOLDER]``
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import host

# the checkout, whether it is installed or not
sys.path.insert(0, str(host.ROOT))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="a scenario; may be repeated")
    parser.add_argument("--without", action="append", default=[], help="a layer to disable, for docs/shutdown.md")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="keep what the machines left, in this folder")
    options = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    reason = host.missing()
    if reason:
        print(f"boot drill: not run, {reason}")
        return 1 if os.environ.get("CI") == "true" else 0

    import layers
    import report
    import rootfs
    from scenarios import SCENARIOS

    unknown = {*options.only} - {s.name for s in SCENARIOS} or {*options.without} - {*layers.LAYERS}
    if unknown:
        known = ", ".join([*(s.name for s in SCENARIOS), *layers.LAYERS])
        parser.error(f"{', '.join(unknown)}: known are {known}")
    began = time.monotonic()
    disks = rootfs.prepare()
    print(f"drill: disks ready after {time.monotonic() - began:.0f} s", flush=True)
    chosen = [s for s in SCENARIOS if not options.only or s.name in options.only]
    folder = options.keep or Path(tempfile.mkdtemp(prefix="wren-drill-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with ThreadPoolExecutor(options.jobs) as pool:
            outcomes = list(pool.map(lambda pair: act(*pair, folder, disks, options.without), enumerate(chosen)))
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    report.table(chosen, outcomes)
    failed = [s.name for s, outcome in zip(chosen, outcomes, strict=True) if outcome.failures]
    print(f"drill: {len(chosen) - len(failed)} of {len(chosen)} as expected, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


def act(number, scenario, folder, disks, without):
    """Play one scenario with a machine of its own."""
    import layers
    from machine import Machine

    def make(place):
        name = f"wd{os.getpid() % 100000}-{number}"
        machine = Machine(name, place, getattr(disks, scenario.disk), user_data="")
        for layer in without:
            layers.LAYERS[layer](machine)
        return machine

    return play(scenario, folder, disks, make)


def play(scenario, folder, disks, make):
    """Run one scenario with the machine that ``make(folder)`` returns; never raises."""
    import evidence
    from scenarios import Outcome, Stage

    outcome = Outcome()
    place = folder / scenario.name.replace(" ", "-").replace("'", "").replace(",", "")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        with make(place) as machine:
            scenario.story(Stage(machine, outcome, disks))
    except Exception as error:
        outcome.failures.append(f"{type(error).__name__}: {error}")
        if not isinstance(error, (TimeoutError, AssertionError)):
            (place / "traceback.txt").write_text(traceback.format_exc())
    end = evidence.ending(place)
    outcome.who, outcome.why, outcome.also = end.who, end.why, end.also
    outcome.check(end.who == scenario.who, f"ended by {end.who} ({end.why}), not by {scenario.who}")
    outcome.check(scenario.why in end.why, f"ended for '{end.why}', not for '{scenario.why}'")
    outcome.check(
        outcome.seconds <= scenario.within, f"{outcome.seconds} s from cause to off; {scenario.within} allowed"
    )
    outcome.check(not outcome.lost, f"{outcome.lost} calls were lost")
    holes = evidence.unsafe_requests(place)
    outcome.check(not holes, f"IMDS answered without a token: {holes[:3]}")
    found = f"FAILED {outcome.failures[0]}" if outcome.failures else f"ok, {outcome.seconds} s"
    print(f"drill: {scenario.name}: {found}", flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
