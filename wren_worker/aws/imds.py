"""The instance's metadata service, version 2, with nothing but the standard library."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import datetime

from wren_worker.aws.retry import Backoff
from wren_worker.clock import Clock, SystemClock
from wren_worker.errors import FleetError

__all__ = ["ImdsMetadata"]

#: Source: EC2 User Guide, "Instance metadata", read 2026-11.
DEFAULT_ENDPOINT = "http://169.254.169.254"
_TOKEN_TIME = 21_600
_ATTEMPTS = 5
_NOTICE_TIME = 120.0


class ImdsMetadata:
    """Fills ``ports.Metadata``. Safe to share between threads.

    Args:
        environ: Where ``AWS_EC2_METADATA_SERVICE_ENDPOINT`` may stand.
        timeout: Seconds for one try.
    """

    def __init__(self, environ: Mapping[str, str], *, timeout: float = 2.0, clock: Clock | None = None) -> None:
        self._endpoint = (environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
        self._timeout = timeout
        self._clock = clock or SystemClock()
        # never through a proxy: the address is link-local and proxies in the environment are for the outside
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._lock = threading.Lock()
        self._token = ""
        self._token_deadline = 0.0
        self._constant: dict[str, str] = {}

    def instance_id(self) -> str:
        """Return the instance id.

        Raises:
            FleetError: The metadata service does not answer.
        """
        return self._once("instance-id")

    def instance_type(self) -> str:
        """Return the instance type.

        Raises:
            FleetError: The metadata service does not answer.
        """
        return self._once("instance-type")

    def tag(self, key: str) -> str | None:
        """Return one of the instance's own tags, None when it is not set.

        Raises:
            FleetError: The metadata service does not answer.
        """
        return self.get(f"tags/instance/{key}")

    def interruption(self) -> float | None:
        """Return when AWS takes this spot instance away (unix seconds), None while it does not mean to.

        Source: EC2 User Guide, "Spot Instance interruption notices", read 2026-11: two minutes before, at best.

        Raises:
            FleetError: The metadata service does not answer.
        """
        text = self.get("spot/instance-action")
        if text is None:
            return None
        try:
            return datetime.fromisoformat(json.loads(text)["time"]).timestamp()
        except (ValueError, KeyError, TypeError):
            # a notice that cannot be read is a notice all the same
            return self._clock.timestamp() + _NOTICE_TIME

    def get(self, path: str) -> str | None:
        """Return ``/latest/meta-data/<path>``, None where there is nothing.

        Raises:
            FleetError: The metadata service does not answer.
        """
        tries = Backoff(self._clock, timeout=_ATTEMPTS * (self._timeout + 1), base_time=0.2, cap_time=2.0)
        why = ""
        for _ in range(_ATTEMPTS):
            try:
                return self._request(f"/latest/meta-data/{path}", headers=self._headers())
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 404:
                    return None
                if error.code == 401:
                    self._forget_token()
                why = f"HTTP {error.code}"
            except (OSError, ValueError) as error:
                why = str(error)
            if not tries.wait():
                break
        raise FleetError(
            f"The instance metadata service at {self._endpoint} does not answer ({why}). "
            "Is it enabled, and is this an instance?"
        )

    def _once(self, path: str) -> str:
        if path not in self._constant:
            value = self.get(path)
            if not value:
                raise FleetError(f"The instance metadata service at {self._endpoint} has no {path}.")
            self._constant[path] = value
        return self._constant[path]

    def _headers(self) -> dict[str, str]:
        with self._lock:
            if self._clock.monotonic() >= self._token_deadline:
                self._token = self._request(
                    "/latest/api/token",
                    method="PUT",
                    headers={"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_TIME)},
                )
                self._token_deadline = self._clock.monotonic() + _TOKEN_TIME * 0.9
            return {"X-aws-ec2-metadata-token": self._token}

    def _forget_token(self) -> None:
        with self._lock:
            self._token_deadline = 0.0

    def _request(self, path: str, *, headers: Mapping[str, str], method: str = "GET") -> str:
        request = urllib.request.Request(self._endpoint + path, method=method, headers=dict(headers))  # noqa: S310 - the scheme is the operator's
        with self._opener.open(request, timeout=self._timeout) as answer:
            text: str = answer.read(65_536).decode("utf-8").strip()
            return text
