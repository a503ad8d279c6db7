"""Values and exceptions -> bytes, on the side that has the user's classes."""

from __future__ import annotations

import json
import pickle
import traceback
from types import TracebackType

import cloudpickle

from ..protocol import oob
from ..protocol.frames import join_sections
from ..protocol.records import ERROR, FAILURE
from .refs import RefUnavailable

__all__ = ["dump_end", "dump_failure", "dump_value", "unpicklable_value"]

#: A value with such a buffer is left in a file anyway; smaller ones stay within the pickle.
LARGE_BUFFER_BYTES = 1024 * 1024
_WITHOUT_BUFFERS = frozenset({bool, int, float, str, bytes, type(None)})
_MAX_REPR = 4096
_MAX_TRACEBACK = 256 * 1024


def dump_value(value: object) -> bytes | list[bytes | memoryview]:
    """Return the pickle of a call's value: plain where that does, by cloudpickle where it does not.

    Of a value with large buffers in it: the pieces of oob.lay_out, the buffers among them where they lie.
    """
    if type(value) in _WITHOUT_BUFFERS:
        return pickle.dumps(value, 5)
    buffers: list[memoryview] = []

    def keep_out(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not in one run: the pickler copies it in band
            return True
        if view.nbytes < LARGE_BUFFER_BYTES:
            return True
        buffers.append(view)
        return False

    try:
        data = pickle.dumps(value, 5, buffer_callback=keep_out)
    except Exception:  # noqa: BLE001 - whatever a class raises, cloudpickle may still know how
        buffers.clear()
        data = cloudpickle.dumps(value, 5, buffer_callback=keep_out)
    return oob.lay_out([data], buffers) if buffers else data


def _dump_in_band(value: object) -> bytes:
    try:
        return pickle.dumps(value, 5)
    except Exception:  # noqa: BLE001 - as above
        data: bytes = cloudpickle.dumps(value, 5)
        return data


def _safe_repr(value: object) -> str:
    try:
        return repr(value)[:_MAX_REPR]
    except Exception as error:  # noqa: BLE001 - a user's __repr__ may raise anything
        return f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"


def _format(error: BaseException, trace: TracebackType | None) -> str:
    try:
        text = "".join(traceback.format_exception(type(error), error, trace))
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        text = "".join(traceback.format_tb(trace)) + type(error).__name__
    return text if len(text) <= _MAX_TRACEBACK else text[-_MAX_TRACEBACK:]


def dump_end(error: BaseException, trace: TracebackType | None) -> tuple[int, bytes]:
    """Return status and value bytes of a call that an exception ended: its own, or a reference's that leads nowhere."""
    if isinstance(error, RefUnavailable):
        told = {"kind": type(error).__name__, "message": str(error), "data": error.facts}
        return ERROR, json.dumps(told).encode()
    return FAILURE, dump_failure(error, trace)


def dump_failure(error: BaseException, trace: TracebackType | None) -> bytes:
    """Return the value bytes of a FAILURE: the exception so that a reader gets its own type back.

    Its pickle is tried out here, since many exceptions with arguments of their own pickle well and unpickle badly; the
    second form rebuilds one from class, ``args`` and ``__dict__`` without calling its ``__init__``.
    """
    header: dict[str, object] = {
        "type": type(error).__qualname__,
        "module": type(error).__module__,
        "repr": _safe_repr(error),
        "traceback": _format(error, trace),
    }
    bare = error.with_traceback(None)
    for how, build in (("pickle", lambda: bare), ("parts", lambda: (type(bare), bare.args, dict(bare.__dict__)))):
        try:
            data = _dump_in_band(build())
            _try_out(how, data, type(bare))
        except Exception:  # noqa: BLE001, S112 - whatever a class raises, the next form may do
            continue
        return join_sections(header | {"how": how}, [data])
    return join_sections(header | {"how": "text"}, [b""])


def _try_out(how: str, data: bytes, kind: type[BaseException]) -> None:
    found = pickle.loads(data)
    if how == "parts":
        cls, args, _ = found
        found = cls.__new__(cls, *args)
    if type(found).__qualname__ != kind.__qualname__:
        raise TypeError(kind)


def unpicklable_value(value: object, error: BaseException) -> bytes:
    """Return the value bytes of a FAILURE that says a call's value cannot be pickled."""
    header: dict[str, object] = {
        "type": type(value).__qualname__,
        "module": type(value).__module__,
        "repr": _safe_repr(value),
        "traceback": _format(error, None),
        "how": "text",
        "unpicklable_value": True,
    }
    return join_sections(header, [b""])
