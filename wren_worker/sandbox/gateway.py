"""What stands before moto: counts requests, answers the hot SQS operations and the sandbox's own questions.

Runs in the server's request threads. AWS paths never begin with ``/wren/``: no bucket of ours has that name.
"""

from __future__ import annotations

import collections
import io
import json
import select
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qs

__all__ = ["Controls", "Counter", "Gateway"]

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
_UNIT_BYTES = 64 * 1024
SqsAnswer = tuple[HTTPStatus, bytes, list[tuple[str, str]]]


class Controls(Protocol):
    """What may be asked of the sandbox, besides AWS."""

    def control(self, method: str, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer ``/wren/<path>``.

        Raises:
            KeyError: There is no such thing.
        """
        ...


class SqsDesk(Protocol):
    """Answers the hot operations of SQS."""

    def __call__(
        self, operation: str, body: bytes, *, account: str, region: str, listening: Callable[[], bool]
    ) -> SqsAnswer | None:
        """Answer, or return None to leave it to moto."""
        ...


class S3Answer(Protocol):
    """Status, headers and the body in pieces."""

    @property
    def status(self) -> HTTPStatus: ...
    @property
    def headers(self) -> list[tuple[str, str]]: ...
    @property
    def body(self) -> Sequence[bytes | memoryview]: ...


class S3Desk(Protocol):
    """Answers the S3 operations that move bytes."""

    def __call__(self, environ: Environ, *, account: str) -> S3Answer | None:
        """Answer, or return None to leave it to moto."""
        ...


#: The operations that move bytes.
_S3_BYTES = frozenset(("s3.GetObject", "s3.PutObject", "s3.UploadPart"))


class Counter:
    """Counts AWS requests by operation, and what SQS would bill for them."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()
        self._further_units: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        """Count one."""
        with self._lock:
            self._counts[name] += 1

    def weigh(self, name: str, n_bytes: int) -> None:
        """Count the units that a payload takes beyond the first. Source: SQS pricing: 64 KB a unit, read 2026-11."""
        if n_bytes > _UNIT_BYTES:
            with self._lock:
                self._further_units[name] += (n_bytes - 1) // _UNIT_BYTES

    def units(self) -> dict[str, int]:
        """Return the billed units so far."""
        with self._lock:
            return dict(sorted((self._counts + self._further_units).items()))

    def counts(self) -> dict[str, int]:
        """Return the counts so far."""
        with self._lock:
            return dict(sorted(self._counts.items()))


class Gateway:
    """The WSGI application that the server runs.

    Args:
        inner: moto.
        controls: Answers ``/wren/``.
        account: The sandbox's account id.
        sqs: Answers hot operations of SQS.
        sqs_operations: Which those are.
        s3: Answers the S3 operations that move bytes.
    """

    def __init__(
        self,
        *,
        inner: Callable[[Environ, StartResponse], Iterable[bytes]],
        controls: Controls,
        account: str,
        sqs: SqsDesk,
        sqs_operations: frozenset[str],
        s3: S3Desk,
    ) -> None:
        self._inner = inner
        self._controls = controls
        self._account = account
        self._sqs = sqs
        self._sqs_operations = sqs_operations
        self._s3 = s3
        self.counter = Counter()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes | memoryview]:
        """Serve one request."""
        # A page in the user's browser must not start machines here: browsers always send one of the two
        if "HTTP_ORIGIN" in environ or "HTTP_SEC_FETCH_SITE" in environ:
            return _send(start_response, HTTPStatus.FORBIDDEN, {"message": "The sandbox serves no browser."})
        path = environ["PATH_INFO"]
        if path.startswith("/wren/"):
            return self._control(environ, start_response, path.removeprefix("/wren/"))
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        if target.startswith("AmazonSQS."):
            return self._serve_sqs(environ, start_response, target[10:])
        name = _operation(environ, target)
        self.counter.add(name)
        found = self._s3(environ, account=self._account) if name in _S3_BYTES else None
        if found is None:
            return self._inner(environ, start_response)
        headers = [*found.headers, ("Content-Length", str(sum(map(len, found.body))))]
        start_response(f"{found.status.value} {found.status.phrase}", headers)
        return found.body

    def _serve_sqs(self, environ: Environ, start_response: StartResponse, operation: str) -> Iterable[bytes]:
        self.counter.add(f"sqs.{operation}")
        if operation in self._sqs_operations:
            body = _read(environ)
            answer = self._sqs(
                operation,
                body,
                account=self._account,
                region=_region(environ),
                listening=lambda: _is_listening(environ),
            )
            if answer is not None:
                status, told, headers = answer
                self.counter.weigh(f"sqs.{operation}", max(len(body), len(told)))
                headers.append(("Content-Length", str(len(told))))
                start_response(f"{status.value} {status.phrase}", headers)
                return [told]
        return self._inner(environ, start_response)

    def _control(self, environ: Environ, start_response: StartResponse, path: str) -> Iterable[bytes]:
        if path == "requests":
            return _send(start_response, HTTPStatus.OK, self.counter.counts())
        if path == "units":
            return _send(start_response, HTTPStatus.OK, self.counter.units())
        try:
            body = json.loads(_read(environ) or b"{}")
            return _send(start_response, HTTPStatus.OK, self._controls.control(environ["REQUEST_METHOD"], path, body))
        except KeyError as error:
            return _send(start_response, HTTPStatus.NOT_FOUND, {"message": f"{error.args[0]} is not here."})
        except (ValueError, TypeError) as error:
            return _send(start_response, HTTPStatus.BAD_REQUEST, {"message": str(error)})


def _send(start_response: StartResponse, status: HTTPStatus, content: Mapping[str, Any]) -> list[bytes]:
    body = json.dumps(content).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response(f"{status.value} {status.phrase}", headers)
    return [body]


def _read(environ: Environ) -> bytes:
    """Return the request's body, and leave it to be read again."""
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def _region(environ: Environ) -> str:
    parts = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].split("/", 3)
    return parts[2] if len(parts) == 4 else "us-east-1"


def _is_listening(environ: Environ) -> bool:
    """Return whether the client is still connected."""
    connection: socket.socket | None = environ.get("werkzeug.socket")
    if connection is None:
        return True
    try:
        if not select.select([connection], [], [], 0)[0]:
            return True
        return connection.recv(1, socket.MSG_PEEK) != b""
    except (OSError, ValueError):
        return False


def _operation(environ: Environ, target: str) -> str:
    """Return "service.Operation", as the service's own reference names it."""
    scope = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].split("/", 4)
    service = scope[3] if len(scope) == 5 else "s3"
    if target:
        return f"{service}.{target.rpartition('.')[2]}"
    if service != "s3":
        content_type = environ.get("CONTENT_TYPE", "")
        text = _read(environ).decode(errors="replace") if content_type.startswith("application/x-www-form") else ""
        action = parse_qs(text or environ.get("QUERY_STRING", "")).get("Action", ["Unknown"])[0]
        return f"{service}.{action}"
    return f"s3.{_s3_operation(environ)}"


def _s3_operation(environ: Environ) -> str:  # noqa: PLR0911 - one line per kind
    method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
    bucket, _, key = environ["PATH_INFO"].lstrip("/").partition("/")
    if not bucket:
        return "ListBuckets"
    if not key:
        if "list-type=2" in query:
            return "ListObjectsV2"
        if method == "POST" and "delete" in query:
            return "DeleteObjects"
        if query:
            return f"{method.title()}Bucket:{query.partition('=')[0]}"
        names = {"PUT": "CreateBucket", "HEAD": "HeadBucket", "DELETE": "DeleteBucket", "GET": "ListObjects"}
        return names.get(method, str(method))
    if method == "POST":
        return "CreateMultipartUpload" if query.startswith("uploads") else "CompleteMultipartUpload"
    if "uploadId=" in query:
        names = {"PUT": "UploadPart", "DELETE": "AbortMultipartUpload"}
        return names.get(method, "ListParts")
    if method == "PUT" and "HTTP_X_AMZ_COPY_SOURCE" in environ:
        return "CopyObject"
    return f"{method.title()}Object"
