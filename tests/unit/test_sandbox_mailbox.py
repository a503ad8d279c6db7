"""The message store of a sandbox queue, on a fake clock."""

import threading

import pytest

from wren_worker.sandbox.mailbox import HandleInvalid, Letter, Mailbox, MailboxClosed, NotInFlight, TooLong


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def box(clock):
    return Mailbox(clock)


def letter(body="x", free_at=0.0):
    return Letter(body=body, md5="", attributes={}, attributes_md5="", group_id="", sent_timestamp=0.0, free_at=free_at)


def take(box, n=10, wait=0.0, visibility=30.0, **more):
    return box.receive(
        max_messages=n,
        wait_time=wait,
        visibility_time=visibility,
        is_listening=more.pop("listening", lambda: True),
        **more,
    )[0]


def test_each_message_goes_to_one_receiver_until_its_lease_ends(box, clock):
    box.send([letter("a"), letter("b"), letter("c")])
    assert [found.body for found in take(box, 2)] == ["a", "b"]
    assert [found.body for found in take(box)] == ["c"]
    clock.now += 29
    assert take(box) == []
    clock.now += 1.1
    again = take(box)
    assert sorted(found.body for found in again) == ["a", "b", "c"]
    assert {found.receive_count for found in again} == {2}


def test_extended_lease_lasts(box, clock):
    box.send([letter()])
    [held] = take(box)
    clock.now += 20
    box.change_visibility(held.handle, 30)
    clock.now += 20
    assert take(box) == []
    clock.now += 11
    assert len(take(box)) == 1


def test_released_message_comes_back_at_once(box):
    box.send([letter()])
    [held] = take(box)
    box.change_visibility(held.handle, 0)
    assert len(take(box)) == 1


def test_lease_that_ended_cannot_be_extended(box, clock):
    box.send([letter()])
    [held] = take(box)
    clock.now += 31
    with pytest.raises(NotInFlight):
        box.change_visibility(held.handle, 30)


def test_deleted_message_is_gone_for_every_handle_and_twice(box, clock):
    box.send([letter()])
    [held] = take(box)
    old = held.handle
    clock.now += 31
    take(box)
    box.delete(old)
    box.delete(held.handle)
    clock.now += 31
    assert take(box) == []
    with pytest.raises(NotInFlight):
        box.change_visibility(held.handle, 30)


def test_message_deleted_while_visible_is_not_delivered(box, clock):
    box.send([letter()])
    [held] = take(box)
    clock.now += 31
    assert box.counts().visible == 1
    box.delete(held.handle)
    assert take(box) == []
    assert box.counts().visible == 0


@pytest.mark.parametrize("handle", ["", "nonsense", "a#b", "a##1"])
def test_nonsense_is_no_handle(box, handle):
    with pytest.raises(HandleInvalid):
        box.delete(handle)


def test_twelve_hours_is_the_longest_lease(box):
    box.send([letter()])
    [held] = take(box)
    box.change_visibility(held.handle, 43200)
    with pytest.raises(TooLong):
        box.change_visibility(held.handle, 43202)


def test_delayed_message_waits(box, clock):
    box.send([letter(free_at=clock.now + 5)])
    assert take(box) == []
    assert box.counts().delayed == 1
    clock.now += 5
    assert len(take(box)) == 1


def test_zero_visibility_returns_a_message_once_per_receive(box):
    box.send([letter("a"), letter("b")])
    assert [found.body for found in take(box, visibility=0)] == ["a", "b"]
    assert [found.receive_count for found in take(box, visibility=0)] == [2, 2]


def test_received_too_often_goes_elsewhere(box):
    box.send([letter("a"), letter("b")])
    take(box, 1, visibility=0)
    taken, given_up = box.receive(
        max_messages=10,
        wait_time=0,
        visibility_time=30,
        is_listening=lambda: True,
        give_up=lambda found: found.receive_count >= 1,
    )
    assert [found.body for found in taken] == ["b"]
    assert [found.body for found in given_up] == ["a"]


def test_dead_poller_swallows_nothing(box):
    box.send([letter()])
    assert take(box, listening=lambda: False) == []
    assert len(take(box)) == 1


def test_work_per_message_does_not_grow_with_depth(clock):
    def steps(depth):
        box = Mailbox(clock)
        box.send(letter() for _ in range(depth))
        before = box.n_steps
        for _ in range(20):
            box.send([letter() for _ in range(10)])
            for held in take(box):
                box.change_visibility(held.handle, 60)
                box.delete(held.handle)
        return box.n_steps - before

    assert steps(5000) <= steps(0) * 1.1


def test_long_poll_wakes_on_send_and_ends_on_close():
    import time

    box = Mailbox(time.time)
    found = []
    waiter = threading.Thread(target=lambda: found.extend(take(box, wait=20)))
    waiter.start()
    box.send([letter("hello")])
    waiter.join(5)
    assert [one.body for one in found] == ["hello"]

    failed = []

    def wait():
        try:
            take(box, wait=20)
        except MailboxClosed as error:
            failed.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    box.close()
    waiter.join(5)
    assert failed


def test_sixteen_receivers_get_every_message_once():
    import time

    box = Mailbox(time.time)
    found, lock = [], threading.Lock()

    def receive():
        while got := take(box, 3, wait=0.2):
            with lock:
                found.extend(one.body for one in got)

    threads = [threading.Thread(target=receive) for _ in range(16)]
    for thread in threads:
        thread.start()
    for number in range(500):
        box.send([letter(str(number))])
    for thread in threads:
        thread.join(30)
    assert sorted(map(int, found)) == list(range(500))
