"""One request on its way: what a fault may do with it. Runs in the proxy's loop."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from wren_worker.chaos.handles import Handles
from wren_worker.chaos.http import Cut, Request, Response
from wren_worker.chaos.observe import observe_answer
from wren_worker.chaos.record import Entry, Record
from wren_worker.chaos.subject import Subject

__all__ = ["Exchange", "Fault"]


class Fault(Protocol):
    """What goes wrong with one request."""

    @property
    def name(self) -> str:
        """Return what it is called in the record and in the summary."""
        ...

    async def run(self, exchange: Exchange) -> None:
        """Do it instead of ``exchange.pass_on()``."""
        ...


class Exchange:
    """A request, the way to AWS and the way back.

    Args:
        subject: The request.
        entry: Its line in the record.
        record: The record, for places in the order.
        handles: What the proxy knows of receipt handles.
        forward: Sends a request to AWS.
        writer: The way back.
        gone: Set when the caller closed the connection or died.
    """

    def __init__(
        self,
        subject: Subject,
        entry: Entry,
        *,
        record: Record,
        handles: Handles,
        forward: Callable[[Request, asyncio.Event], Awaitable[Response]],
        writer: asyncio.StreamWriter,
        gone: asyncio.Event,
    ) -> None:
        self.subject = subject
        self.entry = entry
        self.record = record
        self.handles = handles
        self.gone = gone
        self.silent = False  # nothing is ever read from or written to this connection again
        self._forward = forward
        self._writer = writer

    async def pass_on(self) -> None:
        """Do what happens when nothing goes wrong."""
        await self.answer(await self.apply())

    async def apply(self, request: Request | None = None) -> Response:
        """Have AWS do it, once; return AWS's answer.

        Raises:
            Cut: There was none, or the caller left meanwhile.
        """
        response = await self._forward(self.handles.real(self.subject, request or self.subject.request), self.gone)
        self.entry.applied, self.entry.applied_time = self.record.place(), time.monotonic()
        observe_answer(self.entry, self.subject, response)
        self.handles.learn(self.entry)
        return response

    async def aside(self, request: Request) -> Response:
        """Ask AWS something that the caller did not; it is not in the record."""
        return await self._forward(request, asyncio.Event())

    async def answer(self, response: Response) -> None:
        """Tell the caller.

        Raises:
            Cut: The caller is gone.
        """
        await self.write(response.head() + response.body)
        self.entry.told, self.entry.told_bytes = response.status, len(response.body)

    async def write(self, data: bytes) -> None:
        """Send bytes as they are.

        Raises:
            Cut: The caller is gone.
        """
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise Cut("the caller is gone") from error

    def hang_up(self, *, reset: bool = False) -> None:
        """Close the connection, with a FIN or as a machine would that was restarted."""
        if reset:
            connection = self._writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort() if reset else self._writer.close()
        self.silent = True

    async def wait(self, seconds: float) -> bool:
        """Wait, but not for a caller that is gone; return whether it is there still."""
        try:
            await asyncio.wait_for(self.gone.wait(), seconds)
        except TimeoutError:
            return True
        return False
