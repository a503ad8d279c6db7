"""A metadata service as EC2's: versioned paths, listings, tokens enforced. Every request is noted.

What it says is read anew each time from a JSON file, so a scenario changes it while the machine runs.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from network import MAC, MACHINE_IP

ROLE = "wren-drill-instance"


def _facts(state: dict[str, Any]) -> dict[str, str]:
    keys = {
        "Code": "Success",
        "LastUpdated": "2026-01-01T00:00:00Z",
        "Type": "AWS-HMAC",
        "AccessKeyId": "ASIADRILL00000000000",
        "SecretAccessKey": "drill",
        "Token": "drill",
        "Expiration": "2036-01-01T00:00:00Z",
    }
    address = state.get("address", MACHINE_IP)
    network = f"network/interfaces/macs/{MAC}/"
    facts = {
        "ami-id": "ami-0123456789abcdef0",
        "instance-id": state["instance_id"],
        "instance-type": "c6i.large",
        "instance-life-cycle": "on-demand",
        "hostname": "ip-10-99-0-2.ec2.internal",
        "local-hostname": "ip-10-99-0-2.ec2.internal",
        "local-ipv4": address,
        "mac": MAC,
        "placement/availability-zone": "us-east-1a",
        "placement/region": "us-east-1",
        "iam/info": json.dumps({"Code": "Success", "InstanceProfileArn": "arn:aws:iam::1:instance-profile/wren"}),
        "iam/security-credentials/": ROLE,
        f"iam/security-credentials/{ROLE}": json.dumps(keys),
        f"{network}device-number": "0",
        f"{network}local-ipv4s": address,
        f"{network}subnet-ipv4-cidr-block": f"{address.rpartition('.')[0]}.0/24",
    }
    facts |= {f"tags/instance/{key}": value for key, value in state.get("tags", {}).items()}
    if state.get("interruption"):
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(state["interruption"]))
        facts["spot/instance-action"] = json.dumps({"action": "terminate", "time": moment})
    return facts


def _look_up(facts: dict[str, str], path: str) -> str | None:
    if path in facts:
        return facts[path]
    prefix = path if path.endswith("/") or not path else f"{path}/"
    names = {name[len(prefix) :] for name in facts if name.startswith(prefix)}
    heads = {head + ("/" if tail else "") for head, _, tail in (name.partition("/") for name in names)}
    return "\n".join(sorted(heads)) or None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state_path: Path
    log_path: Path
    tokens: set[str]

    def do_PUT(self) -> None:
        asked = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if not self.path.endswith("/api/token") or not asked.isdigit():
            self._answer(400, b"")
            return
        token = secrets.token_urlsafe(24)
        self.tokens.add(token)
        self._answer(200, token.encode(), ttl=asked)

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") not in self.tokens:
            self._answer(401, b"")
            return
        state = json.loads(self.state_path.read_text())
        _, _, path = self.path.lstrip("/").partition("/")
        found: str | bytes | None = None
        if path.rstrip("/") == "user-data":
            found = Path(state["user_data"]).read_bytes()
        elif path.startswith("meta-data"):
            found = _look_up(_facts(state), path.removeprefix("meta-data").lstrip("/"))
        elif path.startswith("dynamic"):
            document = {"instanceId": state["instance_id"], "region": "us-east-1", "accountId": "123456789012"}
            facts = {"instance-identity/document": json.dumps(document)}
            found = _look_up(facts, path.removeprefix("dynamic").lstrip("/"))
        self._answer(404 if found is None else 200, found.encode() if isinstance(found, str) else found or b"")

    def _answer(self, status: int, body: bytes, ttl: str = "") -> None:
        line = {
            "timestamp": round(time.time(), 3),
            "method": self.command,
            "path": self.path,
            "token": "X-aws-ec2-metadata-token" in self.headers,
            "status": status,
            "agent": self.headers.get("User-Agent", "")[:40],
        }
        with self.log_path.open("a") as log:
            log.write(json.dumps(line) + "\n")
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if ttl:
            self.send_header("X-aws-ec2-metadata-token-ttl-seconds", ttl)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(state_path: Path, log_path: Path) -> None:
    """Serve in a thread, on every address of this namespace: qemu's network leads to its loopback."""
    handler = type("Handler", (_Handler,), {"state_path": state_path, "log_path": log_path, "tokens": set()})
    server = ThreadingHTTPServer(("", 80), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
