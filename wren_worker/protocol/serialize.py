"""Python objects <-> bytes. Besides ``slot`` the only file that unpickles.

Arguments go by plain pickle where that is right, by cloudpickle where it is needed: what is defined in ``__main__``
plain pickle would refer to by name, and another process has another ``__main__``.
"""

from __future__ import annotations

import dis
import functools
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, TypeVar

import cloudpickle

from wren_worker.errors import (
    CALL_ERRORS,
    CallError,
    RemoteTraceback,
    ResultNotSerializable,
    SerializationError,
    WireError,
)
from wren_worker.protocol import arrival, culprit, frames, oob, records
from wren_worker.protocol.regions import without_payloads
from wren_worker.protocol.wire import parse_error_value

__all__ = ["Loaded", "PickledFunction", "dump_call", "dump_function", "load_outcome", "load_value", "with_objects"]

T = TypeVar("T")

PROTOCOL = 5
#: What every pickle with a reference in it has.
_ARRIVAL = arrival.__name__.encode()

#: How pickle spells the string "__main__" where a global of it is named.
_MAIN = b"\x8c\x08__main__"
#: A call's argument bytes have a 4-byte length in ``frames.CALL``.
MAX_CALL_BYTES = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PickledFunction:
    """A function as bytes, and the module names that code travelling inside it imports when it runs."""

    data: bytes
    imports: frozenset[str]


@dataclass(slots=True, kw_only=True)  # not frozen: that would treble the time to make one, a call
class Loaded:
    """One call's outcome as Python objects: a value, or the exception to raise."""

    value: object = None
    exception: BaseException | None = None


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle carries no types
    """Notes the code of every function it meets: imports inside it leave no trace in the bytes."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=PROTOCOL)
        self.functions: list[FunctionType] = []

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, FunctionType):
            self.functions.append(obj)
        return super().reducer_override(obj)


def dump_function(func: Callable[..., object]) -> PickledFunction:
    """Return a function as bytes.

    Raises:
        SerializationError: It cannot be pickled; names the closure variable, global or attribute at fault.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    try:
        pickler.dump(func)
    except Exception as error:
        raise culprit.explain(f"the function {culprit.name_of(func)}", func, error) from error
    imports: set[str] = set()
    for function in pickler.functions:
        imports |= _imports_of(function.__code__, str(function.__globals__.get("__package__") or ""))
    return PickledFunction(data=file.getvalue(), imports=frozenset(imports))


def dump_call(args: tuple[object, ...], kwargs: dict[str, object], *, call_index: int = 0) -> bytes:
    """Return one call's arguments as one pickle of ``(args, kwargs)``.

    Raises:
        SerializationError: They cannot be pickled; names the argument and the part of it at fault.
    """
    try:
        data = pickle.dumps((args, kwargs), PROTOCOL)
        if b"\x93" in data and _MAIN in without_payloads(data):
            data = cloudpickle.dumps((args, kwargs), PROTOCOL)
    except Exception:  # noqa: BLE001 - a __reduce__ may raise anything; cloudpickle has the last word
        data = _dump_by_cloudpickle(args, kwargs, call_index)
    if len(data) > MAX_CALL_BYTES:
        raise SerializationError(
            f"The arguments of call {call_index} are {len(data)} bytes; one call takes up to 4 GiB. "
            "Pass what executor.put(...) returns for it instead.",
            call_index=call_index,
        )
    return data


def _dump_by_cloudpickle(args: tuple[object, ...], kwargs: dict[str, object], call_index: int) -> bytes:
    try:
        data: bytes = cloudpickle.dumps((args, kwargs), PROTOCOL)
    except Exception as error:
        named = {f"argument {number}": value for number, value in enumerate(args)} | {
            f"argument '{name}'": value for name, value in kwargs.items()
        }
        raise culprit.explain(f"the arguments of call {call_index}", culprit.Parts(named), error) from error
    return data


class _Arriving(pickle.Unpickler):
    """Loads objects in the place of references."""

    def __init__(self, data: bytes, buffers: list[pickle.PickleBuffer], lookup: Callable[[str], object]) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self._lookup = lookup

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) == (arrival.__name__, arrival.arrive.__qualname__):
            return lambda sha256, *_: self._lookup(sha256)
        return super().find_class(module, name)


def with_objects(value: T, lookup: Callable[[str], object]) -> T:
    """Return ``value`` with objects in the place of the references in it; ``value`` itself when it has none.

    For calls that run in the process that sent them: large buffers are shared with ``value``, the rest is copied.

    Args:
        value: Anything.
        lookup: Returns the object by its reference's sha256.

    Raises:
        SerializationError: It cannot be pickled; names the part at fault.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        data: bytes = cloudpickle.dumps(value, PROTOCOL, buffer_callback=buffers.append)
    except Exception as error:
        raise culprit.explain("the call", value, error) from error
    if _ARRIVAL not in data:
        return value
    found: T = _Arriving(data, buffers, lookup).load()
    return found


@functools.lru_cache(maxsize=256)
def _imports_of(code: CodeType, package: str) -> frozenset[str]:
    """Return what a code object imports; remembered, because every ``submit`` asks anew."""
    names: set[str] = set()
    _collect_imports(code, package, names)
    return frozenset(names)


def _collect_imports(code: CodeType, package: str, names: set[str]) -> None:
    before: list[object] = [None, None]
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            level, wanted = before
            base = str(instruction.argval)
            if isinstance(level, int) and level > 0:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - level + 1], *([base] if base else [])])
            names.add(base)
            if isinstance(wanted, tuple):  # "from base import name": the name may be a module
                names.update(f"{base}.{name}" for name in wanted if name != "*")
        before = [before[1], instruction.argval]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _collect_imports(constant, package, names)


def load_value(data: bytes | memoryview) -> Loaded | None:
    """Return the value whose pickle ``data`` begins with, None if unpickling it raises."""
    try:
        return Loaded(value=pickle.loads(data))
    except Exception:  # noqa: BLE001 - unpickling runs the user's code; load_outcome will say what is wrong
        return None


def load_outcome(status: int, value: bytes | memoryview, *, job_id: str, call_index: int) -> Loaded:
    """Return the value or the exception of one outcome record. Never raises; the same bytes give the same answer.

    Args:
        status: ``records.SUCCESS``, ``FAILURE`` or ``ERROR``.
        value: The record's value bytes, fetched if they lay elsewhere.
        job_id: Becomes an attribute of our own errors.
        call_index: Becomes an attribute of our own errors.
    """
    place: dict[str, object] = {"job_id": job_id, "call_index": call_index}
    try:
        if status == records.SUCCESS:
            return _load_value(value, place)
        if status == records.FAILURE:
            return Loaded(exception=_load_failure(value, place))
        return Loaded(exception=_load_error(bytes(value), place))
    except (WireError, frames.FrameError) as error:
        return Loaded(exception=_unreadable(f"its bytes are malformed ({error})", place))


def _load_value(value: bytes | memoryview, place: dict[str, object]) -> Loaded:
    try:
        if value[:1] == oob.MAGIC[:1]:  # with its buffers behind it, which are used where they lie
            sections = oob.take_apart(value)
            return Loaded(value=pickle.loads(sections[0], buffers=sections[1:]))
        return Loaded(value=pickle.loads(value))
    except Exception as error:  # noqa: BLE001 - unpickling runs the user's code
        failure = _unreadable(f"unpickling it here raised {type(error).__name__}: {error}", place)
        failure.__cause__ = error
        return Loaded(exception=failure)


def _load_failure(value: bytes | memoryview, place: dict[str, object]) -> BaseException:
    header, sections = frames.split_sections(value)
    text = str(header.get("traceback", ""))
    how = header.get("how")
    exception: BaseException
    if how in ("pickle", "parts"):
        try:
            exception = _rebuild(sections[0], by_parts=how == "parts")
        except Exception as error:  # noqa: BLE001 - unpickling runs the user's code
            reason = f"its exception could not be unpickled here ({type(error).__name__}: {error})"
            exception = _text_only(header, reason, place)
    elif header.get("unpicklable_value"):
        exception = _text_only(header, "its value could not be pickled", place)
    else:
        exception = _text_only(header, "it raised an exception that could not be pickled", place)
    if text:
        exception.__cause__ = RemoteTraceback(text)
    return exception


def _rebuild(section: memoryview, *, by_parts: bool) -> BaseException:
    found = pickle.loads(section)
    if by_parts:
        kind, args, state = found
        found = kind.__new__(kind, *args)
        found.args = args
        found.__dict__.update(state)
    if not isinstance(found, BaseException):
        raise TypeError(f"{type(found).__name__} is no exception")
    return found


def _text_only(header: dict[str, object], reason: str, place: dict[str, object]) -> ResultNotSerializable:
    type_name, value_repr = str(header.get("type", "?")), str(header.get("repr", ""))
    return ResultNotSerializable(
        f"Call {place['call_index']} of job {place['job_id']} ended, but {reason}. It was a {type_name}: {value_repr}. "
        "Return plain data, or exceptions whose class can be imported on both sides.",
        type_name=type_name,
        value_repr=value_repr,
        traceback=str(header.get("traceback", "")),
        **place,
    )


def _unreadable(reason: str, place: dict[str, object]) -> ResultNotSerializable:
    return ResultNotSerializable(
        f"The result of call {place['call_index']} of job {place['job_id']} cannot be read: {reason}. "
        "Its class must be importable here and in the same version as on the instance.",
        type_name="",
        value_repr="",
        traceback="",
        **place,
    )


def _load_error(value: bytes, place: dict[str, object]) -> CallError:
    kind, message, data = parse_error_value(value)
    known = CALL_ERRORS.get(kind)
    if known is None:
        message = f"{kind}: {message}"
    return (known or CallError)(message, **{"kind": kind, **data, **place} if known is None else {**data, **place})
