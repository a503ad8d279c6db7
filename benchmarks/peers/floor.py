"""What one call takes in the emulator alone: send, long-poll wake, PUT, notify, long-poll wake, over plain sockets.

Requests are bytes that were made beforehand, connections stay open, nothing is parsed: what is left is the emulator's
own service time as a client with no work of its own would see it.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from urllib.parse import urlsplit

_PAYLOAD = "x" * 1000
_TIMEOUT = 30.0


class _Line:
    """One open connection."""

    def __init__(self, endpoint: str) -> None:
        self._parts = urlsplit(endpoint)
        self._host = self._parts.netloc
        self._dial()

    def _dial(self) -> None:
        self._socket = socket.create_connection((self._parts.hostname, self._parts.port), timeout=_TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def sqs(self, operation: str, **fields: object) -> dict[str, object]:
        """Make one request of SQS."""
        body = json.dumps(fields).encode()
        headers = f"X-Amz-Target: AmazonSQS.{operation}\r\nContent-Type: application/x-amz-json-1.0\r\n"
        answer: dict[str, object] = json.loads(self.ask("POST", "/", headers, body, "sqs"))
        return answer

    def ask(self, method: str, path: str, headers: str, body: bytes, service: str) -> bytes:
        """Send a request and return the answer's body."""
        scope = f"AKIAWRENSANDBOX00000/20260101/us-east-1/{service}/aws4_request"
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n{headers}"
            f"Authorization: AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=00\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)
        return self._answer()

    def _answer(self) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._received()
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        if not lines[0].split(" ", 2)[1].startswith("2"):
            raise OSError(f"the emulator answered {lines[0]}")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        n_bytes = int(fields.get("content-length", "0"))
        while len(body) < n_bytes:
            body += self._received()
        if fields.get("connection", "").lower() == "close":  # as it does after an operation that moto answers
            self._socket.close()
            self._dial()
        return body

    def _received(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise OSError("the emulator hung up")
        return data


class _Listener:
    """A queue with somebody who always waits at it, as a daemon does, and a client."""

    def __init__(self, endpoint: str, name: str) -> None:
        self._line, self._sender = _Line(endpoint), _Line(endpoint)
        self._url = str(self._sender.sqs("CreateQueue", QueueName=name)["QueueUrl"])
        self._woken, self._woken_at, self._closing = threading.Event(), 0.0, False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def send(self) -> float:
        """Send one message; return the seconds until the one who waits has it."""
        self._woken.clear()
        began = time.perf_counter()
        self._sender.sqs("SendMessage", QueueUrl=self._url, MessageBody=_PAYLOAD)
        if not self._woken.wait(_TIMEOUT):
            raise OSError("the long poll did not wake")
        return self._woken_at - began

    def close(self) -> None:
        """End the wait and delete the queue."""
        self._closing = True
        # not send(): the listener may have seen that it is to end, and not wait any more
        self._sender.sqs("SendMessage", QueueUrl=self._url, MessageBody=_PAYLOAD)
        self._thread.join(_TIMEOUT)
        self._sender.sqs("DeleteQueue", QueueUrl=self._url)
        self._sender.close()
        self._line.close()

    def _listen(self) -> None:
        while not self._closing:
            told = self._line.sqs("ReceiveMessage", QueueUrl=self._url, MaxNumberOfMessages=1, WaitTimeSeconds=20)
            messages = told.get("Messages")
            if isinstance(messages, list) and messages:
                self._woken_at = time.perf_counter()
                self._woken.set()
                self._line.sqs("DeleteMessage", QueueUrl=self._url, ReceiptHandle=messages[0]["ReceiptHandle"])


class Floor:
    """Walks a call's path through the emulator at ``endpoint``, as often as asked."""

    def __init__(self, endpoint: str) -> None:
        token = secrets.token_hex(4)
        self._there, self._back = _Listener(endpoint, f"floor-{token}-a"), _Listener(endpoint, f"floor-{token}-b")
        self._store, self._bucket, self._n_puts = _Line(endpoint), f"floor-{token}", 0
        self._store.ask("PUT", f"/{self._bucket}", "", b"", "s3")
        time.sleep(0.05)  # the long polls are on their way

    def walk(self) -> float:
        """Return the seconds of send with wake, PUT, notify with wake."""
        there = self._there.send()
        self._n_puts += 1
        began = time.perf_counter()
        path = f"/{self._bucket}/result-{self._n_puts}"
        self._store.ask("PUT", path, "If-None-Match: *\r\n", _PAYLOAD.encode(), "s3")
        stored = time.perf_counter() - began
        return there + stored + self._back.send()

    def close(self) -> None:
        """Leave the emulator."""
        self._there.close()
        self._back.close()
        self._store.close()
