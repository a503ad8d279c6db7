"""Faults of the wire: answers that are lost, late, cut, wrong or never come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate

from wren_worker.chaos.exchange import Exchange, Fault
from wren_worker.chaos.http import Cut, Response
from wren_worker.chaos.refusals import refusal

__all__ = ["BlackHole", "Delay", "Drop", "HalfOpen", "Meanwhile", "Named", "Refuse", "SkewDate", "SlowBody", "Truncate"]

#: Until the loop has heard that a process was killed just now.
_GONE_TIME = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Close the connection instead of answering: after AWS did it (the most telling fault of all), or before.

    ``reset`` closes it as a machine does that was restarted, not as one that says goodbye.
    """

    applied: bool = True
    reset: bool = False

    @property
    def name(self) -> str:
        """Return its name."""
        return "applied, answer lost" if self.applied else "request lost"

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        if self.applied:
            await exchange.apply()
        exchange.hang_up(reset=self.reset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Answer with an error; with ``applied`` AWS did it nevertheless, as an InternalError leaves open."""

    code: str
    status: int = 0
    applied: bool = False

    @property
    def name(self) -> str:
        """Return its name."""
        return f"{self.code}, yet applied" if self.applied else self.code

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        if self.applied:
            await exchange.apply()
        await exchange.answer(refusal(exchange.subject, self.code, status=self.status))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlackHole:
    """Take the request and never answer; the connection stays open for ``seconds``, or until the caller gives up."""

    seconds: float = 120.0
    applied: bool = False

    @property
    def name(self) -> str:
        """Return its name."""
        return "black hole"

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        if self.applied:
            await exchange.apply()
        await exchange.wait(self.seconds)
        exchange.hang_up()


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfOpen:
    """Answer, then forget the connection without closing it: the next request on it goes nowhere."""

    seconds: float = 120.0

    @property
    def name(self) -> str:
        """Return its name."""
        return "half-open connection"

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        await exchange.pass_on()
        await exchange.wait(self.seconds)
        exchange.hang_up()


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate:
    """Announce the whole body, send a part of it, and close."""

    part: float = 0.5

    @property
    def name(self) -> str:
        """Return its name."""
        return "truncated body"

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        response = await exchange.apply()
        n_bytes = int(len(response.body) * self.part)
        await exchange.write(response.head() + response.body[:n_bytes])
        exchange.hang_up()


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowBody:
    """Answer in ten pieces over ``seconds``."""

    seconds: float = 2.0

    @property
    def name(self) -> str:
        """Return its name."""
        return "slow body"

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        response = await exchange.apply()
        data = response.head() + response.body
        step = max(1, -(-len(data) // 10))
        for start in range(0, len(data), step):
            if not await exchange.wait(self.seconds / 10):
                break
            await exchange.write(data[start : start + step])
        exchange.entry.told, exchange.entry.told_bytes = response.status, len(response.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """Wait before AWS gets the request, or before the caller gets the answer."""

    seconds: float
    applied: bool = False

    @property
    def name(self) -> str:
        """Return its name."""
        return "late answer" if self.applied else "late request"

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        response: Response | None = await exchange.apply() if self.applied else None
        await exchange.wait(self.seconds)
        await exchange.answer(response or await exchange.apply())


@dataclass(frozen=True, slots=True, kw_only=True)
class SkewDate:
    """Answer as a server whose clock is ``seconds`` ahead of this machine's."""

    seconds: float

    @property
    def name(self) -> str:
        """Return its name."""
        return "skewed Date"

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        response = await exchange.apply()
        response.headers["date"] = formatdate(time.time() + self.seconds, usegmt=True)
        await exchange.answer(response)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meanwhile:
    """Do something to the caller, named by its instance id, at the moment of its request; then go on if it lives.

    Args:
        what: What it is called in the record.
        act: Called in a thread of its own; the request waits for it.
        applied: Whether AWS has done it by then.
    """

    what: str
    act: Callable[[str], object]
    applied: bool = True

    @property
    def name(self) -> str:
        """Return its name."""
        return self.what

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        response = await exchange.apply() if self.applied else None
        await asyncio.get_running_loop().run_in_executor(None, self.act, exchange.subject.caller)
        if response is None:
            if not await exchange.wait(_GONE_TIME):
                raise Cut("the caller died before its request was done")
            response = await exchange.apply()
        await exchange.answer(response)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A fault under another name: one of the many requests that one larger misfortune hits."""

    fault: Fault
    name: str

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        await self.fault.run(exchange)
