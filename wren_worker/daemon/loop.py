"""The daemon's loop: all state, all decisions, on the main thread. One tick is five verbs and never waits over 1 s."""

from __future__ import annotations

import os
import random
import selectors
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wren_worker.clock import Clock
from wren_worker.daemon.doorbell import Doorbell
from wren_worker.daemon.events import (
    Arrived,
    Event,
    Fetched,
    Inbox,
    LeaseLost,
    LeaveAsked,
    PollEnded,
    Rejected,
    Removed,
    Settled,
    State,
    Stored,
)
from wren_worker.daemon.exits import Exit
from wren_worker.daemon.needs import Needs
from wren_worker.daemon.receiver import Receiver
from wren_worker.daemon.retire import Retirement, Verdict
from wren_worker.daemon.room import Room
from wren_worker.daemon.signals import StopSignals
from wren_worker.daemon.slot import Slot
from wren_worker.daemon.vitals import Vitals
from wren_worker.daemon.workload import Workload
from wren_worker.log import EventLog

__all__ = ["Daemon"]

_TICK_TIME = 1.0
_STOP_TIME = 10.0
_LAST_LOOK_TIME = 1.0
#: So many last looks in a row may bring nothing but what must not run here.
_LOOKS_PAST_GARBAGE = 10
_POLL_MARGIN = 1.0
_POWER_OFF_PATIENCE = 60.0
_MAX_POLL_PAUSE = 30.0
_MAX_MESSAGES = 10


@dataclass(slots=True)
class _Polling:
    """Where the loop is between polls."""

    failures: int = 0
    resume: float = 0.0
    last_look: bool = False
    last_look_was_empty: bool = False
    looks_at_garbage: int = 0


class Daemon:
    """Leases chunks, feeds slots, publishes, and powers the machine off when there is nothing left to do.

    Args:
        slots: All slots, not yet started.
        selector: Shared with the slots.
        inbox: Where the other threads report.
        receiver: Polls when ordered.
        workload: What is held.
        needs: Gets what slots ask for.
        doorbell: Hears of cancellations.
        room: Whether the disk takes more work.
        vitals: Signs of life.
        retirement: The bounds of the instance's life.
        stop: Counts SIGTERMs.
        power_off: Asks the machine to power off; takes the number of earlier tries.
        clock: Monotonic time.
        log: Structured events.
    """

    def __init__(
        self,
        *,
        slots: Sequence[Slot],
        selector: selectors.BaseSelector,
        inbox: Inbox,
        receiver: Receiver,
        workload: Workload,
        needs: Needs,
        doorbell: Doorbell,
        room: Room,
        vitals: Vitals,
        retirement: Retirement,
        stop: StopSignals,
        power_off: Callable[[int], Sequence[str]],
        clock: Clock,
        log: EventLog,
    ) -> None:
        self._slots = slots
        self._selector = selector
        self._inbox = inbox
        self._receiver = receiver
        self._workload = workload
        self._needs = needs
        self._doorbell = doorbell
        self._room = room
        self._vitals = vitals
        self._retirement = retirement
        self._stop = stop
        self._power_off = power_off
        self._clock = clock
        self._log = log
        self._state = State.STARTING
        self._polling = _Polling()
        self._leave_by: float | None = None
        self._stop_count = 0
        self._exit: Exit | None = None
        self._power_off_tries = 0
        self._power_off_next = 0.0
        selector.register(inbox.read_fd, selectors.EVENT_READ, None)

    @property
    def state(self) -> State:
        """Return where the daemon is in its life."""
        return self._state

    def run(self) -> Exit:
        """Tick until there is a reason to exit, and return it."""
        for slot in self._slots:
            slot.on_need = self._needs.take
            slot.start_keeper()
        self._enter(State.RUNNING)
        self._retire()  # orders the first poll; a tick would first wait for news
        while self._exit is None:
            self.tick()
        for slot in self._slots:
            slot.dismiss()
        for slot in self._slots:
            slot.stop()
        return self._exit

    def tick(self) -> None:
        """Do everything once."""
        self._wait()
        self._handle_signals()
        self._workload.publish()
        self._workload.hand_out()
        self._workload.release_unstarted()
        self._retire()
        self._doorbell.show(self._workload.holdings)
        idle_since = self._workload.last_work if self._workload.empty else None
        n_busy = sum(not slot.free for slot in self._slots)
        self._vitals.show(self._state, self._workload.holdings, n_busy=n_busy, idle_since=idle_since)

    def _enter(self, state: State) -> None:
        if state is not self._state:
            self._log.event("state", before=self._state.value, after=state.value)
            self._state = state

    # --- waiting and reaping ------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        timeout = min(_TICK_TIME, self._workload.enforce_limits())
        for key, mask in self._selector.select(timeout):
            if key.data is None:
                continue
            for event in key.data(mask):
                self._workload.slot_event(event)
        for item in self._inbox.take():
            self._take(item)

    def _take(self, item: Event) -> None:
        if isinstance(item, Arrived):
            self._arrived(item)
        elif isinstance(item, Rejected):
            self._log.event("message_rejected", reason=item.reason)
        elif isinstance(item, LeaseLost):
            self._workload.lease_lost(item.receipt_handle)
        elif isinstance(item, Stored):
            self._workload.stored(item)
        elif isinstance(item, Removed):
            self._workload.removed(item)
        elif isinstance(item, Settled):
            self._workload.settled(item)
        elif isinstance(item, Fetched):
            self._needs.fetched(item)
        elif isinstance(item, LeaveAsked):
            self._leave_asked(item)
        else:
            self._poll_ended(item)

    def _arrived(self, arrived: Arrived) -> None:
        self._workload.poll_ends = 0.0  # what it brought is here, so the poll is over
        self._workload.arrive(arrived)
        if arrived.known is None and self._doorbell.rung(arrived.chunk.job_id):
            self._doorbell.settle(arrived.receipt_handle, arrived.chunk)  # it rang while this was being fetched
        if not self._room.enough:
            self._workload.release(arrived.receipt_handle)  # it was polled for while there was room
        elif self._state is State.DRAINING and self._leave_by is None and self._polling.last_look:
            self._enter(State.RUNNING)  # somebody sent work at the last moment
        elif self._state is not State.RUNNING:
            self._workload.release(arrived.receipt_handle)

    def _poll_ended(self, ended: PollEnded) -> None:
        self._receiver.polling = False
        self._workload.poll_ends = 0.0
        polling = self._polling
        if ended.error:
            polling.failures += 1
            pause = min(_MAX_POLL_PAUSE, 2.0 ** min(polling.failures, 10) / 2) * random.uniform(0.5, 1.0)  # noqa: S311
            polling.resume = self._clock.monotonic() + pause
            self._vitals.last_error = ended.error
            self._log.event("poll_failed", error=ended.error, failures=polling.failures)
        else:
            polling.failures = 0
        if polling.last_look:
            # what must not run here is no work, and it may come again and again; but work may stand behind it
            polling.looks_at_garbage = polling.looks_at_garbage + 1 if ended.n_rejected else 0
            only_garbage = ended.n_rejected == ended.n_messages and polling.looks_at_garbage >= _LOOKS_PAST_GARBAGE
            polling.last_look_was_empty = not ended.n_messages or only_garbage
        else:
            polling.last_look_was_empty = False
        polling.last_look = False

    # --- signals ------------------------------------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        if self._stop.count == self._stop_count:
            return
        self._stop_count = self._stop.count
        if self._stop_count > 1:
            self._exit = Exit.CUT_SHORT
        elif self._leave_by is None:
            self._log.event("stop_asked")
            self._enter(State.DRAINING if self._state is not State.OFF else State.OFF)
            self._leave_by = self._clock.monotonic() + _STOP_TIME
            self._workload.begin_release()

    def _leave_asked(self, asked: LeaveAsked) -> None:
        """Start nothing more, finish what runs, give the rest back; then the clock's verdict is to go."""
        now = self._clock.monotonic()
        if self._state is State.OFF or self._leave_by is not None:
            return
        self._log.event("leave_asked", why=asked.why, deadline_in=asked.deadline and round(asked.deadline - now, 1))
        self._retirement = self._retirement.asked_to_leave(now=now, deadline=asked.deadline, why=asked.why)
        self._enter(State.DRAINING)
        self._workload.begin_release()

    # --- retiring -----------------------------------------------------------------------------------------------------

    def _retire(self) -> None:
        now = self._clock.monotonic()
        if self._leave_by is not None:
            self._leave(now)
        elif self._state is State.OFF:
            self._escalate(now)
        else:
            idle_since = self._workload.last_work if self._workload.empty else None
            self._judge(self._retirement.verdict(now=now, idle_since=idle_since), now, idle_since)

    def _leave(self, now: float) -> None:
        assert self._leave_by is not None  # noqa: S101 - checked by the caller
        if not self._workload.empty and now < self._leave_by:
            return
        self._workload.release_all()
        if self._stop_count:
            self._exit = Exit.STOPPED
        else:
            self._leave_by = None
            self._go_off(now, self._retirement.why)

    def _judge(self, verdict: Verdict, now: float, idle_since: float | None) -> None:
        if verdict is Verdict.OFF:
            self._enter(State.DRAINING)
            self._leave_by = now + _STOP_TIME
            self._workload.begin_release()
        elif verdict is Verdict.DRAIN:
            self._enter(State.DRAINING)
            if self._workload.empty and not self._receiver.polling:
                self._go_off(now, self._retirement.why)
        elif verdict is Verdict.LAST_LOOK:
            self._look_last(now)
        else:
            self._enter(State.RUNNING)
            self._poll(now, self._retirement.poll_time(now=now, idle_since=idle_since))

    def _look_last(self, now: float) -> None:
        """One poll more between the decision to go and going: the one that finds what came meanwhile."""
        polling = self._polling
        if self._receiver.polling:
            return
        if polling.last_look_was_empty or not self._workload.storing or not self._room.enough:
            self._go_off(now, self._room.error or "idle")
            return
        self._enter(State.DRAINING)
        polling.last_look = True
        self._order_poll(1, _LAST_LOOK_TIME, now)

    def _poll(self, now: float, wait_time: float) -> None:
        self._polling.last_look_was_empty = False
        n_wanted = min(_MAX_MESSAGES, self._workload.n_wanted)
        if self._receiver.polling or not n_wanted or now < self._polling.resume or not self._workload.storing:
            return
        if not self._room.enough:
            self._vitals.last_error = self._room.error
            for slot in self._slots:
                slot.let_go()  # what its job wrote may be what fills the disk
            return
        self._order_poll(n_wanted, wait_time, now)

    def _order_poll(self, max_messages: int, wait_time: float, now: float) -> None:
        self._workload.poll_ends = now + wait_time + _POLL_MARGIN
        self._receiver.poll(max_messages=max_messages, wait_time=wait_time)

    def _go_off(self, now: float, why: str) -> None:
        self._enter(State.OFF)
        self._log.event("power_off", why=why, pid=os.getpid())
        self._power_off_next = now
        self._escalate(now)

    def _escalate(self, now: float) -> None:
        # no heartbeat any more, and never an exit with 0: if this fails, the dead-man's timer is next
        if now >= self._power_off_next:
            command = self._power_off(self._power_off_tries)
            self._log.event("power_off_asked", command=" ".join(command), tries=self._power_off_tries)
            self._power_off_tries += 1
            self._power_off_next = now + _POWER_OFF_PATIENCE
