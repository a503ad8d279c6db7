"""What the metadata service tells an instance about its end: a spot interruption, or the tag that asks it to drain."""

from __future__ import annotations

import threading

from wren_worker.clock import Clock
from wren_worker.daemon.events import Inbox, LeaveAsked
from wren_worker.errors import FleetError
from wren_worker.log import EventLog
from wren_worker.protocol.ports import Metadata

__all__ = ["DRAIN_TAG", "Notices"]

#: Set by ``wren-standalone terminate --drain``; any value but "" counts.
DRAIN_TAG = "wren:drain"
#: Source: EC2 User Guide, "Spot Instance interruption notices", read 2026-11: look every five seconds.
_LOOK_INTERVAL = 5.0


class Notices:
    """Looks in a thread of its own, and tells the loop once of each. Costs no AWS request.

    Args:
        metadata: The instance's metadata service.
        inbox: The loop's.
        clock: Gives a notice's deadline on the loop's own clock.
        log: Says when the service cannot be asked.
        interval: Seconds between looks.
    """

    def __init__(
        self, *, metadata: Metadata, inbox: Inbox, clock: Clock, log: EventLog, interval: float = _LOOK_INTERVAL
    ) -> None:
        self._metadata = metadata
        self._inbox = inbox
        self._clock = clock
        self._log = log
        self._interval = interval
        self._told: set[str] = set()
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wren-notices", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the look it is in."""
        self._stop.set()

    def look(self) -> None:
        """Ask once for everything that was not told yet.

        Raises:
            FleetError: The metadata service does not answer.
        """
        if "spot" not in self._told:
            moment = self._metadata.interruption()
            if moment is not None:
                deadline = self._clock.monotonic() + moment - self._clock.timestamp()
                self._tell("spot", LeaveAsked(why="spot interruption", deadline=deadline))
        if "drain" not in self._told and self._metadata.tag(DRAIN_TAG):
            self._tell("drain", LeaveAsked(why="drain asked for by tag"))

    def _tell(self, name: str, notice: LeaveAsked) -> None:
        self._told.add(name)
        self._inbox.put(notice)

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self.look()
                self._failing = False
            except FleetError as error:
                if not self._failing:
                    self._log.event("notices_unreadable", error=str(error))
                self._failing = True
            except Exception as error:  # noqa: BLE001 - a defect here must not cost the notices that are to come
                self._log.event("notices_failed", error=f"{type(error).__name__}: {error}")
