"""Says which part of an object cannot be pickled, by trying its parts one by one."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import cloudpickle

from wren_worker.errors import SerializationError

__all__ = ["Parts", "explain", "name_of"]

_MAX_DEPTH = 8


class Parts:
    """Named things that are tried one by one."""

    def __init__(self, named: dict[str, object]) -> None:
        self.named = named


def name_of(obj: object) -> str:
    """Return what a user calls the object."""
    return repr(getattr(obj, "__qualname__", None) or type(obj).__name__)


def explain(what: str, obj: object, error: Exception) -> SerializationError:
    """Return the error that names the part of ``obj`` that cannot be pickled."""
    path, leaf = _descend(obj, set(), 0)
    subject = f"{what[0].upper()}{what[1:]}"
    if not path:
        message = f"{subject} cannot be pickled: {error}."
    else:
        message = f"{subject} cannot be pickled: {' → '.join(path)} is a {_type_name(leaf)} ({error})."
    return SerializationError(
        f"{message} Create it inside the function, or pass what it can be made from.",
        culprit=path[-1] if path else what,
        path=tuple(path),
        type_name=_type_name(leaf),
    )


def _type_name(obj: object) -> str:
    kind = type(obj)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _descend(obj: object, seen: set[int], depth: int) -> tuple[list[str], object]:
    seen.add(id(obj))
    if depth < _MAX_DEPTH:
        for name, part in _parts(obj):
            if id(part) not in seen and not _can_pickle(part):
                path, leaf = _descend(part, seen, depth + 1)
                return [name, *path], leaf
    return [], obj


def _can_pickle(obj: object) -> bool:
    try:
        cloudpickle.dumps(obj, 5)
    except Exception:  # noqa: BLE001 - pickling runs the user's code
        return False
    return True


def _parts(obj: Any) -> Iterator[tuple[str, object]]:
    if isinstance(obj, Parts):
        yield from obj.named.items()
    elif isinstance(obj, FunctionType):
        yield from _parts_of_function(obj)
    elif isinstance(obj, MethodType):
        yield "its object 'self'", obj.__self__
        yield from _parts_of_function(obj.__func__) if isinstance(obj.__func__, FunctionType) else ()
    elif isinstance(obj, functools.partial):
        yield from (("the function of the partial", obj.func), *_items(obj.args), *_items(obj.keywords))
    elif isinstance(obj, dict | list | tuple | set | frozenset):
        yield from _items(obj)
    elif isinstance(obj, type):
        yield from ((f"class attribute '{name}'", value) for name, value in vars(obj).items())
    elif not isinstance(obj, ModuleType):
        yield from ((f"attribute '{name}'", value) for name, value in getattr(obj, "__dict__", {}).items())
        for name in _slots(type(obj)):
            if hasattr(obj, name):
                yield f"attribute '{name}'", getattr(obj, name)


def _items(obj: Any) -> Iterator[tuple[str, object]]:
    if isinstance(obj, dict):
        for key, value in obj.items():
            yield f"item [{key!r}]", value
            yield f"key {key!r}", key
    else:
        yield from ((f"item [{number}]", value) for number, value in enumerate(obj))


def _parts_of_function(func: FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=False):
        try:
            yield f"closure variable '{name}'", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for name in sorted(_names(func.__code__)):
        if name in func.__globals__:
            yield f"global '{name}'", func.__globals__[name]
    for number, value in enumerate(func.__defaults__ or ()):
        yield f"default {number}", value
    for name, value in (func.__kwdefaults__ or {}).items():
        yield f"default of '{name}'", value
    for name, value in vars(func).items():
        yield f"function attribute '{name}'", value


def _names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        yield from (name for name in ([slots] if isinstance(slots, str) else slots) if not name.startswith("__"))
