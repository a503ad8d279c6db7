"""What only a machine with a kernel of its own can show. Played as those of scenarios.py are."""

from __future__ import annotations

import os
import time
from typing import Any

import evidence
from qemu import KernelMachine
from scenarios import Scenario, Stage, finished_there, get_stuck, machine_forced

#: An emulated processor is some twenty times slower than a real one, and the dead-man looks every 30 s as in an image.
TIMES = {
    "idle_timeout": 20.0,
    "lease_time": 20.0,
    "boot_timeout": 400.0,
    "stale_timeout": 20.0,
    "max_lifetime": 1800.0,
}
BOOT_TIMEOUT = 400.0  # seconds to the first poll; a busy host with two processors took 165
DEAD_MAN = 20 + 30 + 10  # seconds until it has seen a stale heartbeat
DOWN = 60  # seconds for an orderly shutdown: 20 of systemd's patience, and slow programs
STUCK = 20


def boot(stage: Stage, **settings: Any) -> KernelMachine:
    """Power on and wait for the first poll."""
    machine = stage.machine
    assert isinstance(machine, KernelMachine)
    stage.boot(**{**TIMES, **settings})
    machine.until_polling(BOOT_TIMEOUT)
    return machine


def until_received(machine: KernelMachine, n_chunks: int) -> None:
    count = "$(grep -c '\"chunk_received\"' /var/log/wren/daemon.log)"
    machine.shell(f"until [ {count} -ge {n_chunks} ]; do sleep 0.5; done", 120)


def before_userspace(machine: KernelMachine) -> dict[str, float]:
    """Return seconds since power-on of the kernel's first line and of systemd's."""
    lines = evidence.json_lines(machine.folder / "journal.json")
    zero = (int(lines[0]["__REALTIME_TIMESTAMP"]) - int(lines[0]["__MONOTONIC_TIMESTAMP"])) / 1e6
    init = next(line for line in lines if "running in system mode" in str(line.get("MESSAGE")))
    init_time = int(init.get("_SOURCE_MONOTONIC_TIMESTAMP") or init["__MONOTONIC_TIMESTAMP"]) / 1e6
    steps = {"the kernel starts": zero, "systemd starts": zero + init_time}
    return {step: round(when - machine.booted_timestamp, 2) for step, when in steps.items()}


def happy(stage: Stage) -> None:
    machine = boot(stage)
    found = stage.settle(machine.start_client("job", 12, 0.2, 2), rescue=False)
    hosts = {result["host"] for result in found["results"]}
    stage.outcome.check(hosts and os.uname().nodename not in hosts, f"the calls ran on {hosts}")
    stage.now()
    stage.off(120)
    logs = machine.client("logs", machine.instance_id)
    for stream, sign in (("daemon", "power_off"), ("tasks", "call 7"), ("boot", "boot.boot"), ("boot", "boot.off")):
        stage.outcome.check(any(sign in line for line in logs.get(stream, ())), f"no '{sign}' in the stream {stream}")
    polls = machine.operations("sqs.ReceiveMessage")
    steps = evidence.timeline(machine.folder, machine.booted_timestamp, polls)
    stage.outcome.timeline = {**before_userspace(machine), **steps}


def hung(stage: Stage) -> None:
    machine = boot(stage, idle_timeout=600.0)
    client = machine.start_client("job", 4, 2.0, 1)
    until_received(machine, 1)
    machine.shell("pkill -STOP -f 'wren_worker daemon'")
    stage.now()
    stage.off(DEAD_MAN + DOWN + 60)
    stage.settle(client, rescue=True)


def panic(stage: Stage) -> None:
    machine = stage.machine
    assert isinstance(machine, KernelMachine)
    machine.reboots = True
    boot(stage, idle_timeout=600.0)
    client = machine.start_client("job", 4, 2.0, 1)
    until_received(machine, 1)
    stage.now()
    machine.send_shell("echo c >/proc/sysrq-trigger")
    stage.off(400)
    console = evidence.console(machine.folder)
    stage.outcome.check("Kernel panic" in console, "the console shows no panic")
    n_boots = len({line["_BOOT_ID"] for line in evidence.json_lines(machine.folder / "journal.json")})
    stage.outcome.check(n_boots == 2, f"the journal has {n_boots} boots")
    stage.settle(client, rescue=True)


def button(stage: Stage) -> None:
    machine = boot(stage, idle_timeout=600.0)
    client = machine.start_client("job", 8, 5.0, 4)
    until_received(machine, 2)
    time.sleep(1)
    stage.now()
    machine.press_button()
    stage.off(DOWN + 60)
    found = stage.settle(client, rescue=True)
    finished_there(stage, found, 2)


def hung_shutdown(stage: Stage) -> None:
    get_stuck(stage.machine, STUCK)
    machine = boot(stage)
    machine.shell("until grep -q '\"power_off\"' /var/log/wren/daemon.log; do sleep 0.5; done", 120)
    stage.now()
    stage.off(STUCK + DOWN + 60)
    stage.outcome.check(machine_forced(machine), "nothing forced it off")


def out_of_memory(stage: Stage) -> None:
    # a machine with next to no memory left crawls for minutes before the kernel kills: an image's own times
    machine = boot(stage, lease_time=90.0, stale_timeout=300.0)
    before = machine.shell("pgrep -f 'wren_worker daemon'")
    found = stage.settle(machine.start_client("hunger", 8, 2.0), rescue=False, timeout=420)
    eater = " ".join(found["eater"])
    stage.outcome.check("OutOfMemory" in eater, f"the call that ate all memory ended so: {eater or 'not at all'}")
    stage.outcome.notes.append(eater[:160])
    after = machine.shell("pgrep -f 'wren_worker daemon'")
    stage.outcome.check(before == after, f"the daemon was {before.strip()} and is {after.strip()}")
    victims = machine.shell("dmesg | grep 'Killed process' || true").strip().splitlines()
    stage.outcome.check(len(victims) == 1, f"the kernel killed {victims or 'nothing'}")
    stage.now()
    stage.off(200)
    log = evidence.json_lines(machine.folder / "log/wren/daemon.log")
    n_starts = sum(line["event"] == "started" for line in log)
    stage.outcome.check(n_starts == 1, f"the daemon was started {n_starts} times")
    ended = [line["status"] for line in log if line["event"] == "slot_ended"]
    stage.outcome.check(ended == [-9], f"slots ended with {ended}, not the greedy one alone")


SCENARIOS = (
    Scenario("happy", happy, "daemon", 20 + DOWN, "idle"),
    Scenario("out of memory", out_of_memory, "daemon", 20 + DOWN, "idle"),
    Scenario("daemon hung", hung, "dead-man", DEAD_MAN + DOWN, "stale_heartbeat"),
    Scenario("kernel panic", panic, "dead-man", 400, "second_boot"),
    Scenario("shutdown hangs", hung_shutdown, "daemon", STUCK + DOWN, "idle"),
    Scenario("power button", button, "button", DOWN),
)
