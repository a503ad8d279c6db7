"""The envelope that chunk messages, manifests, segments and result objects share, and checks of their headers.

Magic (4), wire major (1), signature scheme (1), 2 reserved bytes, signature (64), length of the JSON header (4),
header, payload. The signature will cover everything behind it; it is checked before the header is parsed. Scheme 0
is "not signed". Every length is checked against its bound before it is used, and nothing here unpickles.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from wren_worker.errors import WireError
from wren_worker.protocol.model import MAX_CALLS_PER_JOB, Limits

__all__ = [
    "MAX_HEADER_BYTES",
    "MAX_TABLE_BYTES",
    "WIRE_MAJOR",
    "WIRE_MINOR",
    "build",
    "check_identifier",
    "check_number",
    "check_range",
    "check_text",
    "known",
    "parse_object",
    "read_limits",
    "sha256_file",
    "sha256_hex",
    "unwrap",
    "wrap",
]

WIRE_MAJOR = 1
WIRE_MINOR = 0
MAX_HEADER_BYTES = 64 * 1024
#: Headers of segments list their cuts; a segment is ~8 MiB, so a cut a call still fits here.
MAX_TABLE_BYTES = 32 * 1024 * 1024

#: Source of the last: the task queue's own maxReceiveCount, after which a message is gone without a verdict.
_MOST_RETRIES, _MOST_ATTEMPTS, _MOST_DELIVERIES = 10_000, 1_000, 30

#: Lengths, offsets and instants stay far below.
_MAX_NUMBER = 2**63

_LIMIT_TIMES = frozenset({"timeout", "retry_delay", "retry_max_delay"})
_ENVELOPE = struct.Struct("<4sBBxx64sI")
_UNSIGNED = bytes(64)


def sha256_hex(data: bytes | memoryview) -> str:
    """Return the hex sha256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes, read as a stream."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def wrap(magic: bytes, header: dict[str, Any], *payload: bytes | memoryview) -> bytes:
    """Return an envelope around a header and payload parts."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((_ENVELOPE.pack(magic, WIRE_MAJOR, 0, _UNSIGNED, len(text)), text, *payload))


def unwrap(
    magic: bytes, data: bytes | memoryview, *, header_limit: int = MAX_HEADER_BYTES
) -> tuple[dict[str, Any], memoryview]:
    """Return the header and the payload of an envelope.

    Raises:
        WireError: The bytes are not such an envelope of this wire major.
    """
    view = memoryview(data)
    if len(view) < _ENVELOPE.size:
        raise WireError("the bytes are shorter than an envelope")
    found, major, scheme, _signature, length = _ENVELOPE.unpack_from(view)
    if found != magic:
        raise WireError(f"the bytes start with {found!r}, expected {magic!r}")
    if major != WIRE_MAJOR:
        raise WireError(f"wire version {major} is not {WIRE_MAJOR}: client and instance differ", major=major)
    if scheme != 0:
        raise WireError(f"signature scheme {scheme} is not known here", scheme=scheme)
    end = _ENVELOPE.size + length
    if length > header_limit or end > len(view):
        raise WireError(f"a header of {length} bytes does not fit")
    return parse_object(bytes(view[_ENVELOPE.size : end]), "the header"), view[end:]


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object in which every name stands once.

    Args:
        data: Its bytes.
        what: What an error calls it.

    Raises:
        WireError: The bytes are no such object.
    """
    try:
        found = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise WireError(f"{what} is not JSON") from error
    if not isinstance(found, dict):
        raise WireError(f"{what} is not a JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # two readers that believe the first and the last of two equal names would see two messages in the same bytes
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def check_range(first_call: int, n_calls: int, most: int) -> None:
    """Refuse calls that lie outside a job or are more than ``most``."""
    if not (first_call >= 0 and 0 < n_calls <= most and first_call + n_calls <= MAX_CALLS_PER_JOB):
        raise WireError(f"calls {first_call}+{n_calls} are out of range")


def check_number(value: object, kind: type) -> None:
    """Refuse what is not a number of that kind, and what a float cannot count: NaN, infinities, larger integers."""
    # bool is an int to isinstance; a header that says true for a count is malformed
    accepted = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise WireError(f"{value!r} is not a number")
    # JSON of Python has NaN, and no comparison with it is true: a message would never expire
    if not -_MAX_NUMBER <= value <= _MAX_NUMBER:
        raise WireError("a number is out of range")


def build(kind: type, values: dict[str, Any], numbers: dict[str, type]) -> Any:
    """Return ``kind(**values)`` with the named fields checked to be numbers."""
    try:
        for name, number in numbers.items():
            check_number(values[name], number)
        return kind(**values)
    except (TypeError, KeyError) as error:
        raise WireError(f"a {kind.__name__} header has wrong fields: {error}") from error


def known(kind: type, header: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of ``header`` that ``kind`` has."""
    # fields that a newer minor added are ignored; a field that is missing is caught by _build
    return {name: header[name] for name in kind.__dataclass_fields__ if name in header}  # type: ignore[attr-defined]


def read_limits(values: object) -> Limits:
    """Return the limits of a header."""
    if not isinstance(values, dict):
        raise WireError("limits are not an object")
    limits: Limits = build(
        Limits,
        known(Limits, values),
        {k: float if k in _LIMIT_TIMES else int for k in Limits.__dataclass_fields__ if k in values},
    )
    if limits.timeout <= 0 or limits.retries < 0 or limits.max_attempts < 1 or limits.max_deliveries < 1:
        raise WireError("limits are out of range")
    # no more than a frame's number of the attempt can count, and no more than the queue delivers
    if (
        limits.retries > _MOST_RETRIES
        or limits.max_attempts > _MOST_ATTEMPTS
        or limits.max_deliveries > _MOST_DELIVERIES
    ):
        raise WireError("limits are out of range")
    if limits.retry_delay < 0 or limits.retry_max_delay < 0:
        raise WireError("limits are out of range")
    return limits


def check_text(values: dict[str, Any], *names: str) -> None:
    """Refuse named values that are not text, or that no encoding takes."""
    for name in names:
        value = values.get(name, "")
        if not isinstance(value, str):
            raise WireError(f"{name} is not text")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can spell
                raise WireError(f"{name} is not text") from error


def check_identifier(value: object, name: str) -> None:
    """Refuse what cannot be part of an S3 key and a file name."""
    # ids become parts of S3 keys and file names; a name of a file has 255 bytes
    plain = isinstance(value, str) and 0 < len(value) <= 128 and value.isascii()
    if not plain or not str(value).replace("-", "").isalnum():
        raise WireError(f"{name} is not an identifier")
