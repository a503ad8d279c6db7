"""Receipt handles as the callers know them: second ones for messages delivered twice, and which are stale.

Source: SQS DeleteMessage, read 2026-11: with an old handle "the request succeeds, but the message might not
be deleted".
"""

from __future__ import annotations

import json
from typing import Any

from wren_worker.chaos.http import Request
from wren_worker.chaos.record import Entry
from wren_worker.chaos.subject import Subject

__all__ = ["Handles"]

_MARK = "~again"
_HANDLED = frozenset(("DeleteMessage", "DeleteMessageBatch", "ChangeMessageVisibility", "ChangeMessageVisibilityBatch"))


class Handles:
    """What the proxy saw of messages. Touched by its loop only."""

    def __init__(self) -> None:
        self._latest: dict[str, str] = {}  # message id -> receipt handle
        self._message: dict[str, str] = {}  # receipt handle -> message id
        self._spare: dict[str, list[tuple[str, dict[str, Any]]]] = {}  # queue -> (not for whom, message)
        self._n_copies = 0

    def learn(self, entry: Entry) -> None:
        """Take in what was received."""
        for delivery in entry.deliveries:
            self._latest[delivery.message_id] = delivery.receipt_handle
            self._message[delivery.receipt_handle] = delivery.message_id

    def is_stale(self, handle: str) -> bool:
        """Return whether the message was delivered again since."""
        handle = handle.partition(_MARK)[0]
        return self._latest.get(self._message.get(handle, "")) not in (handle, None)

    def real(self, subject: Subject, request: Request) -> Request:
        """Return the request with the handles that AWS knows."""
        if subject.operation.partition(".")[2] not in _HANDLED or _MARK.encode() not in request.body:
            return request
        content = json.loads(request.body)
        for one in content.get("Entries") or [content]:
            one["ReceiptHandle"] = one["ReceiptHandle"].partition(_MARK)[0]
        return Request(request.method, request.path, request.headers, json.dumps(content).encode())

    def keep_for_another(self, queue: str, caller: str, message: dict[str, Any]) -> None:
        """Keep a copy of a message, under a handle of its own, for the next who asks and is not ``caller``."""
        self._n_copies += 1
        handle = f"{message['ReceiptHandle'].partition(_MARK)[0]}{_MARK}{self._n_copies}"
        self._spare.setdefault(queue, []).append((caller, {**message, "ReceiptHandle": handle}))

    def take_spares(self, queue: str, caller: str) -> list[dict[str, Any]]:
        """Return up to ten copies kept for whoever asks now."""
        kept = self._spare.get(queue)
        if not kept:
            return []
        taken = [one for one in kept if one[0] != caller][:10]
        self._spare[queue] = [one for one in kept if one not in taken]
        return [message for _, message in taken]
