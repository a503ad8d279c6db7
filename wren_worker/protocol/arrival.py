"""What a pickled reference calls when it is unpickled.

A slot puts a function of its own in this module's place, before it unpickles anything: there a reference becomes the
object, wherever in the arguments or the function it stands. No other code has to know of references: a pickle
without one costs nothing more, and there is no second pickler or unpickler.
"""

from __future__ import annotations

__all__ = ["arrive"]


def arrive(sha256: str, n_bytes: int, bucket: str, kind: str, modules: tuple[str, ...]) -> object:
    """Return the reference again; in a slot: the object."""
    from wren_worker.protocol.refs import Ref  # noqa: PLC0415 - a Ref names this function

    return Ref(sha256=sha256, n_bytes=n_bytes, bucket=bucket, kind=kind, modules=modules)
