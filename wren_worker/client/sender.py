"""The threads that store and send: few, started when there is work, ended when there is none."""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Sender"]

#: A thread without work waits this long for more (seconds) before it ends, and looks this often whether the
#: program wants to end.
_LINGER_TIME, _LOOK_INTERVAL = 1.0, 0.05


class Sender:
    """Runs posted work in order on up to ``n_threads`` threads. Safe from any thread.

    The interpreter waits before it ends, so what was posted is done: not for these threads, which are daemons, but for
    one that only waits for them, so that a wait which is interrupted can be left at once. They end soon after the main
    thread has, and when idle.

    Args:
        n_threads: Requests in flight at a time.
        room_bytes: How many bytes may wait before ``wait_for_room`` blocks.
        on_death: Told of an exception that work let escape; work is expected to deal with its own.
    """

    def __init__(
        self, *, on_death: Callable[[BaseException], None], n_threads: int = 4, room_bytes: int = 64 * 1024 * 1024
    ) -> None:
        self._on_death = on_death
        self._most_threads = n_threads
        self._room_bytes = room_bytes
        self._condition = threading.Condition()
        self._queue: deque[tuple[Callable[[], None], int]] = deque()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._n_later = 0
        self._n_threads = 0
        self._n_idle = 0
        self._held_bytes = 0
        self._abandoned = False
        self._kept = False

    @property
    def busy(self) -> bool:
        """Return whether something that was posted is not done."""
        with self._condition:
            return not self._abandoned and bool(self._queue or self._later or self._n_idle < self._n_threads)

    def abandon(self) -> None:
        """Drop what was posted and not begun, and let nobody wait for the rest."""
        with self._condition:
            self._abandoned = True
            self._queue.clear()
            self._later.clear()
            self._condition.notify_all()

    def post(self, work: Callable[[], None], *, n_bytes: int = 0) -> None:
        """Have ``work`` done; ``n_bytes`` is the memory it holds until then. Never blocks."""
        with self._condition:
            self._queue.append((work, n_bytes))
            self._held_bytes += n_bytes
            if self._n_idle >= len(self._queue) or self._n_threads >= self._most_threads:
                self._condition.notify()
                return
            self._n_threads += 1
        self._start_thread()

    def post_later(self, work: Callable[[], None], *, delay: float) -> None:
        """Have ``work`` done in ``delay`` seconds, give or take a twentieth. Never blocks."""
        with self._condition:
            self._n_later += 1
            heapq.heappush(self._later, (time.monotonic() + delay, self._n_later, work))
            if self._n_threads:
                return  # one that is idle looks often enough, one that is busy will
            self._n_threads += 1
        self._start_thread()

    def _start_thread(self) -> None:
        with self._condition:
            keep, self._kept = not self._kept, True
        try:
            if keep:
                threading.Thread(target=self._keep, name="wren-sender-keeper", daemon=False).start()
            threading.Thread(target=self._run, name="wren-sender", daemon=True).start()
        except RuntimeError:
            # the interpreter is ending and starts no threads any more: what was posted is still done
            self._run(linger_time=0.0)

    def _keep(self) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._abandoned or not self._n_threads)
            self._kept = False

    def wait_for_room(self) -> None:
        """Block while more bytes wait than the room allows. Not for work itself: it would wait for itself."""
        with self._condition:
            while self._held_bytes > self._room_bytes:
                self._condition.wait()

    def wait_until_idle(self) -> None:
        """Block until everything that was posted is done."""
        with self._condition:
            while not self._abandoned and (self._queue or self._later or self._n_idle < self._n_threads):
                self._condition.wait()

    def _run(self, linger_time: float = _LINGER_TIME) -> None:
        while (item := self._next(linger_time)) is not None:
            work, n_bytes = item
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - whatever it is, futures wait for it
                self._on_death(error)
            del work, item  # it holds arguments
            with self._condition:
                self._held_bytes -= n_bytes
                self._condition.notify_all()

    def _next(self, linger_time: float) -> tuple[Callable[[], None], int] | None:
        with self._condition:
            self._n_idle += 1
            self._condition.notify_all()
            idle_since = time.monotonic()
            try:
                while not self._queue:
                    now = time.monotonic()
                    if self._later and self._later[0][0] <= now:
                        return heapq.heappop(self._later)[2], 0
                    ending = now - idle_since >= linger_time or not threading.main_thread().is_alive()
                    if ending and not self._later:
                        self._n_threads -= 1
                        return None  # whoever waits for that is woken below
                    self._condition.wait(_LOOK_INTERVAL)
                return self._queue.popleft()
            finally:
                self._n_idle -= 1
                self._condition.notify_all()
