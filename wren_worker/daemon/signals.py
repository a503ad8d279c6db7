"""SIGTERM and SIGINT become counts that the loop reads; the handler does nothing else but wake it."""

from __future__ import annotations

import signal
from types import FrameType

from wren_worker.daemon.events import Inbox

__all__ = ["StopSignals"]


class StopSignals:
    """Counts requests to stop: the first asks for a clean end, the second for an end."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self.count = 0

    def install(self) -> None:
        """Take the signals over; only from the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self._inbox.wake()
