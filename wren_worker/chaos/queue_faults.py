"""Faults of SQS that its documentation allows and an emulator never shows: twice, late, in another order, in part.

Source: "Amazon SQS at-least-once delivery", "visibility timeout", and the API reference of the batch operations and of
DeleteMessage, read 2026-11.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from wren_worker.chaos.exchange import Exchange
from wren_worker.chaos.http import Request, Response
from wren_worker.chaos.observe import delivery_of, json_of

__all__ = ["DelayDelivery", "Duplicate", "Empty", "FailEntries", "GiveSpares", "Redeliver", "Reorder", "StaleHandles"]


def _rewritten(exchange: Exchange, content: dict[str, Any]) -> Request:
    request = exchange.subject.request
    return Request(request.method, request.path, request.headers, json.dumps(content).encode())


def _answer(response: Response, content: dict[str, Any]) -> Response:
    return Response(response.status, response.headers, json.dumps(content).encode())


def _said(content: dict[str, Any]) -> Response:
    return Response(200, {"content-type": "application/x-amz-json-1.0"}, json.dumps(content).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class FailEntries:
    """Refuse some entries of a batch; with ``applied`` they were done nevertheless."""

    code: str = "InternalError"
    sender_fault: bool = False
    share: float = 0.5
    applied: bool = False
    draw: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311

    @property
    def name(self) -> str:
        """Return its name."""
        return "part of a batch fails"

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        content = exchange.subject.content
        entries = content["Entries"]
        chosen = [one["Id"] for one in entries if self.draw.random() < self.share] or [entries[0]["Id"]]
        passed = entries if self.applied else [one for one in entries if one["Id"] not in chosen]
        told: dict[str, Any] = {"Successful": [], "Failed": []}
        if passed:
            response = await exchange.apply(_rewritten(exchange, {**content, "Entries": passed}))
            told = {"Successful": [], "Failed": [], **json_of(response)}
        told["Successful"] = [one for one in told["Successful"] if one["Id"] not in chosen]
        failed = {one["Id"] for one in told["Failed"]}
        text = {"Code": self.code, "SenderFault": self.sender_fault, "Message": "chaos"}
        told["Failed"] += [{"Id": one, **text} for one in chosen if one not in failed]
        if not self.applied:  # what was never asked of AWS is no handle that AWS accepted
            refused = {one.get("ReceiptHandle") for one in entries if one["Id"] in chosen}
            exchange.entry.handles = tuple(one for one in exchange.entry.handles if one not in refused)
        await exchange.answer(_said(told))


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """Deliver what is received here to another receiver too, as a first delivery there, with a handle of its own.

    Without ``to_another`` the same receiver may get it again.
    """

    to_another: bool = True

    @property
    def name(self) -> str:
        """Return its name."""
        return "duplicate delivery"

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        response = await exchange.apply()
        messages = json_of(response).get("Messages", ())
        if not messages:
            exchange.entry.injected = ""
        for message in messages:
            not_for = exchange.subject.caller if self.to_another else ""
            exchange.handles.keep_for_another(exchange.subject.key, not_for, message)
            exchange.record.note("duplicated", exchange.subject.caller, message["MessageId"])
        await exchange.answer(response)


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveSpares:
    """Answer a poll with copies that were kept for it; the proxy's own."""

    messages: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """Return its name."""
        return "duplicate delivery"

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        exchange.entry.deliveries = tuple(map(delivery_of, self.messages))
        exchange.entry.status = 200
        exchange.entry.applied, exchange.entry.applied_time = exchange.record.place(), exchange.entry.began_time
        await exchange.answer(_said({"Messages": self.messages}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Redeliver:
    """Make what is received here visible again at once, while its receiver believes that it holds it."""

    @property
    def name(self) -> str:
        """Return its name."""
        return "redelivery while held"

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        response = await exchange.apply()
        messages = json_of(response).get("Messages", ())
        if not messages:
            exchange.entry.injected = ""
        for message in messages:
            url = exchange.subject.content["QueueUrl"]
            content = {"QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 0}
            headers = exchange.subject.request.headers | {"x-amz-target": "AmazonSQS.ChangeMessageVisibility"}
            exchange.record.note("made visible", exchange.subject.caller, message["MessageId"])
            await exchange.aside(Request("POST", "/", headers, json.dumps(content).encode()))
        await exchange.answer(response)


@dataclass(frozen=True, slots=True, kw_only=True)
class Empty:
    """Answer a poll with nothing, whatever waits in the queue."""

    @property
    def name(self) -> str:
        """Return its name."""
        return "empty receive"

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        await exchange.answer(_said({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reorder:
    """Store the messages of a batch in another order than they were sent."""

    draw: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311

    @property
    def name(self) -> str:
        """Return its name."""
        return "reordering"

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        content = exchange.subject.content
        entries = list(content["Entries"])
        while len(entries) > 1 and entries == content["Entries"]:
            self.draw.shuffle(entries)
        response = await exchange.apply(_rewritten(exchange, {**content, "Entries": entries}))
        await exchange.answer(response)


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayDelivery:
    """Let messages of a batch become visible only after ``seconds``."""

    seconds: int = 3
    share: float = 0.5
    draw: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311

    @property
    def name(self) -> str:
        """Return its name."""
        return "delayed delivery"

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        content = exchange.subject.content
        if "Entries" not in content:
            late = {**content, "DelaySeconds": self.seconds}
        else:
            entries = [
                {**one, "DelaySeconds": self.seconds} if self.draw.random() < self.share else one
                for one in content["Entries"]
            ]
            late = {**content, "Entries": entries}
        await exchange.answer(await exchange.apply(_rewritten(exchange, late)))


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleHandles:
    """Treat handles of earlier deliveries as SQS does: a deletion is accepted and does nothing, a beat is refused."""

    @property
    def name(self) -> str:
        """Return its name."""
        return "stale handle"

    async def run(self, exchange: Exchange) -> None:
        """Do it."""
        subject, handles = exchange.subject, exchange.handles
        content = subject.content
        entries = content.get("Entries") or [content]
        stale = [one for one in entries if handles.is_stale(one.get("ReceiptHandle", ""))]
        if not stale:
            exchange.entry.injected = ""
            await exchange.pass_on()
            return
        told: dict[str, Any] = {"Successful": [], "Failed": []}
        fresh = [one for one in entries if one not in stale]
        if fresh and "Entries" in content:
            told |= json_of(await exchange.apply(_rewritten(exchange, {**content, "Entries": fresh})))
        exchange.entry.handles = tuple(one["ReceiptHandle"] for one in fresh)
        if "Entries" not in content:
            told = {}
        elif "Delete" in subject.operation:
            told["Successful"] += [{"Id": one["Id"]} for one in stale]
        else:
            text = {"Code": "MessageNotInflight", "SenderFault": True, "Message": "The message is not in flight."}
            told["Failed"] += [{"Id": one["Id"], **text} for one in stale]
        await exchange.answer(_said(told))
