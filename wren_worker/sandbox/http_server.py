"""The HTTP server under the gateway, and moto behind it: connections are kept alive, and services are found quickly."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Callable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import ThreadedWSGIServer

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
        """Answer one request and keep the connection, which werkzeug's own always closes."""
        environ = self.make_environ()
        # the whole body, whatever becomes of it: what is left unread would be taken for the next request
        n_bytes = int(environ.get("CONTENT_LENGTH") or 0)
        stream = environ["wsgi.input"]
        environ["wsgi.input"] = io.BytesIO(
            stream.read() if environ.get("wsgi.input_terminated") else stream.read(n_bytes)
        )
        told: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], _error: object = None) -> Callable[..., Any]:
            told.append((status, headers))
            return self.wfile.write

        body = b""
        try:
            parts = self.server.app(environ, start_response)
            body = b"".join(parts)
            if hasattr(parts, "close"):
                parts.close()
        except Exception:  # noqa: BLE001 - one request's failure is no other's
            traceback.print_exc(file=sys.stderr)
            self.close_connection = True
            told, body = [("500 Internal Server Error", [])], b""
        status, headers = told[-1]
        self._respond(status, headers, body)

    def _respond(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        code, _, phrase = status.partition(" ")
        self.send_response(int(code), phrase)
        names = set()
        for name, value in headers:
            names.add(name.lower())
            self.send_header(name, value)
        if "content-length" not in names and code not in ("204", "304"):
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep quiet: a line per request costs as much as a small request."""


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
