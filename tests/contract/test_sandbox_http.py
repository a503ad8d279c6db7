"""The sandbox's HTTP server: connections live on, whatever an application leaves unread or breaks."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from wren_worker.sandbox.http_server import serve


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    match environ["PATH_INFO"]:
        case "/broken":
            raise RuntimeError("on purpose")
        case "/unread":
            text = b"nobody reads the body"
        case _:
            text = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) or b"nothing"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text]


@pytest.fixture
def connection() -> Iterator[http.client.HTTPConnection]:
    server = serve(application, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    made = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    yield made
    made.close()
    server.shutdown()
    thread.join(10)
    server.server_close()


def ask(
    connection: http.client.HTTPConnection, path: str, body: bytes = b"", method: str = "POST"
) -> tuple[int, bytes]:
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_one_connection_serves_many_requests(connection: http.client.HTTPConnection) -> None:
    assert ask(connection, "/", b"first") == (200, b"first")
    line = connection.sock
    assert line is not None  # http.client drops it when the server says that it closes
    assert [ask(connection, "/", b"%d" % number) for number in range(20)] == [(200, b"%d" % n) for n in range(20)]
    assert connection.sock is line


def test_a_body_that_nobody_read_is_not_the_next_request(connection: http.client.HTTPConnection) -> None:
    assert ask(connection, "/unread", b"POST /broken HTTP/1.1\r\n\r\n")[0] == 200
    assert ask(connection, "/", b"next") == (200, b"next")


def test_head_has_no_body(connection: http.client.HTTPConnection) -> None:
    assert ask(connection, "/", method="HEAD") == (200, b"")
    assert ask(connection, "/", b"next") == (200, b"next")


def test_a_request_that_breaks_the_application_is_answered(
    connection: http.client.HTTPConnection, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(connection, "/broken")[0] == 500
    assert "on purpose" in capsys.readouterr().err
    assert ask(connection, "/", b"next") == (200, b"next")
