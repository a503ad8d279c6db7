"""The proxy between everybody and the sandbox: records every request in order, and lets some go wrong.

Runs in a thread of its own with an event loop of its own; every method may be called from any thread.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import traceback
import weakref
from types import TracebackType
from urllib.parse import urlsplit

from wren_worker.chaos.exchange import Exchange, Fault
from wren_worker.chaos.handles import Handles
from wren_worker.chaos.http import Cut, Request, Response, read_request, read_response
from wren_worker.chaos.observe import observe_request
from wren_worker.chaos.queue_faults import GiveSpares
from wren_worker.chaos.record import Entry, Record
from wren_worker.chaos.script import Barrier, Rule, Script
from wren_worker.chaos.subject import Subject, subject_of

__all__ = ["FaultProxy"]

_LIMIT_BYTES = 1 << 20
_STALL_INTERVAL = 0.1


class _Protocol(asyncio.StreamReaderProtocol):
    """Notes when the caller leaves, even while nobody reads: a dead poller must not swallow messages."""

    def __init__(self, proxy: FaultProxy, loop: asyncio.AbstractEventLoop) -> None:
        self.gone = asyncio.Event()
        self._open = proxy._open
        reader = asyncio.StreamReader(limit=_LIMIT_BYTES, loop=loop)
        super().__init__(reader, lambda r, w: proxy._serve(r, w, self.gone), loop=loop)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._open.add(transport)
        super().connection_made(transport)

    def eof_received(self) -> bool:
        self.gone.set()
        super().eof_received()
        return False  # close: whoever has nothing more to send does not wait for answers

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        super().connection_lost(exc)


class FaultProxy:
    """Serves from construction until ``close``. A context manager.

    Args:
        target: The sandbox's endpoint; may be set later, before the first request.
        seed: For the shares of rules.
    """

    def __init__(self, target: str = "", *, seed: int = 0) -> None:
        self.target = target
        self.script = Script(seed=seed)
        self.record = Record()
        self._handles = Handles()
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._open: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()
        self._connections = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._run, name="faultproxy", daemon=True)
        self._thread.start()
        self._started.wait()
        assert self._server is not None  # noqa: S101 - set before the event
        self.endpoint: str = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def barrier(
        self, operation: str, key: str = "*", *, caller: str = "*", nth: int = 1, after: bool = False
    ) -> Barrier:
        """Return a barrier at the n-th such request from now on."""
        made = Barrier(after=after)
        self.script.add(Rule(fault=made, operation=operation, key=key, caller=caller, nth=nth))
        return made

    def close(self) -> None:
        """Stop serving and close every connection."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        loop = self._loop
        self._server = loop.run_until_complete(
            loop.create_server(lambda: _Protocol(self, loop), "127.0.0.1", 0, backlog=256)
        )
        watch = loop.create_task(self._watch_stalls())
        self._started.set()
        try:
            loop.run_forever()
        finally:
            self._server.close()
            watch.cancel()
            loop.run_until_complete(self._end())
            loop.close()

    async def _end(self) -> None:
        # who connected at the very last is served for a moment yet
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for transport in list(self._open):
            transport.abort()  # type: ignore[attr-defined]  # of a socket
        await asyncio.sleep(0)

    async def _watch_stalls(self) -> None:
        """Note when this machine stood still: nobody can be blamed for a beat that was due then."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(_STALL_INTERVAL)
            now = time.monotonic()
            if now - before > 5 * _STALL_INTERVAL:
                self.record.note("stall", detail=f"{now - before:.2f}")
            before = now

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gone: asyncio.Event) -> None:
        connection = next(self._connections)
        try:
            while True:
                request = await read_request(reader, writer)
                if request is None or not await self._one(request, connection, writer, gone):
                    break
        except (Cut, OSError, asyncio.CancelledError):
            pass  # the caller or the sandbox is gone, and so is what they talked about
        except Exception:  # noqa: BLE001 - a defect of the kit must not pass for one of what it tests
            self.record.note("defect of the proxy", detail=traceback.format_exc())
        finally:
            writer.close()

    async def _one(self, request: Request, connection: int, writer: asyncio.StreamWriter, gone: asyncio.Event) -> bool:
        """Serve one request; return whether the connection lives on."""
        subject = subject_of(request)
        entry = Entry(
            began=self.record.place(),
            connection=connection,
            caller=subject.caller,
            operation=subject.operation,
            key=subject.key,
            began_time=time.monotonic(),
        )
        observe_request(entry, subject)
        self.record.add(entry)
        exchange = Exchange(
            subject,
            entry,
            record=self.record,
            handles=self._handles,
            forward=self._forward,
            writer=writer,
            gone=gone,
        )
        fault = self._fault(subject)
        try:
            if fault is None:
                await exchange.pass_on()
            else:
                entry.injected = fault.name
                await fault.run(exchange)
        finally:
            entry.ended_time = time.monotonic()
        return not exchange.silent and request.headers.get("connection", "").lower() != "close"

    def _fault(self, subject: Subject) -> Fault | None:
        if subject.operation == "sqs.ReceiveMessage" and (
            spares := self._handles.take_spares(subject.key, subject.caller)
        ):
            return GiveSpares(messages=spares)
        return self.script.fault_for(subject)

    # --- the sandbox's side -------------------------------------------------------------------------------------------

    async def _forward(self, request: Request, gone: asyncio.Event) -> Response:
        """Return the sandbox's answer, over a connection of the pool.

        Raises:
            Cut: There is none, or the caller left first.
        """
        reader, writer = await self._upstream()
        kept = False
        try:
            writer.write(request.encode())
            answer = asyncio.ensure_future(read_response(reader, to_head=request.method == "HEAD"))
            if "ReceiveMessage" in request.headers.get("x-amz-target", ""):
                leaving = asyncio.ensure_future(gone.wait())
                try:
                    await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    leaving.cancel()
                if not answer.done():
                    answer.cancel()
                    raise Cut("the poller left")
            response = await answer
            kept = response.headers.get("connection", "").lower() != "close"
        except OSError as error:
            raise Cut(f"the sandbox is gone: {error}") from error
        finally:
            if kept:
                self._idle.append((reader, writer))
            else:
                writer.close()
        return response

    async def _upstream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        place = urlsplit(self.target)
        try:
            made = await asyncio.open_connection(place.hostname, place.port, limit=_LIMIT_BYTES)
        except OSError as error:
            raise Cut(f"the sandbox is not there: {error}") from error
        self._open.add(made[1].transport)
        return made
