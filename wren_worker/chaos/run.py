"""``selftest``: the whole system on this machine, with and without things going wrong."""

from __future__ import annotations

import contextlib
import io
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from wren_worker.chaos.checker import Budget, check
from wren_worker.chaos.monkey import BY_THE_HUNDRED, Monkey
from wren_worker.chaos.place import Place
from wren_worker.chaos.plan import plan
from wren_worker.chaos.proxy import FaultProxy
from wren_worker.chaos.report import Report
from wren_worker.chaos.rounds import Rounds
from wren_worker.chaos.surroundings import clean_environment
from wren_worker.chaos.violations import Violation
from wren_worker.config import Settings
from wren_worker.fleet.setup import setup
from wren_worker.fleet.spec import Launch
from wren_worker.sandbox import control, processes
from wren_worker.wiring.operator import Operator

__all__ = ["selftest"]

_FLEET = "selftest"
_STALE_TIME, _DEADMAN_INTERVAL = 8.0, 1.0
#: From the dead-man's verdict to an instance that is gone: services get their time to stop, on a busy machine.
_OFF_MARGIN = 20.0
_PATIENCE_TIME = 120.0
_TELL_INTERVAL = 10.0
_CALM_CALLS = 200

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """A private sandbox behind a proxy, with a fleet that is set up."""

    sandbox: control.PrivateSandbox
    proxy: FaultProxy
    place: Place
    operator: Operator


@contextmanager
def _stage(seed: int) -> Iterator[_Stage]:
    with clean_environment(), control.private() as sandbox, FaultProxy(sandbox.info.endpoint, seed=seed) as proxy:
        control.put_in_front(sandbox.info, proxy.endpoint)
        exports = {**sandbox.info.exports, "AWS_ENDPOINT_URL": proxy.endpoint}
        with clean_environment({**exports, "WREN_FLEET": _FLEET}):
            operator = Operator(Settings(fleet=_FLEET), exports=exports)
            for _ in setup(operator.provisioner, operator.names, pythons=(operator.python,)):
                pass
            yield _Stage(sandbox=sandbox, proxy=proxy, place=Place(sandbox.info, proxy), operator=operator)


def selftest(*, seconds: float, seed: int = 0, chaos: bool, tell: Tell) -> Report:
    """Run jobs on a private sandbox and judge what came of them.

    Args:
        seconds: For how long things go wrong; what is under way then gets its time to end.
        seed: Chooses what goes wrong, when and to whom, and the jobs.
        chaos: Whether anything goes wrong at all; without, one small job and an instance that ends itself.
        tell: Takes lines for people as it goes on.

    Raises:
        ConfigError: The sandbox extra is not installed.
        FleetError: The sandbox did not start.
    """
    report = Report(seed=seed, seconds=seconds)
    with _stage(seed) as stage:
        tell(f"a sandbox at {stage.sandbox.info.endpoint}, behind a proxy at {stage.proxy.endpoint}")
        if chaos:
            _storm(stage, report, tell)
        else:
            _calm(stage, report, tell)
        stage.place.settle()
        report.n_requests = len(stage.proxy.record.entries)
        found = check(stage.proxy.record, budget=Budget(base=1000))
        report.duplicated = sum(one.invariant in ("written once", "resolved once") for one in found)
        report.violations += found + stage.place.violations
        left = processes.marked(f"IN_WREN_SANDBOX={stage.sandbox.info.directory}")
        alive = len(stage.place.instances())
        report.orphan_instances = alive
        # what runs on an instance that is there still is no orphan, and neither is the instance then
        report.orphan_processes = 0 if alive else len(left)
    return report


def _executor() -> contextlib.AbstractContextManager[object]:
    from wren_worker.wiring.client import executor  # noqa: PLC0415 - the face a user would import

    with contextlib.redirect_stderr(io.StringIO()):  # which backend this is was told already
        return executor(backend="sqs", progress=False)


def _await_off(stage: _Stage, idle_timeout: float, tell: Tell) -> None:
    """Wait for every instance to end by itself; who is there still by then is counted."""
    began = time.monotonic()
    while stage.place.instances() and time.monotonic() - began < idle_timeout + _OFF_MARGIN + 20:
        time.sleep(0.2)
    tell(f"no work: every instance ended itself within {time.monotonic() - began:.1f} s"
         if not stage.place.instances() else "instances are left")  # fmt: skip


def _calm(stage: _Stage, report: Report, tell: Tell) -> None:
    spec = Launch(types=("c5.large",), idle_timeout=3.0, lease_time=10.0, slots="1", deadman_interval=1.0)
    report.n_instances = len(stage.operator.launch(spec, launch_id=_FLEET).instance_ids)
    tell("an instance was launched")

    def call(x: int) -> int:
        return x * x

    with _executor() as executor:
        began = time.monotonic()
        futures = executor.map(call, range(_CALM_CALLS))  # type: ignore[attr-defined]
        found = [future.result(timeout=60) for future in futures]
    report.n_jobs, report.n_calls = 1, len(found)
    report.wrong = sum(value != x * x for x, value in enumerate(found))
    tell(f"{len(found)} calls came back in {time.monotonic() - began:.1f} s")
    _await_off(stage, spec.idle_timeout, tell)


def _storm(stage: _Stage, report: Report, tell: Tell) -> None:
    spec = Launch(
        types=("c5.large",),
        count=3,
        spot=True,
        idle_timeout=10.0,
        lease_time=3.0,
        stale_timeout=_STALE_TIME,
        deadman_interval=_DEADMAN_INTERVAL,
        slots="1",
    )
    strikes = plan(report.seed, report.seconds)
    hang_time = _STALE_TIME + _DEADMAN_INTERVAL + _OFF_MARGIN
    monkey = Monkey(stage.place, stage.operator, spec, strikes, hang_time=hang_time)
    monkey.launch(spec.n_wanted)
    tell(f"{spec.n_wanted} spot instances; seed {report.seed}: {len(strikes)} strikes in {report.seconds:g} s")
    with _executor() as executor:
        rounds = Rounds(executor, seed=report.seed, patience_time=_PATIENCE_TIME)  # type: ignore[arg-type]
        began = time.monotonic()
        rounds.start()
        monkey.start()
        while (now := time.monotonic()) < began + report.seconds:
            time.sleep(min(_TELL_INTERVAL, began + report.seconds - now))
            n_faults = sum(_injected(stage, monkey).values())
            passed = time.monotonic() - began
            tell(f"[{passed:4.0f} s] {rounds.n_done:,} of {rounds.n_calls:,} calls came back, {n_faults} faults so far")
        monkey.stop()
        report.injected = dict(_injected(stage, monkey).most_common())
        if not stage.place.instances():
            monkey.launch(1)  # who is to run what is left, if nobody lives
        rounds.finish()
        tell(f"calm again: {rounds.n_done:,} of {rounds.n_calls:,} calls came back")
    report.lost, report.hung = rounds.compare()
    report.n_jobs, report.n_calls, report.n_instances = len(rounds.told), rounds.n_calls, monkey.n_launched
    report.wrong = len(rounds.violations)
    report.violations += rounds.violations
    report.violations += [
        Violation("resolved", f"call {index} of {job} has no outcome") for job, index in rounds.pending
    ]
    _await_off(stage, spec.idle_timeout, tell)


def _injected(stage: _Stage, monkey: Monkey) -> Counter[str]:
    on_the_wire = stage.proxy.record.injected()
    return monkey.done + Counter({name: n for name, n in on_the_wire.items() if name not in BY_THE_HUNDRED})
