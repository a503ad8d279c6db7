"""What is stored of a chunk already: its result object, and the own keys of the calls that it leaves out."""

from __future__ import annotations

from wren_worker.errors import WireError
from wren_worker.protocol.model import Chunk, ResultObject, call_key, result_key
from wren_worker.protocol.ports import ObjectStore
from wren_worker.protocol.wire import decode_result

__all__ = ["check_object", "read_settled"]

_INDEX_DIGITS = 10


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
    check_object(known, chunk)
    if not known.left_out:
        return known, frozenset()
    prefix = call_key(chunk.job_id, chunk.chunk_id, 0)[:-1]
    names = (info.key[len(prefix) :] for info in store.list(prefix))
    # what is more than ten digits, or digits of another script, is no call of anybody's
    plain = (name for name in names if len(name) <= _INDEX_DIGITS and name.isascii() and name.isdecimal())
    return known, frozenset(map(int, plain))


def check_object(known: ResultObject, chunk: Chunk | ResultObject) -> None:
    """Refuse a result object that does not belong under the chunk's result key.

    An own key's object would be taken for one that leaves nothing out, and the message deleted with calls unresolved.

    Raises:
        WireError: It is of another chunk, of other calls, or of one call.
    """
    found = (known.job_id, known.chunk_id, known.first_call, known.n_calls, known.call_index)
    if found != (chunk.job_id, chunk.chunk_id, chunk.first_call, chunk.n_calls, None):
        raise WireError("the result object is of other calls")
