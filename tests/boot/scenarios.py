"""What can happen to a machine, and who must end it. A scenario is a function of a machine furnished and off."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import evidence
from beside import Beside
from host import this_python
from machine import Machine
from network import PORT
from rootfs import Disks

from wren_worker.config import InstanceConfig
from wren_worker.fleet import bootstrap
from wren_worker.fleet.userdata import Bootstrap, render


@dataclass
class Outcome:
    """What a scenario saw."""

    who: str = ""
    why: str = ""
    also: tuple[str, ...] = ()
    seconds: float = 0.0  # from its cause to off
    lost: int | None = None  # calls; None where there were none
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    timeline: dict[str, float] = field(default_factory=dict)

    def check(self, true: object, text: str) -> None:
        if not true:
            self.failures.append(text)


Story = Callable[["Stage"], None]


@dataclass(frozen=True)
class Scenario:
    """A story, its machine's disk, and who must end it within how long after the cause."""

    name: str
    story: Story
    who: str
    within: float
    why: str = ""
    disk: str = "complete"


@dataclass
class Stage:
    """Where a story is played."""

    machine: Machine
    outcome: Outcome
    disks: Disks
    cause: float = 0.0

    def config(self, **settings: Any) -> InstanceConfig:
        """Return an instance's configuration with times that fit a drill."""
        return InstanceConfig(
            fleet="drill",
            account="123456789012",
            region="us-east-1",
            python=this_python(),
            **{
                "slots": "2",
                "idle_timeout": 3.0,
                "max_lifetime": 600.0,
                "lease_time": 6.0,
                "boot_timeout": 60.0,
                "stale_timeout": 4.0,
                **settings,
            },
        )

    def boot(self, *, user_data: str = "", bootstrap_: Bootstrap | None = None, **settings: Any) -> None:
        """Render user-data, furnish the disk, power on."""
        config = self.config(**settings)
        (self.machine.folder / "rescue.json").write_text(self.config(idle_timeout=600.0).to_json())
        path = self.machine.folder / "user-data"
        path.write_text(user_data or render(config, bootstrap=bootstrap_))
        self.machine.furnish()
        self.machine.boot()

    def off(self, timeout: float) -> None:
        """Wait for the end; say who it was and how long it took from the cause."""
        moment = self.machine.wait_off(timeout)
        self.outcome.seconds = round(moment - (self.cause or self.machine.booted_timestamp), 1)

    def now(self) -> None:
        """Mark the cause."""
        self.cause = time.time()

    def settle(self, client: Any, *, rescue: bool, timeout: float = 170) -> dict[str, Any]:
        """Wait for a job's client, with another instance's daemon to finish what was given back; count what is lost."""
        helper = self.machine.rescue() if rescue else None
        try:
            said, _ = client.communicate(timeout=timeout)
        finally:
            if helper is not None:
                helper.kill()
                helper.wait()
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        self.outcome.lost = found["lost"]
        self.outcome.check(not found["errors"], f"calls failed: {found['errors'][:3]}")
        return found

    def until_running(self, n_calls: int = 1) -> None:
        """Wait until so many chunks have been received by the daemon."""
        log = "var/log/wren/daemon.log"
        self.machine.until(
            lambda: (
                sum(line.get("event") == "chunk_received" for line in evidence.json_lines(self.machine.root() / log))
                >= n_calls
            ),
            30,
            "chunk",
        )


def happy(stage: Stage) -> None:
    machine = stage.machine
    stage.boot()
    client = machine.start_client("job", 12, 0.2, 2)
    found = stage.settle(client, rescue=False)
    hosts = {result["host"] for result in found["results"]}
    stage.outcome.check(hosts and os.uname().nodename not in hosts, f"the calls ran on {hosts}")
    stage.now()
    stage.off(40)
    logs = machine.client("logs", machine.instance_id)
    for stream, sign in (("daemon", "power_off"), ("tasks", "call 7"), ("boot", "boot.boot"), ("boot", "boot.off")):
        stage.outcome.check(any(sign in line for line in logs.get(stream, ())), f"no '{sign}' in the stream {stream}")
    stage.outcome.timeline = evidence.timeline(
        machine.folder, machine.booted_timestamp, machine.operations("sqs.ReceiveMessage")
    )


def crash_loop(stage: Stage) -> None:
    # a setting that no daemon knows: it leaves at once, every time
    config = json.loads(stage.config().to_json()) | {"idel_timeout": 1}
    text = render(stage.config()).replace(stage.config().to_json().replace("\n", "\n      "), "TOKEN")
    assert "TOKEN" in text
    stage.boot(user_data=text.replace("TOKEN", json.dumps(config)))
    stage.machine.until(lambda: stage.machine.find("-m", "supervisor.supervisord"), 40, "supervisord")
    stage.now()
    stage.off(60)


def slow_crash_loop(stage: Stage) -> None:
    machine = stage.machine
    stage.boot(idle_timeout=300.0)
    seen: dict[int, float] = {}
    stage.machine.until_polling()
    stage.now()
    end = time.monotonic() + 60
    while machine.init() is not None and time.monotonic() < end:
        daemon = machine.daemon()
        # it lives past startsecs, so supervisord would start it again for ever
        if daemon is not None and time.monotonic() - seen.setdefault(daemon.pid, time.monotonic()) > 5.4:
            daemon.kill()
        time.sleep(0.1)
    stage.off(30)


def hung(stage: Stage) -> None:
    machine = stage.machine
    stage.boot(idle_timeout=300.0)
    client = machine.start_client("job", 4, 1.0, 1)
    stage.until_running()
    daemon = machine.daemon()
    assert daemon is not None
    daemon.suspend()
    stage.now()
    stage.off(60)
    stage.settle(client, rescue=True)


def supervisord_killed(stage: Stage) -> None:
    machine = stage.machine
    # five starts take longer than a drill's dead-man waits
    stage.boot(idle_timeout=300.0, stale_timeout=60.0)
    client = machine.start_client("job", 4, 1.0, 1)
    stage.until_running()
    stage.now()
    _kill_supervisord(machine, for_=40)
    stage.off(30)
    stage.settle(client, rescue=True)


def _kill_supervisord(machine: Machine, *, for_: float) -> None:
    end = time.monotonic() + for_
    while machine.init() is not None and time.monotonic() < end:
        process = machine.find("-m", "supervisor.supervisord")
        if process is not None:
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.05)


def supervisord_killed_once(stage: Stage) -> None:
    machine = stage.machine
    stage.boot()
    client = machine.start_client("job", 4, 1.0, 1)
    stage.until_running()
    supervisord = machine.find("-m", "supervisor.supervisord")
    daemon = machine.daemon()
    assert supervisord is not None
    assert daemon is not None
    supervisord.kill()
    stage.now()
    machine.until(lambda: not daemon.is_running(), 20, "end of the orphaned daemon")
    stage.settle(client, rescue=False)
    stage.off(40)


def broken_user_data(stage: Stage) -> None:
    # the limits that user-data would have brought; a real image has the dead-man's own, 15 minutes
    stage.machine.put("/etc/wren/instance.json", stage.config(boot_timeout=30.0).to_json())
    stage.boot(user_data="#cloud-config\nruncmd: [[[ broken yaml\n")
    stage.off(60)


def cloud_init_fails(stage: Stage) -> None:
    stage.machine.drop_in("cloud-config.service", "[Service]\nExecStart=\nExecStart=/bin/false\n", "85-fails")
    stage.boot()
    stage.off(60)


def imds_down(stage: Stage) -> None:
    stage.machine.network.cut(80, verdict="reject with tcp reset")
    stage.boot()
    stage.off(90)
    said = evidence.console(stage.machine.folder)
    stage.outcome.check("wren: systemd: wren-checkin.service failed" in said, "the console has no last words")
    stage.outcome.check("could not be shipped" in said, "the console does not say that nothing was shipped")


def imds_silent(stage: Stage) -> None:
    # cloud-init 22.4 waits minutes in its third try, which has no timeout, and everything after sysinit.target with it
    stage.machine.network.cut(80)
    stage.machine.put("/etc/wren/instance.json", stage.config(boot_timeout=10.0).to_json())
    stage.boot()
    stage.off(90)


def sqs_unreachable(stage: Stage) -> None:
    stage.machine.network.cut(PORT)
    stage.boot(idle_timeout=5.0)
    stage.machine.until(stage.machine.daemon, 40, "daemon")
    stage.now()
    stage.off(90)


def lifetime_mid_call(stage: Stage) -> None:
    machine = stage.machine
    stage.boot(max_lifetime=14.0)
    # two calls that end within the drain, and more that must not be started there any more
    client = machine.start_client("job", 6, 4.0, 1)
    stage.until_running()
    stage.now()
    stage.off(60)
    stage.settle(client, rescue=True)


def button(stage: Stage) -> None:
    machine = stage.machine
    stage.boot(idle_timeout=300.0)
    client = machine.start_client("job", 8, 3.0, 4)
    stage.until_running(2)
    time.sleep(0.5)
    stage.now()
    machine.press_button()
    stage.off(40)
    found = stage.settle(client, rescue=True)
    finished_there(stage, found, 2)


def finished_there(stage: Stage, found: dict[str, Any], n_calls: int) -> None:
    """Check that what ran there was finished there, and that the rest ran only after it was given back."""
    here = [result for result in found["results"] if result["host"] == os.uname().nodename]
    there = [result for result in found["results"] if result["host"] != os.uname().nodename]
    stage.outcome.check(len(there) >= n_calls, f"only {len(there)} calls were finished on the machine")
    stage.outcome.check(here, "nothing was given back")
    if here:
        first = min(result["began"] for result in here)
        stage.outcome.notes.append(f"{len(there)} finished there, {len(here)} given back")
        stage.outcome.check(first >= stage.cause, "a call ran elsewhere before the cause")


def spot_notice(stage: Stage) -> None:
    machine = stage.machine
    stage.boot(idle_timeout=300.0)
    client = machine.start_client("job", 8, 6.0, 4)
    stage.until_running(2)
    stage.now()
    deadline = stage.cause + 40
    machine.tell_imds(interruption=deadline)
    stage.off(60)
    stage.outcome.check(machine.off_timestamp < deadline, "it was still on at the deadline")
    stage.outcome.notes.append(f"{deadline - machine.off_timestamp:.0f} s before the deadline of 40 s")
    found = stage.settle(client, rescue=True)
    finished_there(stage, found, 2)


def drain_tag(stage: Stage) -> None:
    machine = stage.machine
    stage.boot(idle_timeout=300.0)
    client = machine.start_client("job", 8, 4.0, 4)
    stage.until_running(2)
    stage.now()
    machine.tell_imds(tags={"wren:drain": str(int(time.time()))})
    stage.off(60)
    found = stage.settle(client, rescue=True)
    finished_there(stage, found, 2)


def disk_full(stage: Stage) -> None:
    machine = stage.machine
    machine.disk_size = "160m"
    stage.boot(idle_timeout=6.0)
    machine.until_polling()
    _fill(machine.root() / "var" / "filler")
    client = machine.start_client("job", 4, 0.5, 1)
    stage.now()
    found = stage.settle(client, rescue=True)
    hosts = {result["host"] for result in found["results"]}
    stage.outcome.check(hosts == {os.uname().nodename}, f"the calls ran on {hosts}, not where there is room")
    stage.off(60)
    # nothing could be written there, so it is what was shipped that must say who ended it
    log = machine.folder / "log/wren/daemon.log"
    log.write_text("\n".join(machine.client("logs", machine.instance_id)["daemon"]))


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def second_boot(stage: Stage) -> None:
    machine = stage.machine
    machine.disk_size = ""  # the disk stays
    stage.boot()
    machine.wait_off(60)
    first = evidence.ending(machine.folder)
    stage.outcome.check(first.who == "daemon", f"the first boot was ended by {first.who}")
    # what the first boot left is not evidence about the second
    for name in ("log/wren/daemon.log", "log/wren/deadman.log"):
        (machine.folder / name).unlink(missing_ok=True)
        (machine.disk / "upper/var" / name).unlink(missing_ok=True)
    machine.boot()
    machine.until(lambda: machine.init() is not None, 30, "second boot")
    stage.now()
    stage.off(60)


def hung_shutdown(stage: Stage) -> None:
    machine = stage.machine
    get_stuck(machine, 6)
    stage.boot()
    machine.until_polling()
    machine.until(lambda: evidence.endings_of(machine.root()), 30, "power_off")
    stage.now()
    stage.off(60)
    stage.outcome.check(machine_forced(machine), "nothing forced it off")


def get_stuck(machine: Beside, seconds: int) -> None:
    """Place a unit that never stops; systemd forces the shutdown after so long, where an image has 90 s."""
    stuck = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStop=/bin/sleep infinity\n"
    machine.put("/etc/systemd/system/stuck.service", f"{stuck}TimeoutStopSec=infinity\n")
    machine.drop_in("wren-supervisord.service", "[Unit]\nWants=stuck.service\n", "85-stuck")
    machine.drop_in("poweroff.target", f"[Unit]\nJobTimeoutSec={seconds}s\n")


def machine_forced(machine: Beside) -> bool:
    """Return whether the shutdown was cut short by somebody."""
    return {"systemd", "dead-man"} & set(evidence.ending(machine.folder).also) != set()


def wheel_at_boot(stage: Stage) -> None:
    _from_archive(stage, wheels=None)


def stock_image(stage: Stage) -> None:
    _from_archive(stage, wheels=stage.disks.wheels)


def _from_archive(stage: Stage, *, wheels: Path | None) -> None:
    machine = stage.machine
    packages = machine.folder / "packages"
    packages.mkdir()
    if wheels is not None:
        shutil.copy(next(wheels.glob("cloudpickle-*")), packages)
    archive = bootstrap.build(python=this_python(), wheels=wheels, packages=packages if wheels else None)
    path = machine.folder / "bootstrap.tar.gz"
    path.write_bytes(archive.data)
    bucket = machine.client("upload", path, archive.key)["bucket"]
    place = Bootstrap(bucket=bucket, key=archive.key, sha256=archive.sha256, region="us-east-1")
    stage.boot(bootstrap_=place)
    found = stage.settle(machine.start_client("job", 6, 0.2, 2), rescue=False)
    runtimes = {result["prefix"] for result in found["results"]}
    # that of the image's build is the daemon's environment, as was asked for
    expected = {"/opt/wren/runtime"} if wheels else {"/opt/wren/venv", "/opt/wren/runtime"}
    stage.outcome.check(runtimes and runtimes <= expected, f"calls ran in {runtimes}")
    stage.now()
    stage.off(60)
    stage.outcome.timeline = evidence.timeline(
        machine.folder, machine.booted_timestamp, machine.operations("sqs.ReceiveMessage")
    )


def wrong_archive(stage: Stage) -> None:
    bucket = stage.machine.client("prepare") and "wren-123456789012-us-east-1-drill"
    place = Bootstrap(bucket=bucket, key="wheels/bootstrap-none.tar.gz", sha256="0" * 64, region="us-east-1")
    stage.boot(bootstrap_=place, boot_timeout=12.0)
    stage.off(60)


SCENARIOS = (
    # the longest first: two run at a time
    Scenario("stock image", stock_image, "daemon", 12, "idle", disk="stock"),
    Scenario("slow crash loop", slow_crash_loop, "listener", 60, "4 times"),
    Scenario("daemon hung", hung, "dead-man", 4 + 2 + 20 + 6, "stale_heartbeat"),
    Scenario("SQS unreachable", sqs_unreachable, "daemon", 5 + 60, "idle"),
    Scenario("second boot", second_boot, "dead-man", 12, "second_boot"),
    Scenario("lifetime mid-call", lifetime_mid_call, "daemon", 14 + 12, "maximum lifetime"),
    Scenario("spot notice", spot_notice, "daemon", 40, "spot"),
    Scenario("drain tag", drain_tag, "daemon", 30, "drain"),
    Scenario("supervisord killed", supervisord_killed, "systemd", 30, "Start request repeated"),
    Scenario("supervisord killed once", supervisord_killed_once, "daemon", 40, "idle"),
    Scenario("cloud-init fails", cloud_init_fails, "systemd", 20, "cloud-config.service"),
    Scenario("IMDS down", imds_down, "systemd", 60, "OnFailure"),
    Scenario("IMDS silent", imds_silent, "dead-man", 10 + 10 + 8, "no_heartbeat_after_boot"),
    Scenario("shutdown hangs", hung_shutdown, "daemon", 6 + 6, "idle"),
    Scenario("SIGTERM, calls in flight", button, "button", 12),
    Scenario("crash loop", crash_loop, "listener", 30, "could not be started"),
    Scenario("broken user-data", broken_user_data, "systemd", 25, "OnFailure"),
    Scenario("disk full", disk_full, "daemon", 6 + 20, "disk full"),
    Scenario("launcher's wheel at boot", wheel_at_boot, "daemon", 12, "idle", disk="baked"),
    Scenario("no archive", wrong_archive, "bootstrap", 30, "power off", disk="stock"),
    Scenario("happy", happy, "daemon", 12, "idle"),
)
