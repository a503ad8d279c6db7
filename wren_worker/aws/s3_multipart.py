"""A large file into one S3 object, in parts, unless the key is taken."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from wren_worker.aws.errors import error_code, http_status
from wren_worker.errors import StoreError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef

__all__ = ["upload_once"]

T = TypeVar("T")

#: Source: S3 multipart upload limits, read 2026-11: parts of 5 MiB to 5 GiB, 10,000 of them.
PART_BYTES = 16 * 1024 * 1024
MAX_PARTS = 10_000
_ROUNDS = 5


class Attempt(Protocol):
    """Repeats a request until it answers or time is over."""

    def __call__(self, call: Callable[[], T], /) -> T:
        """Return the answer."""
        ...


def upload_once(client: S3Client, bucket: str, key: str, path: Path, *, attempt: Attempt) -> bool:
    """Upload a file in parts; return whether the key was free.

    A race for the key (409 on completion) invalidates the parts, so the upload begins anew.

    Source: S3 CompleteMultipartUpload, read 2026-11: "On a 409 failure … re-initiate the multipart upload".

    Raises:
        StoreError: Whether it was written is not known.
    """
    for _ in range(_ROUNDS):
        free = _upload(client, bucket, key, path, attempt)
        if free is not None:
            return free
    raise StoreError(
        f"S3 reported a race for {key} {_ROUNDS} times.", key=key, gone=False, denied=False, transient=True
    )


def _upload(client: S3Client, bucket: str, key: str, path: Path, attempt: Attempt) -> bool | None:
    upload_id = attempt(lambda: client.create_multipart_upload(Bucket=bucket, Key=key))["UploadId"]
    verdict: bool | None = None
    try:
        parts = _send_parts(client, bucket, key, path, upload_id=upload_id, attempt=attempt)

        def complete() -> bool | None:
            try:
                client.complete_multipart_upload(
                    Bucket=bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
                )
            except Exception as error:
                # NoSuchUpload: the first try's answer was lost, the upload itself went through
                if http_status(error) == 412 or error_code(error) == "NoSuchUpload":
                    return False
                if http_status(error) == 409:
                    return None
                raise
            return True

        verdict = attempt(complete)
        return verdict
    finally:
        if verdict is not True:
            _abort(client, bucket, key, upload_id)


def _send_parts(
    client: S3Client, bucket: str, key: str, path: Path, *, upload_id: str, attempt: Attempt
) -> list[CompletedPartTypeDef]:
    n_bytes = path.stat().st_size
    part_bytes = max(PART_BYTES, -(-n_bytes // MAX_PARTS))
    parts: list[CompletedPartTypeDef] = []
    with path.open("rb") as source:
        while body := source.read(part_bytes):
            number = len(parts) + 1
            send = functools.partial(
                client.upload_part, Bucket=bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=body
            )
            answer = attempt(send)
            parts.append({"ETag": answer["ETag"], "PartNumber": number})
    return parts


def _abort(client: S3Client, bucket: str, key: str, upload_id: str) -> None:
    try:
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
    except Exception:  # noqa: BLE001 - the bucket's lifecycle ends what is left after a day
        return
