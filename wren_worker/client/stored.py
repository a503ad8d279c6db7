"""What S3 has of a job: its segments, and how many calls it is to have."""

from __future__ import annotations

from collections.abc import Iterator

from wren_worker.errors import WireError
from wren_worker.protocol.jobs import check_cuts, decode_manifest, decode_seal, decode_segment
from wren_worker.protocol.model import Segment, job_prefix, manifest_key, sealed_key
from wren_worker.protocol.ports import ObjectStore

__all__ = ["read_segments", "sealed_calls"]

#: A segment's header is at its start and mostly smaller than this; its arguments are of no interest here.
_HEAD_BYTES = 256 * 1024


def sealed_calls(store: ObjectStore, job_id: str) -> int | None:
    """Return how many calls a job has, None while it is not sealed (or its manifest says it)."""
    data = store.get(sealed_key(job_id))
    return decode_seal(data).n_calls if data is not None else None


def read_segments(store: ObjectStore, job_id: str, manifest: bytes) -> Iterator[Segment]:
    """Yield a job's segments, the manifest's own first, without arguments; a request for each but the first.

    Raises:
        StoreError: S3 did not answer.
        WireError: An object is no segment, or holds other chunks than it says.
    """
    found, _, _, tail = decode_manifest(manifest_key(job_id), manifest)
    check_cuts(tail, len(manifest))
    yield tail
    if found.n_calls is None:
        for info in store.list(job_prefix(job_id) + "args-"):
            segment = _read_segment(store, info.key)
            check_cuts(segment, info.n_bytes)
            yield segment


def _read_segment(store: ObjectStore, key: str) -> Segment:
    try:
        return decode_segment(key, store.get(key, length=_HEAD_BYTES) or b"")[0]
    except WireError:
        return decode_segment(key, store.get(key) or b"")[0]
