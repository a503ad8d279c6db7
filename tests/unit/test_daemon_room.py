"""When an instance has too little disk left to take more work."""

from __future__ import annotations

from wren_worker.daemon.room import Room

GIB = 1 << 30


class Log:
    def __init__(self):
        self.events = []

    def event(self, name, **fields):
        self.events.append(name)


def test_there_is_room_until_there_is_not_and_it_is_said_once(tmp_path):
    log, disk = Log(), [GIB, 100 * GIB]
    room = Room(tmp_path, log=log, free=lambda _: tuple(disk))
    assert room.enough
    disk[0] = 255 << 20
    for _ in range(3):
        assert not room.enough
    assert "255 MiB are left, 256 are needed" in room.error
    disk[0] = GIB
    assert room.enough
    assert log.events == ["disk_full", "disk_has_room"]


def test_a_small_disk_needs_a_twentieth(tmp_path):
    for free, enough in ((9 << 20, True), (7 << 20, False)):
        room = Room(tmp_path, log=Log(), free=lambda _, free=free: (free, 160 << 20))
        assert room.enough is enough


def test_a_disk_that_cannot_be_looked_at_is_no_place_for_work(tmp_path):
    room = Room(tmp_path / "gone", log=Log())
    assert not room.enough
    assert "cannot be used" in room.error
