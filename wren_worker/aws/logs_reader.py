"""Reading the log group back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from wren_worker.aws.errors import Fault, classify, explain, is_aws_error
from wren_worker.aws.session import Aws
from wren_worker.clock import Clock, SystemClock
from wren_worker.errors import FleetError
from wren_worker.protocol.ports import LogEvent

if TYPE_CHECKING:
    from types_boto3_logs.type_defs import FilteredLogEventTypeDef, FilterLogEventsRequestTypeDef

__all__ = ["CloudWatchReader"]

#: Source: CloudWatch Logs FilterLogEvents, read 2026-11: at most 100 stream names; lines appear after seconds.
MAX_STREAMS = 100
#: A follower looks this far back at each poll, since lines of several instances do not arrive in time order.
OVERLAP_TIME = 60.0


class CloudWatchReader:
    """Fills ``ports.LogReader``. Safe to share between threads."""

    def __init__(self, aws: Aws, group: str, *, clock: Clock | None = None) -> None:
        self._aws = aws
        self._group = group
        self._clock = clock or SystemClock()

    def events(
        self, *, streams: Sequence[str] = (), start_timestamp: float | None = None, pattern: str = ""
    ) -> Iterator[LogEvent]:
        """Yield stored lines in time order; ``pattern`` is a CloudWatch Logs filter pattern.

        Raises:
            FleetError: CloudWatch refused; a group or stream that does not exist yet is merely empty.
        """
        for event in self._stored(streams, start_timestamp, pattern):
            yield _event(event)

    def follow(
        self,
        *,
        streams: Sequence[str] = (),
        start_timestamp: float | None = None,
        pattern: str = "",
        poll_interval: float = 2.0,
        go_on: Callable[[], bool] = lambda: True,
    ) -> Iterator[LogEvent]:
        """Yield stored lines, then new ones as they appear, each once, until ``go_on`` says no.

        Raises:
            FleetError: CloudWatch refused.
        """
        seen: dict[str, float] = {}
        newest = self._clock.timestamp() if start_timestamp is None else start_timestamp
        earliest = newest
        while True:
            for event in self._stored(streams, max(earliest, newest - OVERLAP_TIME), pattern):
                identity = event.get("eventId", "")
                if identity in seen:
                    continue
                line = _event(event)
                seen[identity] = line.timestamp
                newest = max(newest, line.timestamp)
                yield line
            seen = {name: at for name, at in seen.items() if at >= newest - OVERLAP_TIME}
            if not go_on():
                return
            self._clock.sleep(poll_interval)

    def _stored(
        self, streams: Sequence[str], start_timestamp: float | None, pattern: str
    ) -> Iterator[FilteredLogEventTypeDef]:
        # AWS always answers in time order over all streams; an emulator has to be asked for it
        request: FilterLogEventsRequestTypeDef = {"logGroupName": self._group, "interleaved": True}
        wanted = set(streams)
        if 0 < len(wanted) <= MAX_STREAMS:
            request["logStreamNames"] = sorted(wanted)
        if start_timestamp is not None:
            request["startTime"] = max(0, int(start_timestamp * 1000))
        if pattern:
            request["filterPattern"] = pattern
        token = ""
        while True:
            if token:
                request["nextToken"] = token
            try:
                page = self._aws.logs().filter_log_events(**request)
            except Exception as error:
                if not is_aws_error(error):
                    raise
                if classify(error) is Fault.GONE:
                    return
                raise FleetError(explain(error)) from error
            for event in page["events"]:
                if not wanted or event.get("logStreamName") in wanted:
                    yield event
            following = page.get("nextToken", "")
            if not following or following == token:
                return
            token = following


def _event(event: FilteredLogEventTypeDef) -> LogEvent:
    return LogEvent(
        stream=event.get("logStreamName", ""),
        timestamp=event.get("timestamp", 0) / 1000,
        message=event.get("message", ""),
    )
