"""The HTTP server under the gateway, and moto behind it: connections are kept alive, and services are found quickly."""

from __future__ import annotations

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
