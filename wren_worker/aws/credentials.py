"""Credentials that AWS calls expired although nobody here knows of it: asked for anew, and the request made again."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from typing import Any

from wren_worker.clock import Clock, SystemClock

__all__ = ["Renewal"]

_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidToken", "RequestExpired"})
#: What another thread has just renewed is not renewed again.
_FRESH_TIME = 5.0


class Renewal:
    """Handles botocore's event ``needs-retry`` of the clients of one session.

    botocore renews a role's credentials well before they end by the local clock. A clock that is late, or a role whose
    sessions were revoked, shows only in AWS's answer: then they are dropped, once, and the request is signed anew.

    Args:
        credentials: Returns the session's, asked only when they are said to have expired; None, or some that never
            expire, cannot be renewed.
        clock: Measures.
    """

    def __init__(self, credentials: Callable[[], Any], clock: Clock | None = None) -> None:
        self._credentials = credentials
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._renewed = float("-inf")

    def watch(self, client: Any) -> None:
        """Handle a client's expired credentials."""
        client.meta.events.register_first("needs-retry", self._needs_retry)

    def _needs_retry(self, response: Any, attempts: int, **_: object) -> float | None:
        if response is None or attempts > 1:
            return None
        code = str(response[1].get("Error", {}).get("Code", "")).rpartition("#")[2]
        return 0.0 if code in _EXPIRED and self._renew() else None

    def _renew(self) -> bool:
        credentials = self._credentials()
        if getattr(credentials, "_expiry_time", None) is None:
            return False
        with self._lock:
            now = self._clock.monotonic()
            if now - self._renewed > _FRESH_TIME:
                self._renewed = now
                # the next signature finds them expired and asks for others
                credentials._expiry_time = datetime.datetime.now(datetime.UTC)
        return True
