"""What only a machine with a kernel of its own can show. Played as those of scenarios.py are."""

from __future__ import annotations

import os
from typing import Any

import evidence
from qemu import KernelMachine
from scenarios import Scenario, Stage

#: An emulated processor is some twenty times slower than a real one, so times are longer than the other drill's.
TIMES = {"idle_timeout": 20.0, "lease_time": 20.0, "boot_timeout": 240.0, "stale_timeout": 20.0}
BOOT_TIMEOUT = 240.0


def boot(stage: Stage, **settings: Any) -> KernelMachine:
    """Power on and wait for the first poll."""
    machine = stage.machine
    assert isinstance(machine, KernelMachine)
    stage.boot(**{**TIMES, **settings})
    machine.until_polling(BOOT_TIMEOUT)
    return machine


def happy(stage: Stage) -> None:
    machine = boot(stage)
    found = stage.settle(machine.start_client("job", 12, 0.2, 2), rescue=False)
    hosts = {result["host"] for result in found["results"]}
    stage.outcome.check(hosts and os.uname().nodename not in hosts, f"the calls ran on {hosts}")
    stage.now()
    stage.off(90)
    logs = machine.client("logs", machine.instance_id)
    for stream, sign in (("daemon", "power_off"), ("tasks", "call 7"), ("boot", "boot.boot"), ("boot", "boot.off")):
        stage.outcome.check(any(sign in line for line in logs.get(stream, ())), f"no '{sign}' in the stream {stream}")
    stage.outcome.timeline = evidence.timeline(
        machine.folder, machine.booted_timestamp, machine.operations("sqs.ReceiveMessage")
    )


SCENARIOS = (Scenario("happy", happy, "daemon", 20 + 60, "idle"),)
