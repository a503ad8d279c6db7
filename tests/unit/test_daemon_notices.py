"""What the metadata service tells an instance about its end, and what the daemon makes of it."""

from __future__ import annotations

from wren_worker.daemon.events import Inbox, LeaveAsked
from wren_worker.daemon.notices import DRAIN_TAG, Notices
from wren_worker.errors import FleetError
from wren_worker.testing.clock import FakeClock


class Metadata:
    def __init__(self):
        self.moment = None
        self.tags = {}
        self.asked = 0

    def interruption(self):
        self.asked += 1
        return self.moment

    def tag(self, name):
        return self.tags.get(name, "")


class Log:
    def __init__(self):
        self.events = []

    def event(self, name, **fields):
        self.events.append((name, fields))


def notices(metadata, log=None, interval=5.0):
    clock, inbox = FakeClock(), Inbox()
    return Notices(metadata=metadata, inbox=inbox, clock=clock, log=log or Log(), interval=interval), inbox, clock


def test_nothing_to_tell():
    found, inbox, _ = notices(Metadata())
    found.look()
    assert list(inbox.take()) == []


def test_an_interruption_is_told_once_with_its_deadline_on_the_loop_s_clock():
    metadata = Metadata()
    found, inbox, clock = notices(metadata)
    metadata.moment = clock.timestamp() + 120.0
    for _ in range(3):
        found.look()
    [notice] = inbox.take()
    assert isinstance(notice, LeaveAsked)
    assert abs(notice.deadline - clock.monotonic() - 120.0) < 1e-6
    assert metadata.asked == 1


def test_the_drain_tag_has_no_deadline_and_an_interruption_may_follow():
    metadata = Metadata()
    found, inbox, clock = notices(metadata)
    metadata.tags[DRAIN_TAG] = "1"
    found.look()
    metadata.moment = clock.timestamp() + 60.0
    found.look()
    assert [notice.deadline is None for notice in inbox.take()] == [True, False]


def test_a_metadata_service_that_fails_is_said_once_and_asked_again():
    class Broken(Metadata):
        def interruption(self):
            self.asked += 1
            if self.asked <= 3:
                raise FleetError("no answer")
            if self.asked == 4:
                raise KeyError("a defect")
            return self.moment

    log, metadata = Log(), Broken()
    found, inbox, _ = notices(metadata, log, interval=0.01)
    metadata.tags[DRAIN_TAG] = "1"
    found.start()
    try:
        import time

        end = time.monotonic() + 10
        told = []
        while not told and time.monotonic() < end:
            told = list(inbox.take())
            time.sleep(0.01)
    finally:
        found.stop()
    assert [type(notice) for notice in told] == [LeaveAsked]
    assert [name for name, _ in log.events] == ["notices_unreadable", "notices_failed"]
