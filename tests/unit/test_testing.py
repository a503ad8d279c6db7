"""The parts in memory where they are stricter than AWS must be, and the clock; the rest is the contract suites'."""

import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from wren_worker.errors import QueueError
from wren_worker.protocol.ports import LeaseState, OutgoingMessage
from wren_worker.testing import FakeClock, MemoryLogSink, MemoryPostOffice, MemoryStore, MemoryTaskQueue


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def queue(clock):
    return MemoryTaskQueue(clock=clock)


def take(queue, *, wait_time=0.0, lease_time=30.0):
    return queue.receive(max_messages=10, wait_time=wait_time, lease_time=lease_time)


def test_the_clock_moves_when_told_and_both_of_its_times_agree(clock):
    before, then = clock.monotonic(), clock.timestamp()
    clock.sleep(5.0)
    clock.advance(2.5)
    assert clock.monotonic() - before == 7.5
    assert clock.timestamp() - then == 7.5
    assert clock.sleeps == [5.0]


def test_a_poll_on_a_fake_clock_jumps_to_its_end(queue, clock):
    start = clock.monotonic()
    assert take(queue, wait_time=20) == []
    assert clock.monotonic() - start == pytest.approx(20, abs=0.01)


def test_a_poll_on_a_fake_clock_jumps_to_the_next_message(queue, clock):
    queue.send([OutgoingMessage(body="a")])
    take(queue, lease_time=7)
    start = clock.monotonic()
    [again] = take(queue, wait_time=20)
    assert again.receive_count == 2
    assert clock.monotonic() - start == pytest.approx(7, abs=0.01)


def test_an_outdated_handle_extends_nothing_and_deletes_nothing(queue, clock):
    queue.send([OutgoingMessage(body="a")])
    [old] = take(queue, lease_time=5)
    clock.advance(6)
    [new] = take(queue, lease_time=5)
    assert queue.extend([old.receipt_handle], lease_time=60) == [LeaseState.LOST]
    queue.release([old.receipt_handle])
    assert queue.delete([old.receipt_handle]) == []
    assert (queue.depth().visible, queue.depth().in_flight) == (0, 1)
    assert queue.delete([new.receipt_handle]) == []
    assert queue.depth().in_flight == 0


def test_a_handle_of_another_queue_is_refused(queue):
    other = MemoryTaskQueue("other")
    for each in (queue, other):
        each.send([OutgoingMessage(body="a")])
    [message] = take(other)
    take(queue)
    assert queue.extend([message.receipt_handle], lease_time=5) == [LeaseState.LOST]
    assert queue.delete([message.receipt_handle]) == [message.receipt_handle]


def test_a_lease_ends_twelve_hours_after_it_began(queue, clock):
    queue.send([OutgoingMessage(body="a")])
    [message] = take(queue, lease_time=43_000)
    assert queue.extend([message.receipt_handle], lease_time=43_200) == [LeaseState.EXTENDED]
    clock.advance(1)
    assert queue.extend([message.receipt_handle], lease_time=43_200) == [LeaseState.LOST]


def test_who_polls_a_reply_queue_is_told_when_it_is_removed():
    office = MemoryPostOffice()
    replies, gone, polling = office.open("r"), [], threading.Event()

    def poll():
        polling.set()
        with pytest.raises(QueueError) as failure:
            replies.receive(wait_time=60)
        gone.append(failure.value.gone)

    thread = threading.Thread(target=poll)
    thread.start()
    polling.wait(10)
    replies.remove()
    thread.join(30)
    assert gone == [True]


def test_a_store_takes_its_time_from_the_clock(clock):
    store = MemoryStore(clock=clock)
    store.put("k", b"")
    [info] = store.list("")
    assert info.modified_timestamp == clock.timestamp()


def test_a_full_or_closed_sink_drops_and_counts():
    sink = MemoryLogSink(max_lines=1)
    fields = {"event": "a"}
    sink.put("daemon", 1.0, fields)
    fields["event"] = "changed later"
    sink.put("daemon", 2.0, {})
    sink.close(timeout=1.0)
    sink.put("tasks", 3.0, {})
    assert [(line.stream, line.timestamp, line.fields) for line in sink.lines] == [("daemon", 1.0, {"event": "a"})]
    assert sink.dropped() == 2


class QueueModel(RuleBasedStateMachine):
    """A queue does what a dictionary of messages with deadlines does."""

    MAX_RECEIVE_COUNT = 4

    @initialize()
    def start(self):
        self.clock = FakeClock()
        self.queue = MemoryTaskQueue(clock=self.clock, max_receive_count=self.MAX_RECEIVE_COUNT)
        self.waiting: dict[str, tuple[float, int, str]] = {}  # body -> free at, receive count, latest handle
        self.dead: list[str] = []
        self.handles: list[tuple[str, str]] = []
        self.n_sent = 0

    @rule(n=st.integers(1, 12))
    def send(self, n):
        bodies = [f"{self.n_sent + number}" for number in range(n)]
        self.n_sent += n
        self.queue.send([OutgoingMessage(body=body) for body in bodies])
        self.waiting |= dict.fromkeys(bodies, (0.0, 0, ""))

    @rule(n=st.integers(1, 10), lease_time=st.integers(1, 60))
    def receive(self, n, lease_time):
        now = self.clock.monotonic()
        for message in self.queue.receive(max_messages=n, wait_time=0, lease_time=lease_time):
            free_at, count, handle = self.waiting[message.body]
            assert free_at <= now, "delivered twice at once"
            assert message.receive_count == count + 1 <= self.MAX_RECEIVE_COUNT
            assert message.receipt_handle != handle
            self.waiting[message.body] = now + lease_time, count + 1, message.receipt_handle
            self.handles.append((message.body, message.receipt_handle))
        for body in set(self.queue.dead_letters) - set(self.dead):
            assert self.waiting.pop(body)[1] == self.MAX_RECEIVE_COUNT
            self.dead.append(body)

    @rule(seconds=st.integers(1, 90))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule(data=st.data(), lease_time=st.integers(0, 60))
    def extend(self, data, lease_time):
        if not self.handles:
            return
        body, handle = data.draw(st.sampled_from(self.handles))
        free_at, count, latest = self.waiting.get(body, (0.0, 0, ""))
        held = handle == latest and free_at > self.clock.monotonic()
        [state] = self.queue.extend([handle], lease_time=lease_time)
        assert state is (LeaseState.EXTENDED if held else LeaseState.LOST)
        if held:
            self.waiting[body] = self.clock.monotonic() + lease_time, count, latest

    @rule(data=st.data())
    def delete(self, data):
        if not self.handles:
            return
        body, handle = data.draw(st.sampled_from(self.handles))
        assert self.queue.delete([handle]) == []
        if body in self.waiting and self.waiting[body][2] == handle:
            del self.waiting[body]

    @invariant()
    def nothing_is_lost_or_made_up(self):
        depth, now = self.queue.depth(), self.clock.monotonic()
        in_flight = sum(free_at > now for free_at, _, _ in self.waiting.values())
        assert (depth.visible, depth.in_flight) == (len(self.waiting) - in_flight, in_flight)
        assert sorted(self.queue.dead_letters) == sorted(self.dead)


TestQueueModel = QueueModel.TestCase
TestQueueModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
