"""An instance's lines to CloudWatch Logs, through watchtower, slowing nobody."""

from __future__ import annotations

import json
import random
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wren_worker.aws.session import Aws

if TYPE_CHECKING:
    from types_boto3_logs import CloudWatchLogsClient

__all__ = ["CloudWatchSink"]

#: Source: CloudWatch Logs PutLogEvents, read 2026-11: 1 MiB counting 26 bytes an event, 10,000 events, 24 h span.
BATCH_BYTES = 1_000_000
BATCH_EVENTS = 10_000
BATCH_SPAN_TIME = 86_400.0 - 60.0
EVENT_OVERHEAD_BYTES = 26
#: watchtower cuts above 256 KiB, in the middle of the JSON; so a line is cut here first, where it stays JSON.
MAX_LINE_BYTES = 240 * 1024
MAX_BUFFER_BYTES = 8 * 1024 * 1024
MAX_BUFFER_LINES = 20_000
_FIRST_PAUSE_TIME = 1.0
_MAX_PAUSE_TIME = 16.0
_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    stream: str
    timestamp: float
    text: str
    n_bytes: int


class CloudWatchSink:
    """Fills ``ports.LogSink``: a bounded buffer and one daemon thread of its own behind it.

    When the buffer is full the oldest lines go, counted; when the service comes back a line says how many.
    The group must exist (an instance may not create it); a stream is created at its first line.

    Args:
        aws: The identity to act as.
        group: The log group.
        instance_id: Begins the streams' names.
        send_interval: Seconds for which lines gather.
        max_lines: Bound of the buffer.
    """

    def __init__(
        self,
        aws: Aws,
        group: str,
        instance_id: str,
        *,
        send_interval: float = 1.0,
        max_lines: int = MAX_BUFFER_LINES,
        max_bytes: int = MAX_BUFFER_BYTES,
    ) -> None:
        self._shipper = _Shipper(aws, group)
        self._instance_id = instance_id
        self._send_interval = send_interval
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._lines: deque[_Line] = deque()
        self._n_bytes = 0
        self._n_dropped = 0
        self._n_reported = 0
        self._closing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wren-log-shipper", daemon=True)
        self._thread.start()

    def put(self, stream: str, timestamp: float, fields: Mapping[str, object]) -> None:
        """Take one line for ``<instance id>-<stream>``; never blocks and never raises."""
        try:
            text = _line_text(fields)
        except (TypeError, ValueError, RecursionError):
            text = json.dumps({"event": "log_line_unprintable"})
        line = self._line(stream, timestamp, text)
        with self._changed:
            if self._closing:
                self._n_dropped += 1
                return
            self._lines.append(line)
            self._n_bytes += line.n_bytes
            while len(self._lines) > self._max_lines or self._n_bytes > self._max_bytes:
                self._n_bytes -= self._lines.popleft().n_bytes
                self._n_dropped += 1
            if len(self._lines) == 1:
                self._changed.notify()

    def dropped(self) -> int:
        """Return how many lines were dropped."""
        with self._changed:
            return self._n_dropped

    def close(self, *, timeout: float) -> None:
        """Send what is buffered, for at most so long; the thread, being a daemon, holds up no exit."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        self._stop.set()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._closing:
                    self._changed.wait()
                if self._closing and not self._lines:
                    return
                if not self._closing:
                    self._changed.wait_for(lambda: self._closing, timeout=self._send_interval)
                lines = [*self._lines, *self._drops()]
                self._lines.clear()
                self._n_bytes = 0
            for batch in _batches(lines):
                if not self._ship(batch):
                    with self._changed:
                        self._n_dropped += len(batch)

    def _ship(self, batch: Sequence[_Line]) -> bool:
        """Send one batch, waiting out a service in trouble for as long as the buffer may fill meanwhile."""
        pause_time = _FIRST_PAUSE_TIME
        for _ in range(_ROUNDS):
            if self._shipper.send(batch):
                return True
            if self._closing or self._stop.wait(pause_time * (0.5 + random.random() / 2)):  # noqa: S311 - jitter
                break
            pause_time = min(_MAX_PAUSE_TIME, pause_time * 2)
        return False

    def _drops(self) -> list[_Line]:
        """Return a line that says how many were dropped since the last one; it takes no place in the buffer."""
        n_new = self._n_dropped - self._n_reported
        self._n_reported = self._n_dropped
        return (
            [
                self._line(
                    "daemon",
                    time.time(),
                    json.dumps({"event": "log_lines_dropped", "level": "WARNING", "n_lines": n_new}),
                )
            ]
            if n_new
            else []
        )

    def _line(self, stream: str, timestamp: float, text: str) -> _Line:
        return _Line(
            stream=f"{self._instance_id}-{stream}",
            timestamp=timestamp,
            text=text,
            n_bytes=len(text) + EVENT_OVERHEAD_BYTES,  # json.dumps gives ASCII: characters are bytes
        )


class _Shipper:
    """watchtower, kept to what it is good at: creating streams and sending batches in order.

    Its own queues are unbounded, its threads one a stream, and its flush waits 30 s a stream; so they stay off
    (``use_queues=False``) and it is never attached to a logger: nothing that is logged can recurse into it, and
    ``logging.shutdown`` finds nothing in it to wait for. Used by the shipping thread alone.
    """

    def __init__(self, aws: Aws, group: str) -> None:
        self._aws = aws
        self._group = group
        self._handler: Any = None
        self._client: _WitnessedClient | None = None

    def send(self, batch: Sequence[_Line]) -> bool:
        """Send lines of one stream; return whether CloudWatch took the request."""
        try:
            handler, client = self._ready()
            client.taken = False
            stream = batch[0].stream
            handler.sequence_tokens.setdefault(stream, None)
            events = [{"timestamp": int(line.timestamp * 1000), "message": line.text} for line in batch]
            # the first answer for a new stream is that it does not exist; watchtower then creates it and tries again
            handler._submit_batch(events, stream, max_retries=2)
        except Exception:  # noqa: BLE001 - whatever the log service does must not end the shipping thread
            return self._client is not None and self._client.taken
        return client.taken

    def _ready(self) -> tuple[Any, _WitnessedClient]:
        if self._handler is None or self._client is None:
            import watchtower  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415 - imports boto3

            # a line that could not be delivered is counted; a warning on stderr for each would be a flood
            warnings.filterwarnings("ignore", category=watchtower.WatchtowerWarning)
            client = _WitnessedClient(self._aws.logs_shipping())
            witnessed: Any = client  # watchtower asks for botocore's class and uses three names of it
            self._handler = watchtower.CloudWatchLogHandler(
                log_group_name=self._group,
                log_stream_name="unused",
                use_queues=False,
                boto3_client=witnessed,
                create_log_group=False,
                create_log_stream=True,
            )
            self._client = client
        return self._handler, self._client


class _WitnessedClient:
    """The part of a CloudWatch Logs client that watchtower uses; remembers whether a batch was taken."""

    def __init__(self, client: CloudWatchLogsClient) -> None:
        self._client = client
        self.exceptions = client.exceptions
        self.create_log_stream: Callable[..., Any] = client.create_log_stream
        self.taken = False

    def put_log_events(self, **request: Any) -> Any:
        """Send, without the sequence token that CloudWatch has ignored since 2023."""
        request.pop("sequenceToken", None)
        answer = self._client.put_log_events(**request)
        self.taken = True
        return answer


def _line_text(fields: Mapping[str, object]) -> str:
    text = json.dumps(fields, default=str)
    if len(text) <= MAX_LINE_BYTES:
        return text
    longest = max(fields, key=lambda name: len(str(fields[name])))
    cut = str(fields[longest])[: MAX_LINE_BYTES // 12]  # a character takes up to 12 bytes in ASCII JSON
    text = json.dumps({**fields, longest: cut, "truncated": longest}, default=str)
    return text if len(text) <= MAX_LINE_BYTES else json.dumps({"event": "log_line_too_long", "n_bytes": len(text)})


def _batches(lines: Sequence[_Line]) -> Iterator[list[_Line]]:
    """Yield batches of one stream each, in time order, within the limits of a request."""
    streams: dict[str, list[_Line]] = {}
    for line in lines:
        streams.setdefault(line.stream, []).append(line)
    for found in streams.values():
        batch: list[_Line] = []
        n_bytes = 0
        for line in sorted(found, key=lambda item: item.timestamp):
            full = n_bytes + line.n_bytes > BATCH_BYTES or len(batch) == BATCH_EVENTS
            if batch and (full or line.timestamp - batch[0].timestamp > BATCH_SPAN_TIME):
                yield batch
                batch, n_bytes = [], 0
            batch.append(line)
            n_bytes += line.n_bytes
        if batch:
            yield batch
