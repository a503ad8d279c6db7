"""The fleet's bucket on S3: objects written once, read whole or in ranges."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from wren_worker.aws.errors import Fault, classify, error_code, explain, http_status, is_aws_error
from wren_worker.aws.retry import Backoff
from wren_worker.aws.s3_multipart import upload_once
from wren_worker.aws.session import Aws
from wren_worker.clock import Clock, SystemClock
from wren_worker.errors import StoreError
from wren_worker.protocol.ports import ObjectInfo

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import (
        DeleteObjectsOutputTypeDef,
        GetObjectRequestTypeDef,
        ListObjectsV2OutputTypeDef,
    )

__all__ = ["S3Store"]

T = TypeVar("T")

#: From here on a file goes up in parts, so that a broken connection costs a part and not the whole.
MULTIPART_BYTES = 64 * 1024 * 1024
#: Source: S3 ListObjectsV2 and DeleteObjects, read 2026-11.
PAGE_KEYS = 1000
_COPY_BYTES = 1024 * 1024


class S3Store:
    """Fills ``ports.ObjectStore``. Safe to share between threads.

    Args:
        aws: The identity to act as.
        bucket: The bucket's name.
        timeout: Seconds for all tries of one operation (of one part, for a large file).
    """

    def __init__(self, aws: Aws, bucket: str, *, timeout: float = 60.0, clock: Clock | None = None) -> None:
        self._aws = aws
        self._bucket = bucket
        self._timeout = timeout
        self._clock = clock or SystemClock()

    @property
    def bucket(self) -> str:
        """Return the bucket's name."""
        return self._bucket

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write an object, over whatever was there.

        Raises:
            StoreError: It could not be written; ``denied``, ``gone`` and ``transient`` say why.
        """
        body = bytes(data)
        self._try(key, lambda client: client.put_object(Bucket=self._bucket, Key=key, Body=body))

    def put_once(self, key: str, data: bytes | memoryview | Path) -> bool:
        """Write an object unless the key is taken; return whether the key was free.

        Raises:
            StoreError: Whether it was written is not known; ``denied``, ``gone`` and ``transient`` say why.
        """
        if isinstance(data, Path):
            if data.stat().st_size > MULTIPART_BYTES:
                return self._put_parts_once(key, data)
            with data.open("rb") as source:
                return self._put_body_once(key, source)
        return self._put_body_once(key, bytes(data))

    def _put_body_once(self, key: str, body: bytes | contextlib.AbstractContextManager[object]) -> bool:
        def put(client: S3Client) -> bool:
            seek = getattr(body, "seek", None)
            if seek is not None:
                seek(0)
            try:
                client.put_object(Bucket=self._bucket, Key=key, Body=body, IfNoneMatch="*")  # type: ignore[arg-type]
            except Exception as error:
                if http_status(error) == 412:
                    return False
                raise
            return True

        return self._try(key, put)

    def _put_parts_once(self, key: str, path: Path) -> bool:
        return upload_once(
            self._aws.s3(), self._bucket, key, path, attempt=lambda call: self._try(key, lambda _: call())
        )

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes | None:
        """Return an object's bytes, or the range; None when there is no such key (or no right to know).

        Raises:
            StoreError: It could not be read.
        """

        def read(body: StreamingBody) -> bytes:
            return body.read()

        try:
            found = self._read(key, offset, length, read)
        except StoreError as error:
            if error.__dict__.get("code") == "InvalidRange":  # nothing lies there: an empty object, or past its end
                return b""
            raise
        return found[:length] if found is not None else None

    def download(self, key: str, path: Path, *, offset: int = 0, length: int | None = None) -> bool:
        """Stream an object, or the range, into a file, which appears whole or not at all.

        Raises:
            StoreError: It could not be read.
            OSError: The file could not be written.
        """
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")

        def save(body: StreamingBody) -> bool:
            with partial.open("wb") as target:
                for piece in body.iter_chunks(_COPY_BYTES):
                    target.write(piece)
            partial.replace(path)
            return True

        try:
            return bool(self._read(key, offset, length, save))
        finally:
            partial.unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        """Return whether the key is taken (False, too, without the right to know).

        Raises:
            StoreError: S3 did not say.
        """

        def head(client: S3Client) -> bool:
            try:
                client.head_object(Bucket=self._bucket, Key=key)
            except Exception as error:
                if http_status(error) in (403, 404):  # a HEAD's answer has no body to say more
                    return False
                raise
            return True

        return self._try(key, head)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects under a prefix in key order; ``start_after`` is a whole key.

        Raises:
            StoreError: S3 did not say.
        """
        last = start_after
        while True:
            page = self._try(prefix, functools.partial(self._list_page, prefix, last))
            for item in page.get("Contents", ()):
                last = item["Key"]
                yield ObjectInfo(key=last, n_bytes=item["Size"], modified_timestamp=item["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return

    def _list_page(self, prefix: str, after: str, client: S3Client) -> ListObjectsV2OutputTypeDef:
        # StartAfter at every page instead of a token: a page can be asked for again at any time
        if not after:
            return client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=PAGE_KEYS)
        return client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=PAGE_KEYS, StartAfter=after)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, a thousand a request.

        Raises:
            StoreError: Some could not be deleted; ``undeleted`` holds their keys.
        """
        for start in range(0, len(keys), PAGE_KEYS):
            answer = self._try("", functools.partial(self._delete_page, keys[start : start + PAGE_KEYS]))
            failed = answer.get("Errors", [])
            if failed:
                first = failed[0]
                raise StoreError(
                    f"S3 could not delete {len(failed)} objects of '{self._bucket}', "
                    f"the first being {first.get('Key')}: {first.get('Code')} {first.get('Message')}.",
                    undeleted=[item.get("Key", "") for item in failed],
                    denied=first.get("Code") == "AccessDenied",
                    gone=False,
                    transient=first.get("Code") in ("InternalError", "SlowDown"),
                )

    def _delete_page(self, keys: Sequence[str], client: S3Client) -> DeleteObjectsOutputTypeDef:
        return client.delete_objects(
            Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
        )

    def _read(self, key: str, offset: int, length: int | None, use: Callable[[StreamingBody], T]) -> T | None:
        request: GetObjectRequestTypeDef = {"Bucket": self._bucket, "Key": key}
        if offset or length is not None:
            end = "" if length is None else str(offset + max(length, 1) - 1)
            request["Range"] = f"bytes={offset}-{end}"

        def fetch(client: S3Client) -> T | None:
            try:
                body = client.get_object(**request)["Body"]
            except Exception as error:
                # without ListBucket S3 answers 403 for a missing key, so as not to tell
                if error_code(error) in ("NoSuchKey", "AccessDenied"):
                    return None
                raise
            with contextlib.closing(body):
                return use(body)

        return self._try(key, fetch)

    def _try(self, key: str, call: Callable[[S3Client], T]) -> T:
        """Call until it answers, or raise what its failure means."""
        tries = Backoff(self._clock, timeout=self._timeout)
        client = self._aws.s3()
        while True:
            try:
                return call(client)
            except Exception as error:
                if isinstance(error, StoreError) or not is_aws_error(error):
                    raise
                if not classify(error).retryable or not tries.wait():
                    raise self._store_error(error, key) from error

    def _store_error(self, error: BaseException, key: str) -> StoreError:
        fault = classify(error)
        return StoreError(
            explain(error),
            code=error_code(error),
            bucket=self._bucket,
            key=key,
            gone=fault is Fault.GONE,
            denied=fault in (Fault.DENIED, Fault.CREDENTIALS, Fault.SKEWED),
            transient=fault.retryable,
        )
