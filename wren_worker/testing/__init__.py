"""Queues, a store and a clock in memory, for your tests and ours: no AWS, no network, no files.

They fill ``protocol.ports`` with the semantics of SQS and S3 that matter: a received message is invisible until its
lease ends and then comes back with a higher receive count; a message received too often goes to the dead letters;
an object can be written once. One contract suite runs over these and over the real ones, so they do not drift.

Where AWS leaves something open, these take the side that finds bugs: an outdated receipt handle extends nothing and
deletes nothing. All of them may be shared between threads.
"""

from __future__ import annotations

from wren_worker.testing.clock import FakeClock
from wren_worker.testing.queues import MemoryPostOffice, MemoryReplyQueue, MemoryReplySender, MemoryTaskQueue
from wren_worker.testing.store import LogLine, MemoryLogSink, MemoryStore

__all__ = [
    "FakeClock",
    "LogLine",
    "MemoryLogSink",
    "MemoryPostOffice",
    "MemoryReplyQueue",
    "MemoryReplySender",
    "MemoryStore",
    "MemoryTaskQueue",
]
