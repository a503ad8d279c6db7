"""Which requests go wrong, and how: rules that draw from a seed, and barriers that hold a request up."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import TracebackType

from wren_worker.chaos.exchange import Exchange, Fault
from wren_worker.chaos.http import Cut, Response
from wren_worker.chaos.record import Entry
from wren_worker.chaos.subject import Subject

__all__ = ["Barrier", "Rule", "Script"]

#: Until the loop has heard that a process was killed just now.
_GONE_TIME = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A fault for some requests.

    Args:
        fault: What goes wrong.
        operation: Pattern of "sqs.ReceiveMessage" and the like.
        key: Pattern of the queue's name, or the object's key.
        caller: Pattern of an instance id, or "client".
        where: A condition besides.
        nth: Only the n-th that matches (from 1); 0 for any.
        share: Of those that match, drawn from the script's seed.
        limit: How often at most.
    """

    fault: Fault
    operation: str = "*"
    key: str = "*"
    caller: str = "*"
    where: Callable[[Subject], bool] | None = None
    nth: int = 0
    share: float = 1.0
    limit: int | None = None

    def matches(self, subject: Subject) -> bool:
        """Return whether it is about such a request."""
        return (
            fnmatchcase(subject.operation, self.operation)
            and fnmatchcase(subject.key, self.key)
            and fnmatchcase(subject.caller, self.caller)
            and (self.where is None or self.where(subject))
        )


@dataclass(slots=True)
class _Active:
    rule: Rule
    draw: random.Random
    n_matched: int = 0
    n_done: int = 0


class Script:
    """The rules in force; changed from any thread.

    Each rule draws from a generator of its own, so that what one does never depends on another.
    """

    def __init__(self, rules: Iterable[Rule] = (), *, seed: int = 0) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._n_rules = 0
        self._active: list[_Active] = []
        for rule in rules:
            self.add(rule)

    def add(self, rule: Rule, *, first: bool = False) -> None:
        """Put a rule in force, after those that are, or before them."""
        with self._lock:
            self._n_rules += 1
            # an int, and not a tuple's hash, which differs from process to process
            draw = random.Random(self._seed * 1_000_003 + self._n_rules)  # noqa: S311
            self._active.insert(0 if first else len(self._active), _Active(rule, draw))

    def remove(self, rule: Rule) -> None:
        """Take a rule out of force."""
        with self._lock:
            self._active = [active for active in self._active if active.rule is not rule]

    def clear(self) -> None:
        """Let nothing go wrong from here on."""
        with self._lock:
            self._active.clear()

    def fault_for(self, subject: Subject) -> Fault | None:
        """Return what goes wrong with a request: the first rule's that wants it."""
        with self._lock:
            for active in self._active:
                rule = active.rule
                if not rule.matches(subject):
                    continue
                active.n_matched += 1
                wanted = active.draw.random() < rule.share and rule.nth in (0, active.n_matched)
                if wanted and (rule.limit is None or active.n_done < rule.limit):
                    active.n_done += 1
                    return rule.fault
        return None


class Barrier:
    """Holds one request up until ``go``, so that a test can do something at that very moment. A context manager.

    ``after``: AWS has done it, and its answer is held back. Else AWS has not seen it, and never will if the caller is
    gone by then.
    """

    def __init__(self, *, after: bool) -> None:
        self._after = after
        self._reached = threading.Event()
        self._go = threading.Event()
        self.entry: Entry | None = None

    @property
    def name(self) -> str:
        """Return its name; a barrier is no fault."""
        return ""

    def wait(self, timeout: float = 30.0) -> Entry:
        """Wait for the request.

        Raises:
            TimeoutError: It did not come.
        """
        if not self._reached.wait(timeout) or self.entry is None:
            raise TimeoutError(f"no request reached the barrier within {timeout:g} s")
        return self.entry

    def go(self) -> None:
        """Let the request go on."""
        self._go.set()

    async def run(self, exchange: Exchange) -> None:
        """Hold the request up."""
        response: Response | None = await exchange.apply() if self._after else None
        self.entry = exchange.entry
        self._reached.set()
        while not self._go.is_set():
            await asyncio.sleep(0.01)
        if response is None:
            await asyncio.sleep(_GONE_TIME)
            if exchange.gone.is_set():
                raise Cut("the caller died at the barrier")
            response = await exchange.apply()
        await exchange.answer(response)

    def __enter__(self) -> Barrier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go()
