"""A relay between a daemon and the emulated AWS that answers by itself, or not at all, when a test says so."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "date", "server"}


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def action(self) -> str:
        """SQS's and Logs' operation, or S3's method and the first part of its key."""
        target = self.headers.get("x-amz-target", "")
        if target:
            return target.rpartition(".")[2]
        parts = urlsplit(self.path).path.strip("/").split("/")
        return f"{self.method} {parts[1] if len(parts) > 1 else ''}"

    @property
    def access_key(self) -> str:
        found = re.search(r"Credential=([^/]+)/", self.headers.get("authorization", ""))
        return found.group(1) if found else ""


@dataclass
class Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def refusal(request: Request, status: int, code: str) -> Answer:
    """Return AWS's refusal in the form in which the service of the request gives it."""
    if request.headers.get("x-amz-target"):
        body = f'{{"__type": "com.amazonaws#{code}", "message": "{code} by the relay"}}'.encode()
        return Answer(status, body, {"Content-Type": "application/x-amz-json-1.0"})
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} by the relay</Message></Error>".encode()
    return Answer(status, b"" if request.method == "HEAD" else body, {"Content-Type": "application/xml"})


DROP = Answer(0)


class Relay:
    """``rule`` is asked about each request: None passes it on, DROP closes the connection, all else is the answer."""

    def __init__(self, endpoint: str) -> None:
        self.rule: Callable[[Request], Answer | None] = lambda _: None
        self.requests: list[Request] = []
        target = urlsplit(endpoint).netloc
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, body)
                relay.requests.append(request)
                answer = relay.rule(request)
                if answer is DROP:
                    self.close_connection = True
                    return
                self.reply(answer or self.forward(request))

            def forward(self, request: Request) -> Answer:
                with contextlib.closing(http.client.HTTPConnection(target, timeout=60)) as connection:
                    headers = {k: v for k, v in request.headers.items() if k not in _HOP | {"expect"}}
                    headers["content-length"] = str(len(request.body))
                    connection.request(request.method, request.path, request.body, headers)
                    found = connection.getresponse()
                    return Answer(found.status, found.read(), dict(found.getheaders()))

            def reply(self, answer: Answer) -> None:
                with contextlib.suppress(ConnectionError):
                    self.send_response(answer.status)
                    for name, value in answer.headers.items():
                        if name.lower() not in _HOP:
                            self.send_header(name, value)
                    self.send_header("Content-Length", str(len(answer.body)))
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(answer.body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def count(self, action: str) -> int:
        return sum(request.action == action for request in self.requests)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
