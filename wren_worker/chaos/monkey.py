"""Carries the plan out, and keeps instances coming: what dies is replaced, as a user's elastic executor would."""

from __future__ import annotations

import secrets
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from wren_worker.chaos.faults import BlackHole, Meanwhile, Named, Refuse
from wren_worker.chaos.place import Place
from wren_worker.chaos.plan import DEEDS, Strike
from wren_worker.chaos.script import Rule
from wren_worker.chaos.violations import Violation
from wren_worker.chaos.wire import rules_for
from wren_worker.errors import WrenError
from wren_worker.fleet.launch import launch
from wren_worker.fleet.spec import Launch
from wren_worker.wiring.operator import Operator

__all__ = ["BY_THE_HUNDRED", "Monkey"]

#: Names of faults that hit many requests for one strike of the plan; the strike is what counts.
BY_THE_HUNDRED = frozenset(("cut off", "throttled with everybody"))
_AT = {
    "kill daemon at its PUT": ("s3.PutObject", "results/*"),
    "kill daemon at its notice": ("sqs.SendMessage*", "*"),
    "kill daemon at its delete": ("sqs.DeleteMessage*", "*"),
    "kill daemon at its receive": ("sqs.ReceiveMessage", "*"),
}
_YOUNG_TIME = 1.5
_TEND_INTERVAL = 0.5


class Monkey:
    """Two threads from ``start`` to ``stop``: one strikes, one launches.

    Args:
        place: What it strikes.
        operator: Launches.
        spec: What to launch; ``n_wanted`` are kept alive.
        strikes: The plan.
        hang_time: Seconds after which an instance whose daemon hangs must be off.
    """

    def __init__(
        self, place: Place, operator: Operator, spec: Launch, strikes: Sequence[Strike], *, hang_time: float
    ) -> None:
        self._place = place
        self._operator = operator
        self._spec = spec
        self._strikes = strikes
        self._hang_time = hang_time
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name="chaos-monkey", daemon=True)
            for work in (self._strike, self._tend)
        ]
        self.done: Counter[str] = Counter()
        self.n_launched = 0

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Strike and launch no more, and let every request pass."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)
        self._place.proxy.script.clear()

    def launch(self, count: int) -> None:
        """Start instances."""
        spec = replace(self._spec, count=count, max_count=count)
        names = self._operator.names
        report = launch(
            self._operator.machines, spec, names, python=self._operator.python, launch_id=secrets.token_hex(8)
        )
        self.n_launched += len(report.instance_ids)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001 - a monkey that died would make everything look well
            self._place.violations.append(Violation("the kit itself", traceback.format_exc()))

    def _tend(self) -> None:
        while not self._stopping.wait(_TEND_INTERVAL):
            missing = self._spec.n_wanted - len(self._place.instances())
            if missing > 0:
                try:
                    self.launch(missing)
                except WrenError:
                    continue  # the next look is soon

    def _strike(self) -> None:
        began = time.monotonic()
        for strike in self._strikes:
            if self._stopping.wait(max(0.0, began + strike.at_time - time.monotonic())):
                return
            if strike.kind not in DEEDS:
                for rule in rules_for(strike.kind, strike.draw):
                    self._place.proxy.script.add(rule)
            elif strike.kind in _AT:
                self._strike_at(strike)
            elif self._do(strike):
                self.done[strike.kind] += 1

    def _strike_at(self, strike: Strike) -> None:
        operation, key = _AT[strike.kind]
        fault = Meanwhile(what=strike.kind, act=self._place.kill_daemon, applied=strike.draw < 0.6)
        rule = Rule(fault=fault, operation=operation, key=key, caller="i-*", limit=1)
        self._place.proxy.script.add(rule)

    def _do(self, strike: Strike) -> bool:
        """Strike whom the draw says, or the next whom it can strike; return whether there was one."""
        ids = self._place.instances(min_up_time=_YOUNG_TIME)
        first = int(strike.draw * len(ids))
        return any(self._do_to(strike, one) for one in ids[first:] + ids[:first])

    def _do_to(self, strike: Strike, one: str) -> bool:  # noqa: PLR0911 - one line per kind
        place, draw = self._place, strike.draw
        match strike.kind:
            case "kill daemon":
                return place.kill_daemon(one)
            case "kill slot":
                return place.kill_child(one)
            case "kill keeper":
                return place.kill_keeper(one)
            case "kill supervisord":
                return place.kill_supervisord(one)
            case "freeze daemon":
                # shorter than a lease, or longer: then somebody else has the chunk
                return place.freeze(one, "daemon", 0.5 + 1.3 * self._spec.lease_time * draw)
            case "freeze slot":
                return place.freeze(one, "slot", 0.5 + 2 * draw)
            case "hang daemon":
                return place.hang(one, self._hang_time)
            case "crash instance":
                return place.crash(one)
            case "interrupt spot":
                return place.interrupt(one, notice_time=1.0 + 5 * draw)
            case "cut off instance":
                return self._for_a_while(one, 1.0 + 1.5 * self._spec.lease_time * draw)
            case "throttle everybody":
                return self._for_a_while("", 1.0 + 3 * draw)
        return False

    def _for_a_while(self, one: str, seconds: float) -> bool:
        """Cut an instance off from AWS, or throttle half of everybody's requests."""
        script, record = self._place.proxy.script, self._place.proxy.record
        if one:
            record.note("cut off", one, f"{seconds:.1f} s")
            rule = Rule(fault=Named(fault=BlackHole(seconds=seconds), name="cut off"), caller=one)
        else:
            record.note("storm", detail=f"{seconds:.1f} s")
            fault = Named(fault=Refuse(code="RequestThrottled"), name="throttled with everybody")
            rule = Rule(fault=fault, operation="s[3q]*", share=0.5)
        script.add(rule, first=True)
        self._stopping.wait(seconds)
        script.remove(rule)
        return True
