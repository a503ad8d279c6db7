"""What the daemon sends a child: orders one after the other, and answers to what the child asks while it obeys one."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections import deque

from ..protocol.frames import MAX_ORDER_BYTES, FrameReader, Kind, pack_frame
from .capture import Channel

__all__ = ["Orders"]

_READ_BYTES = 1 << 18


class Orders:
    """The child's receiving end. An answer overtakes the orders that came before it; those wait for their turn."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._reader = FrameReader(MAX_ORDER_BYTES)
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._answers: deque[bytes] = deque()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def next(self) -> tuple[int, bytes] | None:
        """Return the next order, None when the daemon is gone."""
        while not self._waiting:
            with self._lock:
                if not self._waiting and not self._read():
                    return None
        return self._waiting.popleft()

    def ask(self, question: dict[str, object]) -> dict[str, object]:
        """Ask the daemon for something, and wait for its answer, however long that takes.

        Raises:
            RuntimeError: This is a fork of the child's: the daemon does not know it.
        """
        if os.getpid() != self._channel.owner_pid:
            raise RuntimeError("a process forked by a call cannot ask for what the call was not given; use it before")
        number = next(self._numbers)
        self._channel.send(pack_frame(Kind.NEED, json.dumps({"number": number, **question}).encode()))
        with self._lock:
            while True:
                while self._answers:
                    answer: dict[str, object] = json.loads(self._answers.popleft())
                    # an older one: whoever asked was interrupted
                    if answer.get("number") == number:
                        return answer
                if not self._read():
                    os._exit(1)  # without a daemon there is nobody to run for

    def _read(self) -> bool:
        data = self._channel.socket.recv(_READ_BYTES)
        for kind, body in self._reader.feed(data):
            if kind == Kind.NEED_ANSWER:
                self._answers.append(body)
            else:
                self._waiting.append((kind, body))
        return bool(data)
