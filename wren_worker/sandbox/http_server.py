"""The HTTP server under the gateway: werkzeug's threaded one, with connections that are kept alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import ThreadedWSGIServer

__all__ = ["serve"]


class _Handler(MotoRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # status, headers and body leave as one packet

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep quiet: a line per request costs as much as a small request."""


class _Server(ThreadedWSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


def serve(application: Callable[..., Any], port: int) -> _Server:
    """Return a bound server on loopback; 0 takes a free port."""
    return _Server("127.0.0.1", port, application, handler=_Handler)
