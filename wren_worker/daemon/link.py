"""The daemon's end of one child: a socket for frames, two pipes for what is written beneath Python, the shared page.

Runs on the loop's thread; nothing here blocks. Bytes are counted and cut, never unpickled.
"""

from __future__ import annotations

import os
import selectors
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from wren_worker.protocol.frames import MAX_ORDER_BYTES, FrameReader, Kind, pack_frame
from wren_worker.protocol.page import PAGE_BYTES, Page
from wren_worker.protocol.records import STDERR, STDOUT

__all__ = ["Link"]

_READ_BYTES = 1 << 18


def _page_file(folder: Path) -> IO[bytes]:
    """Return the file of a shared page, of memory where there is such a thing.

    A page of a file that has no room on a full disk ends whoever writes to it, the daemon first, by SIGBUS.
    """
    if hasattr(os, "memfd_create"):
        file: IO[bytes] = os.fdopen(os.memfd_create("wren-page", os.MFD_CLOEXEC), "w+b")
    else:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by handed_over
    file.write(bytes(PAGE_BYTES))
    file.flush()
    return file


class Link:
    """Made before its child is: the child's ends travel to the keeper, which forks.

    Args:
        generation: Which child of its slot this is.
        folder: Where the shared page's file may lie for a moment.
        selector: Of the loop; its data is the callable to call when ready.
        on_channel: Called with the mask when the socket is ready.
        on_pipe: Called with the descriptor when a pipe is ready.
    """

    def __init__(
        self,
        *,
        generation: int,
        folder: Path,
        selector: selectors.BaseSelector,
        on_channel: Callable[[int], Any],
        on_pipe: Callable[[int], Any],
    ) -> None:
        self.generation = generation
        #: Identity of the job that the child serves, None while it is fresh.
        self.job: tuple[str, str] | None = None
        self._selector = selector
        self._on_channel = on_channel
        self._reader = FrameReader()
        self._outgoing: deque[memoryview] = deque()
        self._channel, self._childs_channel = socket.socketpair()
        self._channel.setblocking(False)
        out_read, self._out_write = os.pipe()
        err_read, self._err_write = os.pipe()
        self._pipes = {out_read: STDOUT, err_read: STDERR}
        self._page_file = _page_file(folder)
        self.page = Page(self._page_file.fileno())
        self.page.clear()
        self._open = True
        #: Whether the child's end of the socket is closed, by its death or by what it runs.
        self.hung_up = False
        selector.register(self._channel, selectors.EVENT_READ, on_channel)
        for descriptor in self._pipes:
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ, lambda _mask, fd=descriptor: on_pipe(fd))

    @property
    def childs_descriptors(self) -> list[int]:
        """Return what the child gets: channel, stdout, stderr, page."""
        return [self._childs_channel.fileno(), self._out_write, self._err_write, self._page_file.fileno()]

    def handed_over(self) -> None:
        """Close the child's ends here, so that its death closes the last of them."""
        self._childs_channel.close()
        os.close(self._out_write)
        os.close(self._err_write)
        self._page_file.close()

    def close(self) -> None:
        """Let go of everything; an idle child ends by that, and its keeper ends what it left."""
        if self._open:
            self._selector.unregister(self._channel)
            self._open = False
        self._channel.close()
        for descriptor in list(self._pipes):
            self._close_pipe(descriptor)
        self.page.close()

    # --- frames -------------------------------------------------------------------------------------------------------

    def send(self, kind: Kind, body: bytes) -> None:
        """Send a frame, now as far as the socket takes it, and the rest when it is ready."""
        self._outgoing.append(memoryview(pack_frame(kind, body, limit=MAX_ORDER_BYTES)))
        self.flush()

    def flush(self) -> None:
        """Send what waits."""
        while self._outgoing:
            view = self._outgoing[0]
            try:
                n_sent = self._channel.send(view)
            except BlockingIOError:
                break
            except OSError:
                self._outgoing.clear()  # it died; its keeper will say so
                break
            if n_sent == len(view):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = view[n_sent:]
        if self._open:
            mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)
            self._selector.modify(self._channel, mask, self._on_channel)

    def receive(self) -> Iterator[tuple[int, bytes]]:
        """Yield the frames of one read.

        Raises:
            FrameError: What the child wrote is no frame.
        """
        yield from self._reader.feed(self._read())

    def receive_all(self) -> Iterator[tuple[int, bytes]]:
        """Yield the frames of all that is there: of a dead child, everything it ever wrote.

        Raises:
            FrameError: What the child wrote is no frame.
        """
        while data := self._read():
            yield from self._reader.feed(data)

    def _read(self) -> bytes:
        if not self._open:
            return b""
        try:
            data = self._channel.recv(_READ_BYTES)
        except BlockingIOError:
            return b""
        except ConnectionError:
            data = b""
        if not data:
            # the keeper will report the end; a closed socket would be readable until then
            self._selector.unregister(self._channel)
            self._open, self.hung_up = False, True
        return data

    # --- pipes --------------------------------------------------------------------------------------------------------

    @property
    def pipes(self) -> list[int]:
        """Return the descriptors of the pipes that are still open."""
        return list(self._pipes)

    def read_pipe(self, descriptor: int) -> tuple[int, bytes] | None:
        """Return ``(stream, data)`` of a pipe, None when there is nothing."""
        if descriptor not in self._pipes:
            return None  # ready in the same select in which its child went
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return None
        if not data:
            self._close_pipe(descriptor)
            return None
        return self._pipes[descriptor], data

    def _close_pipe(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)
        os.close(descriptor)
        del self._pipes[descriptor]
