"""What a request is about, read from its bytes: who asks, which operation, of what."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs, unquote

from wren_worker.chaos.http import Request

__all__ = ["CLIENT", "Subject", "subject_of"]

#: Who asks without an instance's credentials.
CLIENT = "client"
_TOKEN = "sandbox-"  # noqa: S105 - how the sandbox's metadata service begins an instance's session token


@dataclass(frozen=True)
class Subject:
    """One request's meaning.

    ``operation`` is "sqs.ReceiveMessage", as the sandbox counts it; ``key`` is a queue's name or an object's key;
    ``caller`` an instance id or ``CLIENT``.
    """

    operation: str
    key: str
    caller: str
    request: Request

    @cached_property
    def content(self) -> dict[str, Any]:
        """Return the JSON of a request to SQS or Logs, {} of any other."""
        try:
            found = json.loads(self.request.body) if self.operation.startswith(("sqs.", "logs.")) else {}
        except ValueError:
            found = {}
        return found if isinstance(found, dict) else {}

    @property
    def is_conditional(self) -> bool:
        """Return whether it writes only where nothing is."""
        return self.request.headers.get("if-none-match") == "*"

    @property
    def service(self) -> str:
        """Return the service: "sqs", "s3", "logs"."""
        return self.operation.partition(".")[0]


def subject_of(request: Request) -> Subject:
    """Return what a request is about."""
    headers = request.headers
    token = headers.get("x-amz-security-token", "")
    caller = token.removeprefix(_TOKEN) if token.startswith(_TOKEN) else CLIENT
    scope = headers.get("authorization", "").partition("Credential=")[2].split("/", 4)
    service = scope[3] if len(scope) == 5 else "s3"
    path, _, query = request.path.partition("?")
    if target := headers.get("x-amz-target", ""):
        name = f"{service}.{target.rpartition('.')[2]}"
        return Subject(name, _queue_name(request) if service == "sqs" else "", caller, request)
    if service != "s3":
        action = parse_qs(request.body.decode("latin-1") or query).get("Action", ["Unknown"])[0]
        return Subject(f"{service}.{action}", "", caller, request)
    bucket, _, key = unquote(path).lstrip("/").partition("/")
    operation = _s3_operation(request, bucket, key, query)
    if operation == "ListObjectsV2":
        key = parse_qs(query).get("prefix", [""])[0]
    return Subject(f"s3.{operation}", key, caller, request)


def _queue_name(request: Request) -> str:
    # the address stands at the front or the end of the JSON; a body may be a megabyte that nobody needs parsed here
    start = request.body.find(b'"QueueUrl"')
    if start < 0:
        start = request.body.find(b'"QueueName"')
    parts = request.body[start : start + 400].split(b'"', 4) if start >= 0 else []
    return parts[3].decode("latin-1").rpartition("/")[2] if len(parts) > 3 else ""


def _s3_operation(request: Request, bucket: str, key: str, query: str) -> str:  # noqa: PLR0911 - one line per kind
    method = request.method
    if not bucket:
        return "ListBuckets"
    if not key:
        if "list-type=2" in query:
            return "ListObjectsV2"
        if method == "POST" and "delete" in query:
            return "DeleteObjects"
        return f"{method.title()}Bucket{':' + query.partition('=')[0] if query else ''}"
    if method == "POST":
        return "CreateMultipartUpload" if query.startswith("uploads") else "CompleteMultipartUpload"
    if "uploadId=" in query:
        return {"PUT": "UploadPart", "DELETE": "AbortMultipartUpload"}.get(method, "ListParts")
    if method == "PUT" and "x-amz-copy-source" in request.headers:
        return "CopyObject"
    return f"{method.title()}Object"
