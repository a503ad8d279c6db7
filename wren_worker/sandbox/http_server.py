"""The HTTP server under the gateway, and moto behind it: connections are kept alive, and services are found quickly."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from http import HTTPStatus
from typing import IO, Any, cast

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import ThreadedWSGIServer
from werkzeug.wsgi import LimitedStream

__all__ = ["moto_application", "serve"]


class _Handler(MotoRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # status, headers and body leave as one packet

    def handle_expect_100(self) -> bool:
        """Ask for the body now: botocore waits a second for this, and werkzeug's own would stay in the buffer."""
        self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.wfile.flush()
        del self.headers["Expect"]
        return True

    def run_wsgi(self) -> None:
        """Answer one request and keep the connection: werkzeug's own closes it, and a new one costs half a request."""
        environ = self.make_environ()
        n_body_bytes = 0
        if environ.get("wsgi.input_terminated"):
            self.close_connection = True  # a chunked body ends somewhere: not worth finding out where
        else:
            n_body_bytes = int(environ.get("CONTENT_LENGTH") or 0)
            environ["wsgi.input"] = LimitedStream(cast("IO[bytes]", self.rfile), n_body_bytes)
        body = environ["wsgi.input"]
        try:
            status, headers, content = _respond(self.server.app, environ)
        except (ConnectionError, TimeoutError) as error:
            self.connection_dropped(error)
            self.close_connection = True
            return
        except Exception:  # noqa: BLE001 - a defect of the emulator must look like one, not like a dead server
            traceback.print_exc()
            status, headers, content = f"{HTTPStatus.INTERNAL_SERVER_ERROR.value} Internal Server Error", [], b""
        try:
            if n_body_bytes:
                body.exhaust()  # or the next request would begin with the rest of this one
            self._answer(status, headers, content, without_body=environ["REQUEST_METHOD"] == "HEAD")
        except (ConnectionError, TimeoutError) as error:
            self.connection_dropped(error)
            self.close_connection = True

    def _answer(self, status: str, headers: list[tuple[str, str]], content: bytes, *, without_body: bool) -> None:
        code, _, phrase = status.partition(" ")
        self.send_response(int(code), phrase)
        for name, value in headers:
            if without_body or name.lower() != "content-length":
                self.send_header(name, value)
        if not (without_body or int(code) in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)):
            self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if not without_body:
            self.wfile.write(content)
        self.wfile.flush()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep quiet: a line per request costs as much as a small request."""


def _respond(application: Callable[..., Any], environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
    """Return status, headers and body of an application's answer."""
    told: list[tuple[str, list[tuple[str, str]]]] = []
    parts: list[bytes] = []

    def start_response(
        status: str,
        headers: list[tuple[str, str]],
        exc_info: object = None,  # noqa: ARG001 - WSGI's signature
    ) -> Callable[[bytes], None]:
        told.append((status, headers))
        return parts.append

    found = application(environ, start_response)
    try:
        parts += found
    finally:
        if hasattr(found, "close"):
            found.close()
    status, headers = told[-1]
    return status, headers, parts[0] if len(parts) == 1 else b"".join(parts)


class _Server(ThreadedWSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


class _Dispatcher(DomainDispatcherApplication):
    """moto's own lists its package's folder at every request: 1.3 ms of the 3.3 that a small PutObject takes."""

    def __init__(self) -> None:
        super().__init__(create_backend_app)
        self._services: dict[str | None, Any] = {}

    def get_backend_for_host(self, host: str | None) -> Any:
        """Return the service that a host name stands for."""
        if host not in self._services:
            self._services[host] = super().get_backend_for_host(host)
        return self._services[host]


def moto_application() -> DomainDispatcherApplication:
    """Return moto as a WSGI application."""
    return _Dispatcher()


def serve(application: Callable[..., Any], port: int) -> _Server:
    """Return a bound server on loopback; 0 takes a free port."""
    return _Server("127.0.0.1", port, application, handler=_Handler)
