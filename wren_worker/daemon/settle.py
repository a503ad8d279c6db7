"""What is stored of a chunk already: its result object, and the own keys of the calls that it leaves out."""

from __future__ import annotations

from wren_worker.errors import WireError
from wren_worker.protocol.model import Chunk, ResultObject, call_key, result_key
from wren_worker.protocol.ports import ObjectStore
from wren_worker.protocol.wire import decode_result

__all__ = ["read_settled"]


def read_settled(store: ObjectStore, chunk: Chunk) -> tuple[ResultObject, frozenset[int]] | None:
    """Return the chunk's result object and which calls that it leaves out have keys; None when there is no object.

    Raises:
        StoreError: The bucket does not answer or refuses.
        WireError: What is there is not this chunk's result object.
    """
    data = store.get(result_key(chunk.job_id, chunk.chunk_id))
    if data is None:
        return None
    known, _ = decode_result(data)
    if (known.first_call, known.n_calls) != (chunk.first_call, chunk.n_calls):
        raise WireError("the result object is of other calls")
    if not known.left_out:
        return known, frozenset()
    prefix = call_key(chunk.job_id, chunk.chunk_id, 0)[:-1]
    names = (info.key[len(prefix) :] for info in store.list(prefix))
    return known, frozenset(int(name) for name in names if name.isdigit())
