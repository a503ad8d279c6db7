"""Answers "why is nothing running?": looks at everything a call needs, one finding a line, each with its mend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from wren_worker.config import Names
from wren_worker.errors import WrenError
from wren_worker.fleet.breaker import console_tail, reported
from wren_worker.fleet.images import choose_image
from wren_worker.fleet.reap import judge
from wren_worker.fleet.roster import Row, roster
from wren_worker.fleet.setup import PYTHONS, plan
from wren_worker.protocol.ports import InstanceInfo, Machines, ObjectStore, QueueDepth
from wren_worker.protocol.provision import Probes, Provisioner

__all__ = ["Doctor", "Finding", "Verdict"]

#: A boot takes half a minute with an image of your own, some minutes with a stock one.
_LONG_BOOT = 300.0
#: The least that a fleet is of use with: one c5.large.
_LEAST_VCPUS = 2
_BLAMELESS = ("Client.UserInitiated", "Server.Spot")
#: What a launch finds out by itself.
_ASIDE = ("service roles", "quota")
_ROLE_MEND = (
    "nothing to do if you may create it: the first launch does. Else somebody who may runs: "
    "aws iam create-service-linked-role --aws-service-name {}.amazonaws.com"
)


class Verdict(Enum):
    """What a finding is."""

    OK = "ok"
    NOTE = "note"  # worth knowing, stops nothing by itself
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one look found; ``mend`` is what to do, ``detail`` lines to show below (a console's end)."""

    check: str
    verdict: Verdict
    text: str
    mend: str = ""
    detail: str = ""


def _ok(check: str, text: str) -> Finding:
    return Finding(check=check, verdict=Verdict.OK, text=text)


def _note(check: str, text: str, mend: str = "") -> Finding:
    return Finding(check=check, verdict=Verdict.NOTE, text=text, mend=mend)


def _problem(check: str, text: str, mend: str, detail: str = "") -> Finding:
    return Finding(check=check, verdict=Verdict.PROBLEM, text=text, mend=mend, detail=detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doctor:
    """One fleet under examination. Nothing is changed.

    ``depth`` gives the depth of a queue by its name; ``timestamp`` is now.
    """

    names: Names
    python: str
    machines: Machines
    store: ObjectStore
    provisioner: Provisioner
    probes: Probes
    depth: Callable[[str], QueueDepth]
    timestamp: float

    def examine(self) -> Iterator[Finding]:
        """Yield the findings, in the order in which a first launch would stumble."""
        looks: Mapping[str, Callable[[], Iterator[Finding]]] = {
            "credentials": self._credentials,
            "setup": self._setup,
            "profile": self._profile,
            "image": self._image,
            "network": self._network,
            "service roles": self._service_roles,
            "quota": self._quota,
            "queue": self._queue,
            "instances": self._instances,
            "boots": self._boots,
        }
        for check, look in looks.items():
            try:
                yield from look()
            except WrenError as error:
                # looking may be denied, or not offered in a region, and all the rest work
                make = _note if check in _ASIDE or getattr(error, "denied", False) else _problem
                yield make(check, f"could not be looked at: {error}", "")

    def _credentials(self) -> Iterator[Finding]:
        yield _ok("credentials", f"{self.probes.identity()}, region {self.names.region}")

    def _setup(self) -> Iterator[Finding]:
        resources = plan(self.names, (self.python,))
        missing = [one for one in resources if not self.provisioner.exists(one)]
        if missing:
            named = ", ".join(f"{one.kind.value} {one.name}" for one in missing)
            yield _problem("setup", f"missing: {named}", f"{self._command('setup')}")
        else:
            yield _ok("setup", f"all {len(resources)} resources of fleet '{self.names.fleet}' are there")

    def _profile(self) -> Iterator[Finding]:
        name = self.names.instance_role
        if self.probes.profile_roles(name):
            yield _ok("profile", f"instances take the role {name}")
        else:
            yield _problem("profile", f"the instance profile {name} holds no role", self._command("setup"))

    def _image(self) -> Iterator[Finding]:
        image = choose_image(self.machines, self.python)
        if image.stock:
            mend = f"{self._command('image build')} bakes one that boots in half a minute"
            yield _note("image", f"{image.what}: boots take minutes", mend)
        else:
            yield _ok("image", image.what)

    def _network(self) -> Iterator[Finding]:
        yield _ok("network", self.probes.network())

    def _service_roles(self) -> Iterator[Finding]:
        missing = [one for one in ("ec2fleet", "spot") if not self.probes.service_role(one)]
        for one in missing:
            yield _note(
                "service roles", f"EC2 has no role of its own for {one} in this account yet", _ROLE_MEND.format(one)
            )
        if not missing:
            yield _ok("service roles", "EC2's own roles for fleets and spot are there")

    def _quota(self) -> Iterator[Finding]:
        for spot in (False, True):
            quota = self.probes.vcpu_quota(spot=spot)
            kind = "spot" if spot else "on demand"
            code = "L-34B43A08" if spot else "L-1216C47A"
            ask = (
                f"aws service-quotas request-service-quota-increase --service-code ec2 --quota-code {code} "
                f"--region {self.names.region} --desired-value 64"
            )
            if quota < _LEAST_VCPUS:
                make = _note if spot else _problem
                yield make("quota", f"{kind}: {quota:.0f} vCPUs at once, which starts nothing", ask)
            elif quota < 16:
                yield _note("quota", f"{kind}: {quota:.0f} vCPUs at once, {quota / 4:.0f} c5.xlarge", ask)
            else:
                yield _ok("quota", f"{kind}: {quota:.0f} vCPUs at once")

    def _queue(self) -> Iterator[Finding]:
        depth = self.depth(self.names.task_queue(self.python))
        yield _ok("queue", f"{depth.visible} messages wait, {depth.in_flight} are held")
        dead = self.depth(self.names.dead_letter_queue(self.python))
        if dead.visible:
            yield _problem(
                "queue",
                f"{dead.visible} messages were never accepted by an instance: another version, or not of this fleet",
                "use one version of wren-worker here and on the instances (launch new ones), then run the job again",
            )
        for python in PYTHONS:
            if python == self.python:
                continue
            try:
                other = self.depth(self.names.task_queue(python))
            except WrenError:
                continue  # this fleet has no queue for it
            if other.visible:
                mend = f"only instances launched from Python {python} take them"
                yield _note("queue", f"{other.visible} messages wait for Python {python}", mend)

    def _instances(self) -> Iterator[Finding]:
        found = self.machines.instances(self.names.fleet)
        rows = roster(self.machines, self.store, self.names.fleet, timestamp=self.timestamp)
        ours = [row for row in rows if row.python == self.python]
        waiting = self.depth(self.names.task_queue(self.python)).visible
        if not ours:
            others = sorted({row.python or "?" for row in rows})
            text = f"none runs Python {self.python}" + (f"; {len(rows)} run {', '.join(others)}" if rows else "")
            make = _problem if waiting else _note
            yield make("instances", text, self._command("launch --count 2 --type c5.xlarge"))
        else:
            yield _ok("instances", ", ".join(f"{n} {doing}" for doing, n in _counted(ours).items()))
        for row in ours:
            yield from self._ailing(row)
        states = reported(self.store)
        for info in found:
            reason = judge(info, states.get(info.instance_id), known=True, timestamp=self.timestamp)
            if reason:
                mend = (
                    f"{self._command('reap')}, twice within a day, or {self._command(f'terminate {info.instance_id}')}"
                )
                yield _problem("instances", f"{info.instance_id}: {reason}", mend, self._console(info.instance_id))

    def _ailing(self, row: Row) -> Iterator[Finding]:
        if row.doing in ("booting", "pending", "starting") and row.age > _LONG_BOOT:
            mend = "the console below may say why; at its boot timeout it ends itself"
            text = f"{row.instance_id} has been booting for {row.age:.0f} s"
            yield _problem("instances", text, mend, self._console(row.instance_id))
        if row.last_error:
            mend = self._command(f"logs --instance {row.instance_id} --stream daemon")
            yield _problem("instances", f"{row.instance_id} says: {row.last_error}", mend)

    def _boots(self) -> Iterator[Finding]:
        states = reported(self.store)
        failed = [info for info in self.machines.instances(self.names.fleet, alive_only=False) if _died(info, states)]
        if not failed:
            yield _ok("boots", "nothing ended before it reported, as far back as EC2 shows")
            return
        last = max(failed, key=lambda info: info.launch_timestamp)
        reasons = ", ".join(dict.fromkeys(info.state_reason_code or "no reason given" for info in failed))
        yield _problem(
            "boots",
            f"{len(failed)} instances ended before their daemon reported ({reasons}); the last is {last.instance_id}",
            f"mend what the console below complains of; {self._command('logs --stream boot')} may say more",
            self._console(last.instance_id),
        )

    def _console(self, instance_id: str) -> str:
        return console_tail(self.machines, instance_id)

    def _command(self, rest: str) -> str:
        option = "" if self.names.fleet == "default" else f"--fleet {self.names.fleet} "
        return f"wren-standalone {option}{rest}"


def _died(info: InstanceInfo, states: Mapping[str, float]) -> bool:
    return (
        info.state == "terminated"
        and info.instance_id not in states
        and not info.state_reason_code.startswith(_BLAMELESS)
    )


def _counted(rows: Sequence[Row]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        doing = "busy" if row.jobs else row.doing
        found[doing] = found.get(doing, 0) + 1
    return found
