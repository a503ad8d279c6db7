"""Functions, arguments and outcomes <-> bytes."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Callable

import cloudpickle
import pytest

from wren_worker.errors import CallError, CallTimeout, RemoteTraceback, ResultNotSerializable, SerializationError
from wren_worker.protocol import frames, records, serialize, wire
from wren_worker.protocol.serialize import dump_call, dump_function, load_outcome

LOCK = threading.Lock()


class Holder:
    def __init__(self) -> None:
        self.fine = 1
        self.inner = {"connection": [1, LOCK]}

    def method(self, x: int) -> int:
        return x


class Slotted:
    __slots__ = ("lock",)


def by_value(func: Callable[..., object]) -> Callable[..., object]:
    """Make it a function of ``__main__``, which travels by value."""
    module = types.ModuleType("__main__")
    copy = types.FunctionType(func.__code__, {**func.__globals__, "__name__": "__main__"}, func.__name__)
    copy.__module__ = module.__name__
    copy.__kwdefaults__, copy.__defaults__, copy.__closure__  # noqa: B018
    return copy


def _uses_a_global(x):
    return LOCK, x


def _nested(x):
    return [LOCK for _ in x]


def test_a_function_comes_back():
    assert cloudpickle.loads(dump_function(lambda x: x + 1).data)(2) == 3


def test_the_culprit_is_named():
    lock = threading.Lock()
    slotted = Slotted()
    slotted.lock = lock
    cases = {
        "closure variable 'lock'": lambda: lock,
        "global 'LOCK'": by_value(_uses_a_global),
        "default 0": lambda x=lock: x,
        "default of 'x'": lambda *, x=lock: x,
        "attribute 'inner' → item ['connection'] → item [1]": Holder().method,
        "item ['k']": functools.partial(print, k=lock),
        "attribute 'lock'": lambda: slotted,
    }
    for part, func in cases.items():
        with pytest.raises(SerializationError) as caught:
            dump_function(func)
        assert part in str(caught.value), str(caught.value)
        assert caught.value.type_name.endswith("lock")
    with pytest.raises(SerializationError, match="LOCK"):
        dump_function(by_value(_nested))
    with pytest.raises(SerializationError, match=r"arguments of call 7.*argument 'b' → item \[0\] is a _thread.lock"):
        dump_call((1,), {"b": [lock]}, call_index=7)
    pickle.loads(pickle.dumps(caught.value))


def test_plain_arguments_go_by_plain_pickle():
    assert dump_call((1, "x"), {}) == pickle.dumps(((1, "x"), {}), 5)
    args, kwargs = pickle.loads(dump_call((lambda x: x + 1,), {"k": 2}))
    assert (args[0](1), kwargs) == (2, {"k": 2})


def test_what_main_defines_travels_by_value(tmp_path):
    """Plain pickle would name ``__main__.Point``, and the other side's ``__main__`` has none."""
    writer = f"""
import sys
sys.path.insert(0, {sys.path[0]!r})
from wren_worker.protocol.serialize import dump_call
class Point:
    def __init__(self, x): self.x = x
    def double(self): return self.x * 2
def helper(p): return p.double() + 1
open(sys.argv[1], "wb").write(dump_call((Point(4), helper), {{}}))
"""
    target = tmp_path / "args"
    subprocess.run(
        [sys.executable, "-c", writer, str(target)], check=True, timeout=60, cwd=serialize.__file__.split("/wren_w")[0]
    )
    (point, helper), _ = pickle.loads(target.read_bytes())
    assert helper(point) == 9


def test_too_large_arguments_are_refused(monkeypatch):
    monkeypatch.setattr(serialize, "MAX_CALL_BYTES", 100)
    with pytest.raises(SerializationError, match=r"executor\.put"):
        dump_call((b"x" * 200,), {}, call_index=3)


def test_imports_inside_functions_are_seen():
    def f():
        import json.decoder
        from xml import sax

        def g():
            import a_module_not_loaded_anywhere  # type: ignore[import-not-found]

            return a_module_not_loaded_anywhere

        return json, sax, g

    assert {"json.decoder", "xml", "xml.sax", "a_module_not_loaded_anywhere"} <= dump_function(f).imports


def failure(header: dict[str, object], section: bytes = b"") -> bytes:
    return frames.join_sections({"type": "T", "module": "m", "repr": "T()", "traceback": "tb!"} | header, [section])


def load(status: int, value: bytes):
    return load_outcome(status, value, job_id="j", call_index=4)


def test_outcomes():
    assert load(records.SUCCESS, pickle.dumps([1])).value == [1]
    error = load(records.FAILURE, failure({"how": "pickle"}, pickle.dumps(KeyError("k")))).exception
    assert isinstance(error, KeyError)
    assert isinstance(error.__cause__, RemoteTraceback)
    parts = pickle.dumps((UnicodeDecodeError, ("utf-8", b"x", 0, 1, "bad"), {"extra": 1}))
    error = load(records.FAILURE, failure({"how": "parts"}, parts)).exception
    assert isinstance(error, UnicodeDecodeError)
    assert error.extra == 1
    error = load(records.ERROR, wire.error_value("CallTimeout", "late", timeout=3)).exception
    assert isinstance(error, CallTimeout)
    assert (error.timeout, error.job_id, error.call_index, str(error)) == (3, "j", 4, "late")
    error = load(records.ERROR, wire.error_value("FromTheFuture", "new")).exception
    assert type(error) is CallError
    assert error.kind == "FromTheFuture"


@pytest.mark.parametrize(
    ("status", "value"),
    [
        (records.SUCCESS, b"no pickle"),
        (records.SUCCESS, b""),
        (records.FAILURE, b"\0\0"),
        (records.FAILURE, failure({"how": "text"})),
        (records.FAILURE, failure({"how": "text", "unpicklable_value": True})),
        (records.FAILURE, failure({"how": "pickle"}, pickle.dumps("no exception"))),
        (records.FAILURE, failure({"how": "parts"}, pickle.dumps(3))),
        (records.ERROR, b"{}"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_what_is_left(status, value):
    first, second = load(status, value).exception, load(status, value).exception
    assert isinstance(first, ResultNotSerializable)
    assert str(first) == str(second)
    assert (first.job_id, first.call_index) == ("j", 4)
    pickle.loads(pickle.dumps(first))
