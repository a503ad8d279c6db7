"""Much data into one S3 object: in parts, side by side, straight from where it lies in memory or in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Protocol, TypeVar, cast

from wren_worker.aws.errors import error_code, http_status
from wren_worker.errors import StoreError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef

__all__ = ["Part", "body_of", "upload"]

T = TypeVar("T")

#: Source: S3 multipart upload limits, read 2026-11: parts of 5 MiB to 5 GiB, 10,000 of them.
PART_BYTES = 8 * 1024 * 1024
MAX_PARTS = 10_000
#: Parts in the air at a time.
_THREADS = 4
_ROUNDS = 5
_READ_BYTES = 1024 * 1024


class Attempt(Protocol):
    """Repeats a request until it answers or time is over."""

    def __call__(self, call: Callable[[], T], /) -> T:
        """Return the answer."""
        ...


def body_of(pieces: Sequence[bytes | memoryview]) -> bytes | IO[bytes]:
    """Return the pieces in a row as a request's body: without copying them, unless that is the cheaper way."""
    if len(pieces) == 1 and isinstance(pieces[0], bytes):
        return pieces[0]
    if sum(map(len, pieces)) < _READ_BYTES:
        return b"".join(pieces)
    return Part([memoryview(piece) for piece in pieces]).rewound()


def cut(pieces: Sequence[bytes | memoryview], part_bytes: int) -> Iterator[list[memoryview]]:
    """Yield the pieces cut anew into parts of ``part_bytes``, the last one smaller; nothing is copied."""
    part: list[memoryview] = []
    room = part_bytes
    for piece in pieces:
        view = memoryview(piece)
        while view:
            part.append(view[:room])
            room -= len(part[-1])
            view = view[len(part[-1]) :]
            if not room:
                yield part
                part, room = [], part_bytes
    if part:
        yield part


class Part:
    """A part as a file to read from, whose pieces go to the socket from where they lie."""

    def __init__(self, pieces: Sequence[memoryview]) -> None:
        self._pieces = pieces
        self._n_bytes = sum(map(len, pieces))
        self._position = 0

    def __len__(self) -> int:
        return self._n_bytes

    def rewound(self) -> IO[bytes]:
        """Return itself, at its start."""
        self._position = 0
        return cast("IO[bytes]", self)

    def read(self, size: int = -1, /) -> bytes | memoryview:
        """Return the next bytes, up to a mebibyte of them: whoever sends them asks for 16 KiB, and takes what comes."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_READ_BYTES), b""))
        size = max(size, _READ_BYTES)
        start = self._position
        for piece in self._pieces:
            if start < len(piece):
                found = piece[start : start + size]
                self._position += len(found)
                return found
            start -= len(piece)
        return b""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a position."""
        base = (0, self._position, self._n_bytes)[whence]
        self._position = max(0, min(base + offset, self._n_bytes))
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position


def upload(
    client: S3Client, bucket: str, key: str, pieces: Sequence[bytes | memoryview], *, once: bool, attempt: Attempt
) -> bool:
    """Upload pieces in a row as one object; return whether the key was free, or True when that was not asked.

    A race for the key (409 on completion) invalidates the parts, so the upload begins anew.

    Source: S3 CompleteMultipartUpload, read 2026-11: "On a 409 failure … re-initiate the multipart upload".

    Args:
        client: S3's.
        bucket: The bucket's name.
        key: The object's.
        pieces: The data; it must not change meanwhile.
        once: Only if the key is free.
        attempt: Repeats a request.

    Raises:
        StoreError: Whether it was written is not known.
    """
    for _ in range(_ROUNDS):
        free = _upload(client, bucket, key, pieces, once=once, attempt=attempt)
        if free is not None:
            return free
    raise StoreError(
        f"S3 reported a race for {key} {_ROUNDS} times.", key=key, gone=False, denied=False, transient=True
    )


def _upload(
    client: S3Client, bucket: str, key: str, pieces: Sequence[bytes | memoryview], *, once: bool, attempt: Attempt
) -> bool | None:
    upload_id = attempt(lambda: client.create_multipart_upload(Bucket=bucket, Key=key))["UploadId"]
    verdict: bool | None = None

    def send(number: int, part: list[memoryview]) -> CompletedPartTypeDef:
        body = Part(part)
        answer = attempt(
            lambda: client.upload_part(
                Bucket=bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=body.rewound()
            )
        )
        return {"ETag": answer["ETag"], "PartNumber": number}

    try:
        parts = _send_parts(send, pieces)
        condition = {"IfNoneMatch": "*"} if once else {}

        def complete() -> bool | None:
            try:
                client.complete_multipart_upload(
                    Bucket=bucket,
                    Key=key,
                    UploadId=upload_id,
                    MultipartUpload={"Parts": parts},
                    **condition,  # type: ignore[arg-type]  # the stubs know no optional condition
                )
            except Exception as error:
                # NoSuchUpload: the first try's answer was lost, the upload itself went through
                if http_status(error) == 412 or error_code(error) == "NoSuchUpload":
                    return not once
                if http_status(error) == 409:
                    return None
                raise
            return True

        verdict = attempt(complete)
        return verdict
    finally:
        if verdict is not True:
            _abort(client, bucket, key, upload_id)


class _Send(Protocol):
    def __call__(self, number: int, part: list[memoryview], /) -> CompletedPartTypeDef: ...


def _send_parts(send: _Send, pieces: Sequence[bytes | memoryview]) -> list[CompletedPartTypeDef]:
    n_bytes = sum(map(len, pieces))
    cuts = list(cut(pieces, max(PART_BYTES, -(-n_bytes // MAX_PARTS))))
    if len(cuts) == 1:
        return [send(1, cuts[0])]
    sent: list[Future[CompletedPartTypeDef]] = []
    with ThreadPoolExecutor(min(_THREADS, len(cuts)), thread_name_prefix="wren-part") as threads:
        try:
            sent += (threads.submit(send, number, part) for number, part in enumerate(cuts, 1))
            return [future.result() for future in sent]
        finally:
            # one that failed for good: the others are of no use any more
            for future in sent:
                future.cancel()


def _abort(client: S3Client, bucket: str, key: str, upload_id: str) -> None:
    try:
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
    except Exception:  # noqa: BLE001 - the bucket's lifecycle ends what is left after a day
        return
