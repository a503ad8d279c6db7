"""The three S3 operations that move bytes, answered without moto's machinery, and moto's objects without its copies.

moto keeps buckets, keys and uploads, and everything else is its own business: an answer of None here leaves the request
to it, errors included. Measured on 96 MB in parts of 16: moto takes 0.9 s of CPU for the upload, most of it copies.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Protocol

from moto.s3.models import FakeBucket, FakeKey, FakeMultipart, S3Backend, s3_backends

__all__ = ["Answer", "answer", "mend_objects"]

_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")
_UPLOAD = re.compile(r"uploadId=([^&]+)&partNumber=(\d+)\Z|partNumber=(\d+)&uploadId=([^&]+)\Z")
#: What a plain request of ours may say of the object; anything more is moto's.
_PLAIN = frozenset(
    ("HTTP_X_AMZ_CONTENT_SHA256", "HTTP_X_AMZ_DATE", "HTTP_X_AMZ_SECURITY_TOKEN", "HTTP_X_AMZ_USER_AGENT")
)
_SMALLEST_PART = 5 * 1024 * 1024

Data = bytes | bytearray


class Body(Protocol):
    """Where a request's body is read from."""

    def readinto(self, target: bytearray, /) -> int | None:
        """Read as much as there is room for; return how much that was."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and the body in pieces."""

    status: HTTPStatus
    headers: list[tuple[str, str]]
    body: Sequence[bytes | memoryview] = ()


class _Rope(bytes):
    """An uploaded object as its parts, for moto to hand around; as bytes it is empty."""

    parts: tuple[Data, ...] = ()


def _rope(parts: Sequence[Data]) -> _Rope:
    rope = _Rope()
    rope.parts = tuple(parts)
    return rope


def answer(environ: Mapping[str, Any], *, account: str) -> Answer | None:
    """Answer one request; None when it is moto's."""
    # WSGI spells the bytes of a path as Latin-1
    bucket_name, _, key = str(environ["PATH_INFO"]).encode("latin-1").decode().lstrip("/").partition("/")
    if not key or any(name.startswith("HTTP_X_AMZ_") and name not in _PLAIN for name in environ):
        return None
    backend: S3Backend = s3_backends[account]["aws"]
    bucket = backend.buckets.get(bucket_name)
    if not isinstance(bucket, FakeBucket) or bucket.is_versioned or bucket.policy or bucket.encryption:
        return None
    method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
    if method == "GET":
        return None if query else _get(bucket, key, environ)
    if str(environ.get("HTTP_X_AMZ_CONTENT_SHA256", "")).startswith("STREAMING"):
        return None
    if not query:
        return _put(backend, bucket, key, environ)
    found = _UPLOAD.match(query)
    return _put_part(bucket, found[1] or found[4], int(found[2] or found[3]), environ) if found else None


def _body(environ: Mapping[str, Any]) -> Data:
    source: Body = environ["wsgi.input"]
    body = bytearray(int(environ.get("CONTENT_LENGTH") or 0))
    if body and source.readinto(body) != len(body):
        raise ConnectionError("the request's body ended early")
    return body


def _etag(environ: Mapping[str, Any], body: Data) -> str:
    """Return an ETag: of large bodies not the MD5, as with S3's own encrypted objects."""
    told = str(environ.get("HTTP_X_AMZ_CONTENT_SHA256", ""))
    if len(body) > 65536 and len(told) == 64:
        return told[:32]
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


_writing = threading.Lock()


def _put(backend: S3Backend, bucket: FakeBucket, key: str, environ: Mapping[str, Any]) -> Answer | None:
    once = environ.get("HTTP_IF_NONE_MATCH") == "*"
    if "HTTP_IF_MATCH" in environ or (once and backend.get_object(bucket.name, key) is not None):
        return None
    body = _body(environ)
    etag = _etag(environ, body)
    with _writing:
        if once and backend.get_object(bucket.name, key) is not None:
            text = b"<Error><Code>PreconditionFailed</Code><Message>The key was taken meanwhile.</Message></Error>"
            return Answer(HTTPStatus.PRECONDITION_FAILED, [("Content-Type", "application/xml")], [text])
        backend.put_object(bucket.name, key, body, etag=etag)  # type: ignore[arg-type]  # kept as it is: see below
    return Answer(HTTPStatus.OK, [("ETag", f'"{etag}"')])


def _put_part(bucket: FakeBucket, upload_id: str, number: int, environ: Mapping[str, Any]) -> Answer | None:
    upload = bucket.multiparts.get(upload_id)
    if upload is None or not 1 <= number <= 10_000:
        return None
    body = _body(environ)
    etag = _etag(environ, body)
    upload.set_part(number, body)._etag = etag  # type: ignore[arg-type]  # kept as it is: see below
    return Answer(HTTPStatus.OK, [("ETag", f'"{etag}"')])


def _get(bucket: FakeBucket, key: str, environ: Mapping[str, Any]) -> Answer | None:
    found = bucket.keys.get(key)
    if not isinstance(found, FakeKey) or any(name.startswith("HTTP_IF_") for name in environ):
        return None
    parts: tuple[Data, ...] = found.__dict__["wren_parts"]
    n_bytes = found.contentsize
    start, end = 0, n_bytes
    wanted = environ.get("HTTP_RANGE")
    if wanted is not None:
        cut = _RANGE.match(wanted)
        if cut is None or int(cut[1]) >= n_bytes or (cut[2] and int(cut[2]) < int(cut[1])):
            return None
        start, end = int(cut[1]), min(n_bytes, int(cut[2]) + 1) if cut[2] else n_bytes
    headers = [
        ("ETag", found.etag),
        ("Content-Type", "binary/octet-stream"),
        ("Accept-Ranges", "bytes"),
        ("Last-Modified", formatdate(found.last_modified.timestamp(), usegmt=True)),
    ]
    body = list(_slices(parts, start, end))
    if wanted is None:
        return Answer(HTTPStatus.OK, headers, body)
    headers.append(("Content-Range", f"bytes {start}-{end - 1}/{n_bytes}"))
    return Answer(HTTPStatus.PARTIAL_CONTENT, headers, body)


def _slices(parts: Sequence[Data], start: int, end: int) -> Iterator[memoryview]:
    position = 0
    for part in parts:
        if position < end and position + len(part) > start:
            yield memoryview(part)[max(0, start - position) : end - position]
        position += len(part)


def mend_objects() -> None:
    """Make moto keep what it is given, instead of a copy in a temporary file, and join parts without copying them."""

    def get_value(key: FakeKey) -> bytes:
        parts: tuple[Data, ...] = key.__dict__["wren_parts"]
        return parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(parts)

    def set_value(key: FakeKey, value: Data | str) -> None:
        data = value.encode() if isinstance(value, str) else value
        key.__dict__["wren_parts"] = data.parts if isinstance(data, _Rope) else (data,)
        key.contentsize = sum(map(len, key.__dict__["wren_parts"]))

    def get_etag(key: FakeKey) -> str:
        if key._etag is None:
            key._etag = hashlib.md5(get_value(key), usedforsecurity=False).hexdigest()
        return f'"{key._etag}"'

    complete = FakeMultipart.complete

    def join_parts(upload: FakeMultipart, body: Iterator[tuple[int, str]]) -> Any:
        if upload.metadata.get("x-amz-checksum-algorithm"):
            return complete(upload, body)
        wanted = list(body)
        parts = [(upload.parts.get(number), etag.replace('"', "")) for number, etag in wanted]
        small = any(part is not None and part.contentsize < _SMALLEST_PART for part, _ in parts[:-1])
        if not parts or small or any(part is None or part._etag != etag for part, etag in parts):
            return complete(upload, iter(wanted))  # which words the error
        digest = hashlib.md5("".join(etag for _, etag in parts).encode(), usedforsecurity=False).hexdigest()
        rope = _rope([piece for part, _ in parts if part for piece in part.__dict__["wren_parts"]])
        upload.parts = {}
        return rope, f"{digest}-{len(parts)}", None

    FakeKey.value = property(get_value, set_value)  # type: ignore[assignment,method-assign]
    FakeKey.etag = property(get_etag)  # type: ignore[assignment,method-assign]
    FakeMultipart.complete = join_parts  # type: ignore[method-assign,assignment]
