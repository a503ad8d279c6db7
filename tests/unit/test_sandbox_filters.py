"""CloudWatch Logs patterns over JSON lines."""

import json

import pytest

from wren_worker.sandbox.filters import json_filter

LINE = json.dumps({"event": "slot.output", "job_id": "j-1", "call_index": 3, "at": {"slot": 0}, "ok": True})


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ('{ $.job_id = "j-1" }', True),
        ("{$.job_id=j-1}", True),
        ('{ $.job_id = "j-2" }', False),
        ('{ $.job_id = "j-*" }', True),
        ("{ $.call_index = 3 }", True),
        ("{ $.call_index != 3 }", False),
        ("{ $.call_index >= 3 && $.call_index < 4 }", True),
        ('{ ($.job_id = "j-2" || $.call_index = 3) && $.event = "slot.output" }', True),
        ("{ $.at.slot = 0 }", True),
        ("{ $.nope = 0 }", False),
        ("{ $.nope != 0 }", False),
        ('{ $.event = "[s]lot.output" }', False),
    ],
)
def test_matches(pattern, matches):
    assert json_filter(pattern)(LINE) is matches


def test_other_lines_do_not_match():
    assert not json_filter("{ $.a = 1 }")("plain text")
    assert not json_filter("{ $.a = 1 }")("[1]")


@pytest.mark.parametrize("pattern", ["{", "{}", "{ $.a }", "{ $.a = }", "{ a = 1 }", "{ ($.a = 1 }", "{ $.a = 1 } x"])
def test_malformed(pattern):
    with pytest.raises(ValueError):
        json_filter(pattern)
