"""Ways to spoil bytes and JSON: blind ones, and ones that know where lengths and names stand. Seeded, no state."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

__all__ = ["spoil_bytes", "spoil_json"]

_INTERESTING = (0, 1, 2, 7, 63, 64, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
#: As JSON text, so that what no Python value spells is among them.
_STRANGE = (
    "null", "true", "-1", "0", "1.5", "NaN", "Infinity", "-Infinity", "1e999", "9223372036854775808", "1" + "0" * 400,
    "9" * 5000, '""', '"\\ud800"', '"\\u0000"', '"../../x"', '"/etc/passwd"', '"' + "a" * 300 + '"', '"\\u0661"',
    '"jobs/other/manifest"', '"results/other/00000000"', '"00000001/../00000002"', "[]", "{}", "[[0,4294967296]]",
    "[[1,0]]", "[[-1,1]]", '{"a":{"a":{"a":1}}}', "[" * 3000 + "]" * 3000, "[" * 200_000, "[" + "[]," * 3000 + "[]]",
    '"https://example.invalid/123456789012/elsewhere"', "4294967295", "100001",
)  # fmt: skip


def _flip(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _number(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    """Put an interesting number where a length may stand."""
    width = random.choice((1, 2, 4, 8))
    if len(data) >= width:
        # most lengths stand near the front
        start = min(random.randrange(len(data) - width + 1), random.randrange(len(data) - width + 1))
        data[start : start + width] = (random.choice(_INTERESTING) % 256**width).to_bytes(width, "little")


def _cut(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    start = random.randrange(len(data) + 1)
    del data[start : random.choice((start + 1, start + 8, len(data)))]


def _repeat(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    start = random.randrange(len(data) + 1)
    piece = bytes(data[start : start + random.randrange(1, 64)])
    data[start:start] = piece * random.choice((1, 1, 2, 50))


def _splice(data: bytearray, random: Random, others: Sequence[bytes]) -> None:
    other = random.choice(others)
    start = random.randrange(len(other) + 1)
    at = random.randrange(len(data) + 1)
    data[at : at + random.randrange(64)] = other[start : start + random.randrange(64)]


def _grow(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    data += random.randbytes(random.choice((1, 8, 64, 1000)))


_WAYS: tuple[Callable[[bytearray, Random, Sequence[bytes]], None], ...] = (
    _flip, _flip, _number, _number, _number, _cut, _repeat, _splice, _grow,
)  # fmt: skip


def spoil_bytes(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Return the bytes changed in one to four ways; ``others`` lend pieces."""
    spoiled = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        random.choice(_WAYS)(spoiled, random, others)
    return bytes(spoiled)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        found.append((*path, key))
        if isinstance(value[key], (dict, list)):
            found += _places(value[key], (*path, key))
    return found


def spoil_json(value: dict[str, Any], random: Random) -> bytes:
    """Return an object's text with fields replaced, left out, doubled or added, anywhere in it."""
    spoiled = json.loads(json.dumps(value))
    marks: dict[str, str] = {}
    for number in range(random.choice((1, 1, 2, 3))):
        places = _places(spoiled)
        if not places:
            break
        *way, last = random.choice(places)
        place = spoiled
        for step in way:
            place = place[step]
        if random.random() < 0.15:
            del place[last]
        elif isinstance(place[last], int) and random.random() < 0.4:
            place[last] = random.choice((place[last] + random.choice((-1, 1)), random.choice(_INTERESTING)))
        else:
            mark = f"\x01{number}"
            place[last], marks[json.dumps(mark)] = mark, random.choice(_STRANGE)
    text = json.dumps(spoiled)
    for mark, strange in marks.items():
        text = text.replace(mark, strange)
    if random.random() < 0.1:  # a name twice: readers may differ in which they believe
        name = random.choice(list(value) or ["a"])
        text = f"{{{json.dumps(name)}: {random.choice(_STRANGE)}, {text[1:]}"
    return text.encode()
