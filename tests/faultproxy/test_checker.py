"""The checker finds each thing that must never be in a record doctored to show it, and nothing in a good one."""

from __future__ import annotations

from typing import Any

from wren_worker.chaos.checker import Budget, check
from wren_worker.chaos.record import Delivery, Entry, Record
from wren_worker.protocol.model import ChunkId, JobId, ResultObject

A, B = f"i-{1:017x}", f"i-{2:017x}"


class Story:
    """Writes a record line by line; each line takes a second."""

    def __init__(self) -> None:
        self.record = Record()
        self.now = 0.0

    def add(self, operation: str, caller: str = A, *, key: str = "", status: int = 200, **facts: Any) -> Entry:
        self.now += 1.0
        applied = facts.pop("applied", True)
        connection = facts.pop("connection", {A: 1, B: 2}[caller])
        entry = Entry(
            began=self.record.place(), connection=connection, caller=caller, operation=operation, key=key,
            began_time=self.now, **facts,
        )  # fmt: skip
        if applied:
            entry.applied, entry.applied_time, entry.status = self.record.place(), self.now, status
        entry.ended_time = self.now
        self.record.add(entry)
        return entry

    def receive(self, caller: str = A, handle: str = "h1", *, message: str = "m", n_calls: int = 3, **kw: Any) -> None:
        delivery = Delivery(
            message_id=message, receipt_handle=handle, receive_count=1, job_id="job", chunk_id="0", n_calls=n_calls
        )
        self.add("sqs.ReceiveMessage", caller, deliveries=(delivery,), lease_time=3.0, **kw)

    def put(
        self, caller: str = A, *, left_out=(), call: int | None = None, conditional: bool = True, **kw: Any
    ) -> None:
        head = ResultObject(
            job_id=JobId("job"), chunk_id=ChunkId("0"), first_call=0, n_calls=3, left_out=left_out, call_index=call
        )
        key = "results/job/0" if call is None else f"results/job/0/{call}"
        self.add("s3.PutObject", caller, key=key, result=head, conditional=conditional, **kw)

    def delete(self, caller: str = A, handle: str = "h1", *, accepted: bool = True) -> None:
        self.add("sqs.DeleteMessageBatch", caller, asked=(handle,), handles=(handle,) if accepted else ())

    def beat(self, caller: str = A, handle: str = "h1", lease_time: float = 3.0, **kw: Any) -> None:
        self.add("sqs.ChangeMessageVisibilityBatch", caller, asked=(handle,), handles=(handle,),
                 lease_time=lease_time, **kw)  # fmt: skip

    def found(self) -> list[str]:
        return [violation.invariant for violation in check(self.record)]


def test_a_good_life():
    story = Story()
    story.receive()
    story.beat()
    story.put()
    story.delete()
    assert story.found() == []


def test_a_good_life_with_a_split_and_a_second_holder():
    story = Story()
    story.receive()
    story.put(left_out=((1, 3),))
    story.put(call=1)
    story.beat(lease_time=0)
    story.receive(B, "h2")
    story.put(B, status=412)
    story.put(B, call=2)
    story.delete(B, "h2")
    assert story.found() == []


def test_an_object_that_is_written_twice():
    story = Story()
    story.receive()
    story.put()
    story.put(B)
    assert story.found() == ["written once"]
    story.put(B, applied=False)
    story.put(B, status=412)
    assert story.found() == ["written once"]


def test_an_object_written_without_the_condition():
    story = Story()
    story.put(conditional=False)
    assert story.found() == ["written once"]


def test_a_call_with_two_outcomes():
    story = Story()
    story.put(left_out=((1, 2),))
    story.put(call=1)
    assert story.found() == []
    story.put(call=2)
    assert story.found() == ["resolved once"]


def test_a_deletion_before_the_outcomes():
    for calls in ((), (1,)):
        story = Story()
        story.receive()
        story.put(left_out=((1, 3),))
        for call in calls:
            story.put(call=call)
        story.delete()
        story.put(call=2)
        assert story.found() == ["stored before deleted"]


def test_a_deletion_while_the_put_is_under_way_or_refused():
    story = Story()
    story.receive()
    story.put(status=503)
    story.delete()
    assert story.found() == ["stored before deleted"]
    story = Story()
    story.receive()
    story.delete(accepted=False)  # a stale handle: AWS said yes and did nothing
    assert story.found() == []


def lapse(story: Story, *between: Any) -> Story:
    story.receive()
    for one in between:
        one()
    story.now += 3.0
    story.receive(B, "h2")
    return story


def test_a_lease_that_lapses_while_its_holder_lives():
    story = lapse(Story())
    assert story.found() == []  # it may have died
    story.put()  # but here it is, on the connection that it had
    assert story.found() == ["leases kept"]


def test_a_lease_that_nobody_could_keep_or_that_was_given_back():
    story = Story()
    lapse(story, lambda: story.record.note("stopped", A))
    story.put()
    assert story.found() == []
    story = Story()
    lapse(story, lambda: story.record.note("stall"))
    story.put()
    assert story.found() == []
    story = Story()
    lapse(story, lambda: story.beat(injected="SlowDown", applied=False))
    story.put()
    assert story.found() == []
    story = Story()
    lapse(story, lambda: story.beat(lease_time=0.0))
    story.put()
    assert story.found() == []
    story = Story()
    lapse(story, story.put, lambda: story.delete(accepted=False))
    story.put(status=412)
    assert story.found() == []
    story = Story()
    lapse(story, lambda: story.record.note("made visible", A, "m"))
    story.put()
    assert story.found() == []
    story = lapse(Story())
    story.put(connection=7)  # a daemon started since: its predecessor died
    assert story.found() == []


def test_a_note_about_somebody_else_excuses_nobody():
    story = Story()
    lapse(story, lambda: story.record.note("stopped", B), lambda: story.beat(B, "other", injected="SlowDown"))
    story.put()
    assert story.found() == ["leases kept"]


def test_a_storm_of_requests():
    story = Story()
    story.receive()
    for _ in range(400):
        story.now -= 0.99
        story.add("s3.HeadObject", key="results/job/0")
    assert story.found() == ["requests within budget"]
    assert check(story.record, budget=Budget(base=1000)) == []


def test_a_defect_of_the_kit_is_no_silence():
    story = Story()
    story.record.note("defect of the proxy", detail="KeyError")
    assert story.found() == ["the kit itself"]
