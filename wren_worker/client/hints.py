"""Says why nothing runs, when nothing does: a plain line on stderr, not too often."""

from __future__ import annotations

import sys
from collections.abc import Callable

from wren_worker.errors import WrenError

__all__ = ["Hints"]

#: Seconds without any outcome before the reason is asked for, and between two askings.
QUIET_TIME, REPEAT_TIME = 5.0, 30.0


class Hints:
    """Decides when the reason is asked for. Used by the collector's thread.

    Args:
        why: Gives the reason in one line, "" when something runs. May ask AWS.
        enabled: False keeps silent.
    """

    def __init__(self, why: Callable[[], str], *, enabled: bool = True) -> None:
        self._why = why
        self._enabled = enabled
        self._last_asked_time: float | None = None
        self._last_trouble_time: float | None = None

    def due_in(self, *, quiet_time: float, now: float) -> float | None:
        """Return in how many seconds the reason is due, 0 or less for now, None for never."""
        if not self._enabled:
            return None
        due = QUIET_TIME - quiet_time
        if self._last_asked_time is not None:
            due = max(due, self._last_asked_time + REPEAT_TIME - now)
        return due

    def consider(self, *, quiet_time: float, now: float) -> None:
        """Print the reason if it is due."""
        due = self.due_in(quiet_time=quiet_time, now=now)
        if due is None or due > 0:
            return
        self._last_asked_time = now
        try:
            reason = self._why()
        except WrenError as error:
            reason = f"nothing has come back for {quiet_time:.0f} s, and asking why failed: {error}"
        if reason:
            _say(reason)

    def tell(self, text: str) -> None:
        """Print what was done about something."""
        if self._enabled:
            _say(text)

    def trouble(self, error: WrenError, *, now: float) -> None:
        """Print why outcomes cannot be collected, unless that was said lately."""
        if self._enabled and (self._last_trouble_time is None or now >= self._last_trouble_time + REPEAT_TIME):
            self._last_trouble_time = now
            _say(f"outcomes cannot be collected right now, trying again: {error}")


def _say(text: str) -> None:
    # a progress bar that is up takes what is written to stderr and puts it above itself
    print(f"wren: {text}", file=sys.stderr, flush=True)
