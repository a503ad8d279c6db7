"""The boot drill with a real kernel: firmware, DHCP, memory that runs out, a panic, power that really goes off.

``kernel.py [--only NAME]… [--without LAYER]… [--keep FOLDER]``; one machine at a time, some minutes each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import host

# the checkout, whether it is installed or not
sys.path.insert(0, str(host.ROOT))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="a scenario; may be repeated")
    parser.add_argument("--without", action="append", default=[], help="a layer to disable, for docs/shutdown.md")
    parser.add_argument("--keep", type=Path, help="keep what the machines left, in this folder")
    options = parser.parse_args()
    reason = host.missing(host.KERNEL_TOOLS)
    if reason:
        print(f"kernel drill: not run, {reason}")
        return 1

    import kerneldisk
    import layers
    import report
    from drill import play
    from kernel_scenarios import SCENARIOS
    from qemu import KernelMachine

    unknown = {*options.only} - {s.name for s in SCENARIOS} or {*options.without} - {*layers.LAYERS}
    if unknown:
        known = ", ".join([*(s.name for s in SCENARIOS), *layers.LAYERS])
        parser.error(f"{', '.join(unknown)}: known are {known}")
    began = time.monotonic()
    disk = kerneldisk.prepare()
    print(f"kernel drill: disk ready after {time.monotonic() - began:.0f} s", flush=True)
    chosen = [s for s in SCENARIOS if not options.only or s.name in options.only]
    folder = options.keep or Path(tempfile.mkdtemp(prefix="wren-kernel-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        outcomes = []
        for number, scenario in enumerate(chosen):
            name = f"wk{os.getpid() % 100000}-{number}"

            def make(place, name=name):
                machine = KernelMachine(name, place, disk)
                for layer in options.without:
                    layers.LAYERS[layer](machine)
                return machine

            outcomes.append(play(scenario, folder, None, make))
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    report.table(chosen, outcomes)
    failed = [s.name for s, outcome in zip(chosen, outcomes, strict=True) if outcome.failures]
    print(f"kernel drill: {len(chosen) - len(failed)} of {len(chosen)} as expected, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
