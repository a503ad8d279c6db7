"""CloudWatch Logs filter patterns over JSON lines, ``{ $.job_id = "x" && $.call_index = 3 }``; moto takes all lines.

Source: "Filter pattern syntax for metric filters, subscription filters, filter log events", CloudWatch Logs User
Guide, read 2026-11. Comparisons, ``&&``, ``||``, brackets and ``*`` in strings; no arrays, no IP ranges.
"""

from __future__ import annotations

import fnmatch
import json
import operator
import re
from collections.abc import Callable
from typing import Any

from moto.logs.exceptions import InvalidParameterException
from moto.logs.utils import EventMessageFilter

__all__ = ["json_filter", "mend_filters"]

Test = Callable[[Any], bool]

_TOKEN = re.compile(r'\s*(?:(&&|\|\||!=|<=|>=|[()=<>])|"((?:[^"\\]|\\.)*)"|([^\s()=!<>&|"]+))')
_ORDER: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _tokens(text: str) -> list[tuple[str, str]]:
    found, position = [], 0
    text = text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(text[position:])
        sign, quoted, word = match.groups()
        if sign is not None:
            found.append(("sign", sign))
        elif quoted is not None:
            found.append(("text", re.sub(r"\\(.)", r"\1", quoted)))
        else:
            found.append(("word", word))
        position = match.end()
    return found


def _field(line: Any, path: str) -> Any:
    for name in path.removeprefix("$.").split("."):
        if not isinstance(line, dict) or name not in line:
            return None
        line = line[name]
    return line


def _compare(path: str, sign: str, kind: str, value: str) -> Test:
    if sign in _ORDER:
        bound, order = float(value), _ORDER[sign]
        return lambda line: isinstance(found := _field(line, path), int | float) and order(found, bound)

    def equal(line: Any) -> bool:
        found = _field(line, path)
        if isinstance(found, bool) or found is None:
            return False
        if isinstance(found, int | float):
            try:
                return found == float(value)
            except ValueError:
                return False
        # [ and ? mean nothing in CloudWatch
        pattern = re.sub(r"([\[?])", r"[\1]", value)
        return kind in ("text", "word") and fnmatch.fnmatchcase(str(found), pattern)

    return equal if sign == "=" else lambda line: _field(line, path) is not None and not equal(line)


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)

    def parse(self) -> Test:
        test = self._either()
        if self._tokens:
            raise ValueError(self._tokens[0][1])
        return test

    def _next_is(self, sign: str) -> bool:
        if self._tokens and self._tokens[0] == ("sign", sign):
            self._tokens.pop(0)
            return True
        return False

    def _either(self) -> Test:
        tests = [self._both()]
        while self._next_is("||"):
            tests.append(self._both())
        return lambda line: any(test(line) for test in tests)

    def _both(self) -> Test:
        tests = [self._one()]
        while self._next_is("&&"):
            tests.append(self._one())
        return lambda line: all(test(line) for test in tests)

    def _one(self) -> Test:
        if self._next_is("("):
            test = self._either()
            if not self._next_is(")"):
                raise ValueError("a bracket is missing")
            return test
        try:
            (_, path), (sign_kind, sign), (kind, value) = self._tokens[:3]
        except ValueError:
            raise ValueError("a comparison is incomplete") from None
        if not path.startswith("$.") or sign_kind != "sign" or sign in ("&&", "||", "(", ")") or kind == "sign":
            raise ValueError(path)
        del self._tokens[:3]
        return _compare(path, sign, kind, value)


def json_filter(pattern: str) -> Callable[[str], bool]:
    """Return what tells whether a line matches ``{ … }``.

    Raises:
        ValueError: The pattern is malformed; the text is where.
    """
    text = pattern.strip()
    if not text.endswith("}"):
        raise ValueError(text)
    test = _Parser(text[1:-1]).parse()

    def matches(message: str) -> bool:
        try:
            line = json.loads(message)
        except ValueError:
            return False
        return isinstance(line, dict) and test(line)

    return matches


class _JsonPattern:
    def __init__(self, pattern: str) -> None:
        try:
            self.matches = json_filter(pattern)
        except ValueError:
            raise InvalidParameterException("Invalid filter pattern") from None


def mend_filters() -> None:
    """Make moto's log filters understand JSON patterns."""
    original = EventMessageFilter.__init__

    def __init__(self: EventMessageFilter, pattern: str) -> None:  # noqa: N807 - takes the place of one
        if pattern and pattern.lstrip().startswith("{"):
            self.filter_type = _JsonPattern(pattern)  # type: ignore[assignment]
        else:
            original(self, pattern)

    EventMessageFilter.__init__ = __init__  # type: ignore[method-assign]
