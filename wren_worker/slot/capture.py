"""What a call prints: taken at Python's own streams exactly, below them (C code, programs it starts) by pipes.

Python's ``sys.stdout`` and ``sys.stderr`` write frames to the daemon at once, in order, tagged with their call. What is
written to descriptors 1 and 2 beneath them goes through two pipes that the daemon reads; at the end of a call the
child waits until they are empty, so that these bytes belong to the call that wrote them too.
"""

from __future__ import annotations

import array
import fcntl
import io
import os
import sys
import termios
import threading
import time
from typing import TYPE_CHECKING

from ..protocol.frames import OUTPUT_HEAD, Kind, pack_frame
from ..protocol.records import STDERR, STDOUT

if TYPE_CHECKING:
    import socket

    from typing_extensions import Buffer

__all__ = ["MAX_OUTPUT_BYTES", "Capture", "Channel"]

#: What is kept of one call's output; the rest is counted.
MAX_OUTPUT_BYTES = 10 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024
_DRAIN_TIMEOUT = 1.0
# bound once: asked twice a call
_ioctl, _FIONREAD = fcntl.ioctl, termios.FIONREAD


class Channel:
    """The socket to the daemon, shared by the threads of one child."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._descriptor = sock.fileno()
        self.lock = threading.Lock()
        self.owner_pid = os.getpid()

    @property
    def open(self) -> bool:
        """Return whether the descriptor is still there."""
        try:
            os.get_inheritable(self._descriptor)  # the cheapest question about a descriptor
        except OSError:
            return False
        return True

    def send(self, frame: bytes) -> None:
        """Send one frame whole."""
        with self.lock:
            self.socket.sendall(frame)


class _Tap(io.RawIOBase):
    """A raw stream whose bytes become OUTPUT frames of the running call."""

    def __init__(self, capture: Capture, stream: int, descriptor: int) -> None:
        self._capture = capture
        self._stream = stream
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: Buffer, /) -> int:
        data = bytes(data)
        if os.getpid() != self._capture.channel.owner_pid:
            # a fork of the user's: its frames would mix with the child's own on the shared socket
            return os.write(self._descriptor, data)
        for start in range(0, len(data), _PIECE_BYTES):
            self._capture.take(self._stream, data[start : start + _PIECE_BYTES])
        return len(data)


class Capture:
    """Tags what is written with the call that runs."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._call_index = 0
        self._attempt = 0
        self._n_bytes = 0
        self.n_dropped_bytes = 0
        self._streams = tuple(
            io.TextIOWrapper(
                _Tap(self, stream, descriptor), encoding="utf-8", errors="backslashreplace", line_buffering=True
            )  # type: ignore[type-var]
            for stream, descriptor in ((STDOUT, 1), (STDERR, 2))
        )
        self._waiting = array.array("i", [0])

    def begin(self, call_index: int, attempt: int) -> None:
        """Tag what follows with this call."""
        self._call_index, self._attempt = call_index, attempt
        self._n_bytes = self.n_dropped_bytes = 0
        sys.stdout, sys.stderr = self._streams

    def end(self) -> None:
        """Send what is buffered, and wait until the daemon has read the pipes."""
        for stream in self._streams:
            try:
                stream.flush()
            except ValueError:
                pass  # the call closed it: a job has one child, so only its own later calls go without
        if self._unread(1) or self._unread(2):
            self._wait_until_read()

    def _wait_until_read(self) -> None:
        deadline = time.monotonic() + _DRAIN_TIMEOUT
        while (self._unread(1) or self._unread(2)) and time.monotonic() < deadline:
            time.sleep(0.0005)

    def _unread(self, descriptor: int) -> int:
        try:
            _ioctl(descriptor, _FIONREAD, self._waiting)
        except OSError:  # closed, or made a file, by the call
            return 0
        return self._waiting[0]

    def take(self, stream: int, data: bytes) -> None:
        """Send one piece of output, or count it when the call has had its share."""
        room = MAX_OUTPUT_BYTES - self._n_bytes
        if len(data) > room:
            self.n_dropped_bytes += len(data) - room
            data = data[:room]
        if data:
            self._n_bytes += len(data)
            self.channel.send(pack_frame(Kind.OUTPUT, OUTPUT_HEAD.pack(self._call_index, self._attempt, stream), data))
