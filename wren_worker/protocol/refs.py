"""A reference to an object in the bucket: what ``put`` returns, and what travels in the object's place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wren_worker.protocol import arrival

__all__ = ["Ref", "ref_key"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """An object that was ``put``. Passed to a call, anywhere in arguments or function, it arrives as the object.

    Attributes:
        sha256: Of the stored bytes, hex; it is also the name they are stored under.
        n_bytes: How many they are.
        bucket: Where they are stored.
        kind: The object's type, for people.
        modules: Local modules that the object's pickle refers to; named here, they travel with every job that uses it.
    """

    sha256: str
    n_bytes: int
    bucket: str
    kind: str = ""
    modules: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return arrival.arrive, (self.sha256, self.n_bytes, self.bucket, self.kind, self.modules)

    def __repr__(self) -> str:
        return f"<Ref to a {self.kind} of {self.n_bytes} bytes, {self.sha256[:12]}>"


def ref_key(sha256: str) -> str:
    """Return the key that an object's bytes lie under."""
    return f"refs/{sha256}"
