"""An instance's own metadata service, IMDSv2 only, on a loopback port of its own.

Runs in the sandbox's process, a thread per connection. Tags are read from EC2 at every request, so that
``wren:drain`` is seen as soon as it is set.

Source: "Use the Instance Metadata Service" and "Instance metadata categories", EC2 User Guide, read 2026-11.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["Identity", "MetadataServer"]

_CREDENTIALS_TIME = 6 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What an instance may learn about itself. ``tags`` is asked anew each time; None when the launch hid them."""

    instance_id: str
    instance_type: str
    image_id: str
    region: str
    zone: str
    account: str
    private_ip: str
    launch_timestamp: float
    role: Callable[[], str]
    access_key: str
    user_data: bytes | None
    spot: bool
    tags: Callable[[], Mapping[str, str] | None]


class MetadataServer:
    """Serves one identity from construction until ``close``."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._interruption: datetime | None = None
        self._tokens: dict[str, float] = {}

        class Handler(_Handler):
            metadata = self

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="imds", daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Return the address for AWS_EC2_METADATA_SERVICE_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop serving, within half a second; the hypervisor does not wait for it."""
        threading.Thread(target=self._shut, name="imds-close", daemon=True).start()

    def _shut(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def announce_interruption(self, notice_time: float) -> None:
        """Publish a spot interruption notice for ``notice_time`` seconds from now."""
        self._interruption = datetime.now(UTC) + timedelta(seconds=notice_time)

    def new_token(self, ttl_time: int) -> str:
        """Return a session token."""
        token = secrets.token_urlsafe(24)
        self._tokens[token] = time.monotonic() + ttl_time
        return token

    def knows(self, token: str | None) -> bool:
        """Return whether the token is one of ours and not yet too old."""
        return token is not None and self._tokens.get(token, 0.0) > time.monotonic()

    def answer(self, path: str) -> bytes | None:
        """Return what lies at a path under /latest/, None when there is nothing."""
        identity = self.identity
        if path == "user-data":
            return identity.user_data
        if path == "dynamic/instance-identity/document":
            return self._document().encode()
        if not path.startswith("meta-data/"):
            return None
        path = path.removeprefix("meta-data/")
        text = self._facts().get(path)
        if text is None and path.startswith("iam/"):
            text = self._iam(path)
        elif text is None and path.startswith("tags/instance"):
            text = self._tag(path.removeprefix("tags/instance").strip("/"))
        return None if text is None else text.encode()

    def _facts(self) -> dict[str, str]:
        identity = self.identity
        facts = {
            "ami-id": identity.image_id,
            "instance-id": identity.instance_id,
            "instance-type": identity.instance_type,
            "instance-life-cycle": "spot" if identity.spot else "on-demand",
            "local-ipv4": identity.private_ip,
            "placement/region": identity.region,
            "placement/availability-zone": identity.zone,
        }
        if self._interruption is not None:
            moment = self._interruption.strftime("%Y-%m-%dT%H:%M:%SZ")
            facts["spot/instance-action"] = json.dumps({"action": "terminate", "time": moment})
            facts["spot/termination-time"] = moment
        return facts

    def _iam(self, path: str) -> str | None:
        role = self.identity.role()
        if not role:
            return None
        if path.rstrip("/") == "iam/security-credentials":
            return role
        if path != f"iam/security-credentials/{role}":
            return None
        now = datetime.now(UTC)
        return json.dumps(
            {
                "Code": "Success",
                "LastUpdated": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "Type": "AWS-HMAC",
                "AccessKeyId": self.identity.access_key,
                "SecretAccessKey": "sandbox",
                "Token": f"sandbox-{self.identity.instance_id}",
                "Expiration": (now + timedelta(seconds=_CREDENTIALS_TIME)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )

    def _tag(self, key: str) -> str | None:
        tags = self.identity.tags()
        if tags is None:
            return None
        return tags.get(key) if key else "\n".join(sorted(tags))

    def _document(self) -> str:
        identity = self.identity
        pending = datetime.fromtimestamp(identity.launch_timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return json.dumps(
            {
                "accountId": identity.account,
                "architecture": "x86_64",
                "availabilityZone": identity.zone,
                "imageId": identity.image_id,
                "instanceId": identity.instance_id,
                "instanceType": identity.instance_type,
                "pendingTime": pending,
                "privateIp": identity.private_ip,
                "region": identity.region,
                "version": "2017-09-30",
            }
        )


class _Handler(BaseHTTPRequestHandler):
    """One connection; ``metadata`` is set by a subclass per server."""

    metadata: MetadataServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_PUT(self) -> None:
        """Hand out a token."""
        ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token":
            self._send(HTTPStatus.NOT_FOUND)
        elif not ttl.isdigit() or not 1 <= int(ttl) <= 21600 or "X-Forwarded-For" in self.headers:
            self._send(HTTPStatus.BAD_REQUEST)
        else:
            header = ("X-aws-ec2-metadata-token-ttl-seconds", ttl)
            self._send(HTTPStatus.OK, self.metadata.new_token(int(ttl)).encode(), header)

    def do_GET(self) -> None:
        """Answer one question."""
        if not self.metadata.knows(self.headers.get("X-aws-ec2-metadata-token")):
            self._send(HTTPStatus.UNAUTHORIZED)
            return
        found = self.metadata.answer(self.path.removeprefix("/latest/")) if self.path.startswith("/latest/") else None
        if found is None:
            self._send(HTTPStatus.NOT_FOUND)
        else:
            self._send(HTTPStatus.OK, found)

    def _send(self, status: HTTPStatus, body: bytes = b"", *headers: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the console quiet."""
