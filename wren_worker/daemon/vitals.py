"""Signs of life: the heartbeat file for the dead-man's timer, the state object for everybody else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from wren_worker.clock import Clock
from wren_worker.config import InstanceConfig
from wren_worker.daemon.events import State
from wren_worker.daemon.holding import Holding
from wren_worker.daemon.publisher import Publisher
from wren_worker.protocol.model import state_key

__all__ = ["Vitals"]

_BEAT_INTERVAL = 0.5
_STATE_INTERVAL = 300.0
_BUSY_STATE_INTERVAL = 60.0
_AGAIN_INTERVAL = 2.0
_FLIP_INTERVAL = 10.0


class Vitals:
    """Writes both, from the loop only: a loop that hangs must look dead.

    Args:
        config: The instance's.
        instance_id: Its id.
        run_dir: A folder on tmpfs, which works when the disk is full.
        n_slots: Told to readers.
        clock: The machine's clock, the dead-man's too.
        publisher: Carries the state object.
    """

    def __init__(
        self,
        *,
        config: InstanceConfig,
        instance_id: str,
        run_dir: Path,
        n_slots: int,
        clock: Clock,
        publisher: Publisher,
    ) -> None:
        self._config = config
        self._instance_id = instance_id
        self._heartbeat = run_dir / "heartbeat"
        self._n_slots = n_slots
        self._clock = clock
        self._publisher = publisher
        self._next_beat = 0.0
        self._next_state = 0.0
        self._last_show = 0.0
        self._last_state: State | None = None
        self._held_long = False
        self._was_busy = False
        self.last_error = ""

    def show(self, state: State, holdings: Sequence[Holding], *, n_busy: int, idle_since: float | None) -> None:
        """Beat, and write the state object when it is due or the state changed."""
        now = self._clock.monotonic()
        if now >= self._next_beat and state is not State.OFF:
            with suppress(OSError):  # should its place be full after all, the dead-man's turn comes
                self._heartbeat.write_text(f"{now:.3f}\n")
            self._next_beat = now + _BEAT_INTERVAL
        if not self._publisher.state_written:
            self._next_state = min(self._next_state, self._last_show + _AGAIN_INTERVAL)
        if (idle_since is None) is not self._was_busy:
            # readers want to know, but a state for every short chunk would cost more than it is worth
            self._next_state = min(self._next_state, self._last_show + _FLIP_INTERVAL)
        held_long = any(now - holding.held_since > _BUSY_STATE_INTERVAL for holding in holdings)
        if now < self._next_state and state is self._last_state and held_long <= self._held_long:
            return
        self._last_state, self._held_long, self._last_show = state, held_long, now
        self._was_busy = idle_since is None
        self._next_state = now + (_BUSY_STATE_INTERVAL if held_long else _STATE_INTERVAL)
        timestamp = self._clock.timestamp()
        facts = {
            "instance_id": self._instance_id,
            "slots": self._n_slots,
            "busy": n_busy,
            "held": [f"{holding.chunk.job_id}/{holding.chunk.chunk_id}" for holding in holdings],
            "state": state.value,
            "version": self._config.version,
            "python": self._config.python,
            "timestamp": timestamp,
            "idle_timeout": self._config.idle_timeout,
            "idle_since_timestamp": None if idle_since is None else timestamp - (now - idle_since),
            "last_error": self.last_error,
        }
        self._publisher.put_state(state_key(self._instance_id), json.dumps(facts).encode())
