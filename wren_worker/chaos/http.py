"""HTTP/1.1 as AWS's clients and the sandbox speak it, over asyncio's streams.

Streams and not an HTTP library: what this package is for (half-open, cut and silent connections, bodies that end too
soon) is what libraries take care never to do. Bodies are held in memory, as S3's parts of 8 MiB allow.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus

__all__ = ["Cut", "Request", "Response", "read_request", "read_response"]

_HEAD_BYTES = 64 * 1024
#: Belongs to one connection, so never passed on.
_HOP = frozenset(("connection", "keep-alive", "transfer-encoding", "expect", "content-length"))


class Cut(Exception):
    """The other side closed in the middle, or speaks something else."""


@dataclass(slots=True)
class Request:
    """One request; header names in lower case."""

    method: str
    path: str  # with the query
    headers: dict[str, str]
    body: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes to send."""
        lines = [f"{self.method} {self.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers.items() if name not in _HOP]
        lines.append(f"content-length: {len(self.body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body


@dataclass(slots=True)
class Response:
    """One answer; header names in lower case. ``to_head`` answers a HEAD: its length is that of a body unsent."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    to_head: bool = False

    def head(self) -> bytes:
        """Return the bytes before the body, which is always announced in full."""
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {self.status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items() if name not in _HOP]
        length = self.headers.get("content-length", "0") if self.to_head else str(len(self.body))
        if self.status != HTTPStatus.NO_CONTENT:
            lines.append(f"content-length: {length}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]] | None:
    try:
        data = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise Cut("in a head") from error
        return None
    except (asyncio.LimitOverrunError, OSError) as error:
        raise Cut(str(error)) from error
    first, *lines = data[:-4].decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return first, headers


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    try:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return await _read_chunked(reader)
        return await reader.readexactly(int(headers.get("content-length") or 0))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, ValueError) as error:
        raise Cut("in a body") from error


async def _read_chunked(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if size == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
            return b"".join(parts)
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """Return the next request of a connection, None when it was closed between two.

    Raises:
        Cut: It was closed within one, or is none.
    """
    found = await _read_head(reader)
    if found is None:
        return None
    first, headers = found
    try:
        method, path, _ = first.split(" ", 2)
    except ValueError as error:
        raise Cut(f"no request line: {first[:80]!r}") from error
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return Request(method, path, headers, await _read_body(reader, headers))


async def read_response(reader: asyncio.StreamReader, *, to_head: bool) -> Response:
    """Return the next answer of a connection.

    Raises:
        Cut: It was closed before the end.
    """
    while True:
        found = await _read_head(reader)
        if found is None:
            raise Cut("before a head")
        first, headers = found
        status = int(first.split(" ", 2)[1])
        if status != HTTPStatus.CONTINUE:
            break
    bodiless = to_head or status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
    return Response(status, headers, b"" if bodiless else await _read_body(reader, headers), to_head)
