"""The fleet's bucket on S3: objects written once, read whole or in ranges."""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from wren_worker.aws.errors import Fault, classify, error_code, explain, http_status, is_aws_error
from wren_worker.aws.retry import Backoff
from wren_worker.aws.s3_multipart import body_of, upload
from wren_worker.aws.s3_ranges import fill
from wren_worker.aws.session import Aws
from wren_worker.clock import Clock, SystemClock
from wren_worker.errors import StoreError
from wren_worker.protocol.ports import ObjectInfo, Pieces

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

#: From here on data goes up in parts: side by side, and a broken connection costs a part and not the whole.
MULTIPART_BYTES = 32 * 1024 * 1024
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
        self._may_list: bool | None = None
        self._clock = clock or SystemClock()

    @property
    def bucket(self) -> str:
        """Return the bucket's name."""
        return self._bucket

    def put(self, key: str, data: bytes | memoryview | Pieces) -> None:
        """Write an object, over whatever was there.

        Raises:
            StoreError: It could not be written; ``denied``, ``gone`` and ``transient`` say why.
        """
        pieces = _pieces(data)
        if sum(map(len, pieces)) > MULTIPART_BYTES:
            self._upload(key, pieces, once=False)
            return
        self._try(key, lambda client: client.put_object(Bucket=self._bucket, Key=key, Body=body_of(pieces)))

    def put_once(self, key: str, data: bytes | memoryview | Pieces | Path) -> bool:
        """Write an object unless the key is taken; return whether the key was free.

        Raises:
            StoreError: Whether it was written is not known; ``denied``, ``gone`` and ``transient`` say why.
        """
        if isinstance(data, Path):
            with data.open("rb") as source:
                if data.stat().st_size <= MULTIPART_BYTES:
                    return self._put_body_once(key, source)
                # not closed by hand: an error's traceback may hold views of it a little longer
                mapped = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
                return self._upload(key, [memoryview(mapped)], once=True)
        pieces = _pieces(data)
        if sum(map(len, pieces)) > MULTIPART_BYTES:
            return self._upload(key, pieces, once=True)
        return self._put_body_once(key, body_of(pieces))

    def _upload(self, key: str, pieces: Pieces, *, once: bool) -> bool:
        return upload(
            self._aws.s3(), self._bucket, key, pieces, once=once, attempt=lambda call: self._try(key, lambda _: call())
        )

    def _put_body_once(self, key: str, body: bytes | IO[bytes]) -> bool:
        def put(client: S3Client) -> bool:
            seek = getattr(body, "seek", None)
            if seek is not None:
                seek(0)
            try:
                client.put_object(Bucket=self._bucket, Key=key, Body=body, IfNoneMatch="*")
            except Exception as error:
                if http_status(error) == 412:
                    return False
                raise
            return True

        return self._try(key, put)

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

    def fill(
        self, key: str, target: memoryview, *, offset: int = 0, seen: Callable[[memoryview], object] | None = None
    ) -> bool:
        """Fill a buffer with an object's bytes from ``offset`` on, in ranges side by side; False: not all are there.

        Args:
            key: The object.
            target: Writable; its length says how many bytes. What is in it after False or an error is undefined.
            offset: Where in the object to start.
            seen: Given the ranges in order, as they come; in the caller's thread.

        Raises:
            StoreError: It could not be read.
        """

        def fetch(at: int, view: memoryview) -> bool:
            def save(body: StreamingBody) -> bool:
                position = 0
                for piece in body.iter_chunks(_COPY_BYTES):
                    view[position : position + len(piece)] = piece
                    position += len(piece)
                return position == len(view)

            try:
                return bool(self._read(key, at, len(view), save))
            except StoreError as error:
                if error.__dict__.get("code") == "InvalidRange":  # it ends before
                    return False
                raise

        return fill(fetch, target, offset=offset, seen=seen)

    def exists(self, key: str) -> bool:
        """Return whether the key is taken (False, too, without the right to know).

        Raises:
            StoreError: S3 did not say.
        """

        def head(client: S3Client) -> bool:
            try:
                client.head_object(Bucket=self._bucket, Key=key)
            except Exception as error:
                if self._is_missing(client, error):
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
                if self._is_missing(client, error):
                    return None
                raise
            with contextlib.closing(body):
                return use(body)

        return self._try(key, fetch)

    def _is_missing(self, client: S3Client, error: BaseException) -> bool:
        """Return whether S3 said that there is no such key.

        To who may not list the bucket it answers 403 for a missing key, so as not to tell; to others that means denied.
        Source: S3 GetObject, "Permissions", read 2026-11.
        """
        code, status = error_code(error), http_status(error)
        if status == 404:
            return code != "NoSuchBucket"
        if code not in ("AccessDenied", "403"):  # a HEAD's answer has no body to say more
            return False
        if self._may_list is None:
            try:
                client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)
            except Exception as refusal:
                if classify(refusal) is not Fault.DENIED:
                    raise
                self._may_list = False
            else:
                self._may_list = True
        return not self._may_list

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


def _pieces(data: bytes | memoryview | Pieces) -> Pieces:
    return [data] if isinstance(data, (bytes, memoryview)) else data
