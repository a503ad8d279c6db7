"""Starts instances for a client's calls while there are calls, and stops when that leads nowhere.

What lives is asked of EC2, how much is left is told by the client. The rate of launches is bounded, the number of
instances too, and three launches without one finished call are the last: something is wrong that money does not mend.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wren_worker.clock import Clock
from wren_worker.errors import FleetError, WrenError
from wren_worker.fleet.drain import DRAIN_TAG, drain
from wren_worker.fleet.reap import Action, Sight
from wren_worker.fleet.spec import Launch
from wren_worker.protocol.ports import InstanceInfo, LaunchReport, Machines

__all__ = ["ElasticFleet", "Pace", "instances_wanted"]

#: Between two looks at EC2 while calls are pending.
_LOOK_INTERVAL = 5.0
#: The least between two launches; doubles while no call finishes.
_LAUNCH_INTERVAL, _LONGEST_LAUNCH_INTERVAL = 10.0, 300.0
#: So many launches without one finished call, and no more are made.
_FRUITLESS = 3
#: What instances do in so many seconds is not worth another one: booting takes half a minute, and a minute is billed.
_WORTH_TIME = 60.0
#: EC2 lists a new instance within seconds; one that it does not list after so many is not there.
_LISTING_TIME = 60.0
#: Overdue instances are ended at the second sight, five minutes after the first.
_REAP_INTERVAL = 310.0
_ALIVE = ("pending", "running")


def instances_wanted(
    *, n_pending_calls: int, slots: int, n_most: int, call_rate: float | None, worth_time: float = _WORTH_TIME
) -> int:
    """Return how many instances the calls deserve. Pure.

    Args:
        n_pending_calls: Calls without outcome.
        slots: Of one instance.
        n_most: The bound.
        call_rate: Calls a second that one instance finishes, None while that is not known.
        worth_time: What one instance does in so many seconds is not worth a second one.
    """
    if n_pending_calls <= 0:
        return 0
    wanted = math.ceil(n_pending_calls / max(1, slots))
    if call_rate:
        wanted = min(wanted, math.ceil(n_pending_calls / (call_rate * worth_time)))
    return max(1, min(wanted, n_most))


@dataclass(slots=True, kw_only=True)
class Pace:
    """When the next launch may be, and whether there may be one. Times on one monotonic clock."""

    next_time: float = 0.0
    interval: float = _LAUNCH_INTERVAL
    n_fruitless: int = 0
    n_finished: int = 0

    def finished(self, n_finished_calls: int) -> None:
        """Take note of how many calls have finished: work gets done, so launches are worth their money."""
        if n_finished_calls > self.n_finished:
            self.n_finished = n_finished_calls
            self.n_fruitless, self.interval = 0, _LAUNCH_INTERVAL

    def launched(self, now: float, *, fruitless: bool, short: bool) -> None:
        """Take note of a launch that was made or tried.

        Args:
            now: The time.
            fruitless: Unless it only adds to what lives.
            short: Whether EC2 had not all that was asked for.
        """
        self.n_fruitless += fruitless
        self.next_time = now + self.interval
        if fruitless or short:
            self.interval = min(self.interval * 2, _LONGEST_LAUNCH_INTERVAL)


class ElasticFleet:
    """Fills ``ports.Elastic``. ``ensure`` is called by one thread of the client; ``close`` by another, later.

    Args:
        machines: EC2.
        spec: What to start; ``max_count`` bounds how many live at once, whoever started them.
        fleet: The fleet's name.
        python: The Python minor that takes the client's calls.
        launch: Starts so many instances.
        slots: Returns the calls that one instance runs at a time; asked once.
        clock: The machine's clock.
        tell: Takes a line for people: money is spent, so this is never silent.
        reap: Ends instances that should have ended themselves; one that hangs would count as alive for ever.
        drain_at_close: Whether ``close`` drains what was started.
    """

    def __init__(
        self,
        machines: Machines,
        spec: Launch,
        *,
        fleet: str,
        python: str,
        launch: Callable[[int], LaunchReport],
        slots: Callable[[], int],
        clock: Clock,
        tell: Callable[[str], None],
        reap: Callable[[], Sequence[Sight]] = tuple,
        drain_at_close: bool = False,
    ) -> None:
        self._machines = machines
        self._spec = spec
        self._fleet = fleet
        self._python = python
        self._launch = launch
        self._ask_slots = slots
        self._clock = clock
        self._tell = tell
        self._reap = reap
        self._next_reap_time = clock.monotonic() + _REAP_INTERVAL
        self._drain_at_close = drain_at_close
        self._slots: int | None = None
        self._started: dict[str, float] = {}  # instance id -> when, for the drain and for what EC2 does not list yet
        self._last: tuple[str, ...] = ()  # the instances of the last launch
        self._pace = Pace()
        self._rate_since: tuple[float, int, int] | None = None  # time, calls finished by then, instances
        self._call_rate: float | None = None
        self._said = ""
        self._lock = threading.Lock()
        self._closed = False

    def ensure(self, *, n_pending_calls: int, n_finished_calls: int) -> float:
        """Start what is missing, if it is time; return seconds until to ask again.

        Raises:
            FleetError: Nothing runs, and nothing more will be started.
        """
        with self._lock:
            if self._closed or n_pending_calls <= 0:
                self._rate_since = None
                return _LOOK_INTERVAL
            self._pace.finished(n_finished_calls)
            now = self._clock.monotonic()
            try:
                self._look_for_overdue(now)
                alive = self._alive()
            except FleetError as error:
                self._say(f"the fleet's instances cannot be listed, trying again: {error}")
                return _LOOK_INTERVAL
            self._learn(now, n_finished_calls, len(alive))
            return self._fill(now, alive, n_pending_calls)

    def _fill(self, now: float, alive: Sequence[InstanceInfo], n_pending_calls: int) -> float:
        try:
            wanted = instances_wanted(
                n_pending_calls=n_pending_calls,
                slots=self._slots_each(),
                n_most=self._spec.n_most,
                call_rate=self._call_rate,
            )
        except FleetError as error:  # a type that does not exist, and the like
            self._stop(alive, str(error), error)
            return _LOOK_INTERVAL
        n_missing = wanted - len(alive)
        if n_missing <= 0:
            return _LOOK_INTERVAL
        if self._pace.n_fruitless >= _FRUITLESS:
            self._stop(
                alive,
                f"{_FRUITLESS} launches brought not one finished call, so no more are made. "
                "`wren-standalone doctor` and `wren-standalone logs --stream boot` say more",
                None,
            )
            return _LOOK_INTERVAL
        if now < self._pace.next_time:
            return min(_LOOK_INTERVAL, self._pace.next_time - now)
        self._start(n_missing, alive)
        return min(_LOOK_INTERVAL, max(0.5, self._pace.next_time - self._clock.monotonic()))

    def _start(self, n_missing: int, alive: Sequence[InstanceInfo]) -> None:
        again = " again: none lives" if self._started and not alive else ""
        try:
            report = self._launch(n_missing)
        except FleetError as error:
            self._pace.launched(self._clock.monotonic(), fruitless=False, short=True)
            if getattr(error, "retryable", False):
                self._say(f"{error} Trying again in {self._pace.next_time - self._clock.monotonic():.0f} s.")
                return
            self._stop(alive, str(error), error)
            return
        ids = report.instance_ids
        now = self._clock.monotonic()
        # adding to a launch that lives is growth; only one that comes after a loss may be money for nothing again
        lost = not {info.instance_id for info in alive}.issuperset(self._last)
        self._pace.launched(now, fruitless=lost or not self._last, short=len(ids) < n_missing)
        self._started |= dict.fromkeys(ids, now)
        self._last = ids
        self._rate_since = None
        text = f"started {len(ids)} of {n_missing} instances{again}: {' '.join(ids)}"
        for code, why in report.shortfalls:
            text += f"; not started: {why} ({code})"
        self._say(f"{text}. {report.mend}" if report.mend else text)

    def _stop(self, alive: Sequence[InstanceInfo], why: str, cause: FleetError | None) -> None:
        """Say why nothing more is started; fail the calls when nothing else can run them either."""
        if alive:
            self._say(f"no more instances are started: {why}; {len(alive)} live")
            return
        facts = {name: value for name, value in vars(cause).items() if name != "message"} if cause else {}
        facts["started"] = tuple(self._started)
        raise FleetError(
            f"No instance runs in fleet '{self._fleet}', and none is started any more: {why.rstrip('.')}. The calls "
            "stay in the queue: once instances run (`wren-standalone launch`), wren.attach(job_id) brings results.",
            **facts,
        ) from cause

    def _alive(self) -> list[InstanceInfo]:
        """Return the instances that take the client's calls, or will. EC2 may not list a new one for a moment."""
        found = self._machines.instances(self._fleet, alive_only=False)
        known = {info.instance_id for info in found}
        alive = [
            info
            for info in found
            if info.state in _ALIVE and info.tags.get("wren:python") == self._python and DRAIN_TAG not in info.tags
        ]
        fresh = self._clock.monotonic() - _LISTING_TIME
        return alive + [_unlisted(one) for one, when in self._started.items() if one not in known and when > fresh]

    def _look_for_overdue(self, now: float) -> None:
        if now < self._next_reap_time:
            return
        self._next_reap_time = now + _REAP_INTERVAL
        for sight in self._reap():
            if sight.action in (Action.END, Action.FAILED):
                self._say(f"overdue: {sight.instance_id}, {sight.reason}: {sight.action.value} {sight.detail}".rstrip())

    def _learn(self, now: float, n_finished: int, n_alive: int) -> None:
        """Learn how many calls one instance finishes in a second, while their number stays the same."""
        since = self._rate_since
        if since is None or since[2] != n_alive or not n_alive:
            self._rate_since = (now, n_finished, n_alive)
            return
        passed, done = now - since[0], n_finished - since[1]
        if passed < _LOOK_INTERVAL:
            return
        if done:
            self._call_rate = done / passed / n_alive
        elif self._call_rate:  # what was learnt of shorter calls: these take so long at least
            self._call_rate = min(self._call_rate, 1 / passed / n_alive)

    def _slots_each(self) -> int:
        if self._slots is None:
            self._slots = max(1, self._ask_slots())
        return self._slots

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._tell(text)

    def close(self) -> None:
        """Start nothing any more; drain what was started, if that was asked for."""
        with self._lock:  # waits for a launch under way: what it starts is drained too
            if self._closed:
                return
            self._closed = True
            if not (self._drain_at_close and self._started):
                return
            try:
                gone = self._gone()
                leaving = [one for one in self._started if one not in gone]
                failed = drain(self._machines, leaving, timestamp=self._clock.timestamp()) if leaving else {}
            except WrenError as error:
                self._tell(f"what was started could not be drained, and leaves when idle: {error}")
                return
            self._tell(f"{len(leaving) - len(failed)} instances finish what they hold, and leave")
            for instance_id, reason in failed.items():
                self._tell(f"{instance_id} could not be drained, and leaves when idle: {reason}")

    def _gone(self) -> set[str]:
        found = self._machines.instances(self._fleet, alive_only=False)
        return {info.instance_id for info in found if info.state not in _ALIVE}


def _unlisted(instance_id: str) -> InstanceInfo:
    return InstanceInfo(instance_id=instance_id, instance_type="", state="pending", launch_timestamp=0.0)
