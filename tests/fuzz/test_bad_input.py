"""What bad input did before it was mended: each with the input that found it."""

from __future__ import annotations

import base64
import dataclasses
import importlib.util
import io
import json
import os
import struct
import zipfile
from pathlib import Path

import pytest
from fuzz_targets import ARGS, CHUNK, CUT, JOB, MANIFEST, OUTCOMES, RESULT

import wren_worker
from wren_worker.client import outcome
from wren_worker.client.attempts import attempts_of
from wren_worker.client.resolve import parse_result_key
from wren_worker.config import InstanceConfig, load_instance_config, load_settings
from wren_worker.daemon.events import Arrived, Rejected
from wren_worker.daemon.intake import Intake
from wren_worker.daemon.outputs import Outputs
from wren_worker.daemon.slot import Given
from wren_worker.errors import CallError, ConfigError, ResultTampered, WireError
from wren_worker.fleet.roster import _number
from wren_worker.protocol import jobs, records, wire
from wren_worker.protocol.envelope import sha256_hex, unwrap, wrap
from wren_worker.protocol.model import Segment, call_key, result_key
from wren_worker.protocol.ports import ReceivedMessage
from wren_worker.protocol.serialize import load_outcome
from wren_worker.slot.job import unpack_modules
from wren_worker.testing import FakeClock, MemoryStore

CONFIG = InstanceConfig(fleet="f", account="123456789012", region="eu-west-1", python="3.11")
REPLIES = "https://sqs.eu-west-1.amazonaws.com/123456789012/wren-f-reply-0a1b"


def body_with(**fields: object) -> str:
    header, payload = unwrap(b"WRNC", base64.b64decode(wire.encode_chunk(CHUNK, ARGS)))
    return base64.b64encode(wrap(b"WRNC", header | fields, bytes(payload))).decode()


@pytest.mark.parametrize(
    "fields",
    [
        {"manifest_key": "jobs/other/manifest"},
        {"manifest_key": f"jobs/{JOB}/../../results/x"},
        {"args": dataclasses.asdict(CHUNK.args) | {"key": "results/x"}},
        {"args": dataclasses.asdict(CHUNK.args) | {"key": f"jobs/{JOB}/args-{'1' * 5000}"}},
        {"args": dataclasses.asdict(CHUNK.args) | {"key": f"jobs/{JOB}/args-\u0661"}},
        {"reply_queue": "\ud800"},
        {"audience": "\ud800"},
        {"resent": -1},
        {"limits": {"retries": 2**40}},
        {"limits": {"max_attempts": 70_000}},
        {"limits": {"max_deliveries": 31}},
    ],
)
def test_a_chunk_that_points_out_of_its_job_or_past_a_bound_is_refused(fields):
    with pytest.raises(WireError):
        wire.decode_chunk(body_with(**fields))


@pytest.mark.parametrize("name", ["job_id", "expiry_timestamp", "manifest_key"])
def test_a_name_that_stands_twice_is_refused(name):
    header, payload = unwrap(b"WRNC", base64.b64decode(wire.encode_chunk(CHUNK, ARGS)))
    text = f'{{"{name}": 1, {json.dumps(header)[1:]}'.encode()
    data = base64.b64decode(wire.encode_chunk(CHUNK, ARGS))[:72] + struct.pack("<I", len(text)) + text + bytes(payload)
    with pytest.raises(WireError):
        wire.decode_chunk(base64.b64encode(data).decode())


@pytest.mark.parametrize(
    "fields",
    [
        {"modules_sha256": "../../../tmp/x"},
        {"modules_sha256": "0" * 64},
        {"env": {"A=B": "c"}},
        {"env": {"A": "\0"}},
        {"env": {"": "a"}},
        {"env": {"A": "\ud800"}},
        {"retry_on": "abc"},
    ],
)
def test_a_manifest_that_no_slot_could_enter_is_refused(fields):
    head = dataclasses.asdict(MANIFEST) | {"function_bytes": 8, "modules_bytes": 7, "cuts": []}
    jobs.decode_manifest("k", wrap(b"WRNJ", head, b"functionmodules"))
    with pytest.raises(WireError):
        jobs.decode_manifest("k", wrap(b"WRNJ", head | fields, b"functionmodules"))


@pytest.mark.parametrize(
    "changed",
    [
        {"n_calls": 100_000},  # futures for calls that there are no bytes for
        {"length": 2**40},
        {"offset": 2**40},
        {"chunk_id": "abc"},
    ],
)
def test_cuts_that_lie_are_refused(changed):
    jobs.check_cuts(Segment(key="k", cuts=(CUT,)), 1000)
    with pytest.raises(WireError):
        jobs.check_cuts(Segment(key="k", cuts=(dataclasses.replace(CUT, **changed),)), 1000)
    with pytest.raises(WireError):
        jobs.check_cuts(Segment(key="k", cuts=(CUT, CUT)), 1000)


@pytest.mark.parametrize(
    "key",
    [
        "results/j/" + "1" * 5000,  # int() refuses so many digits, and the collector's thread ended
        "results/j/1",
        "results/j/\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0661",
        "results/j/00000001/007",
        "results/j/00000001/",
    ],
)
def test_only_the_one_spelling_of_a_result_key_is_one(key):
    assert parse_result_key(key) is None
    assert parse_result_key("results/j/00000001/7") == ("j", 1, 7)


@pytest.mark.parametrize(
    "value",
    [
        b'{"kind":"SlotCrashed","message":"m","data":{"message":"x"}}',
        b'{"kind":"SlotCrashed","message":"m","data":{"self":"x"}}',
        b'{"kind":"Nothing","message":"m","data":{"__class__":1}}',
        b"[" * 100_000,
        b"{}",
    ],
)
def test_an_error_outcome_that_is_none_is_an_error_of_its_call(value):
    loaded = load_outcome(records.ERROR, value, job_id="j", call_index=3)
    assert isinstance(loaded.exception, CallError)


def pointer(**where: object) -> bytes:
    value = json.dumps({"key": f"results/{JOB}/0/1.x", "length": 4, "sha256": sha256_hex(b"data")} | where).encode()
    return records.pack_record(1, records.SUCCESS, value, flags=records.FLAG_ELSEWHERE)


@pytest.mark.parametrize(
    "where",
    [
        {"key": "jobs/other/manifest"},
        {"length": 2**62},
        {"length": 10**12},
        {"length": float("inf")},
        {"length": True},
        {"length": "4"},
        {"value_bytes": 5},
        {"value_bytes": -1},
    ],
)
def test_a_pointer_that_lies_is_tampered_with_and_costs_no_memory(where):
    asked = []

    def fetch(key, target, seen, offset):
        asked.append((len(target), offset))
        if offset + len(target) > 4:
            return False
        target[:] = b"data"[offset : offset + len(target)]
        seen(target)
        return True

    assert bytes(outcome.complete(pointer(), fetch, job_id=JOB) or b"")[-4:] == b"data"
    asked.clear()
    assert outcome.complete(pointer(**where), fetch, job_id=JOB) is None
    assert all(size <= 64 for size, _ in asked)


def test_output_that_is_none_is_told_by_a_typed_error():
    record = records.pack_record(1, records.SUCCESS, b"v", output=b"\1\0\0\0\xff\xff\xff\xff")
    with pytest.raises(ResultTampered):
        outcome.output(record, records.STDOUT)
    assert len(attempts_of(record, None, "i")) == 1


# --- the daemon -----------------------------------------------------------------------------------------------------


class World:
    def __init__(self, folder: Path) -> None:
        self.store, self.clock = MemoryStore(), FakeClock()
        self.intake = Intake(
            config=CONFIG, audience="r/a/q", instance_id="i", store=self.store, folder=folder, clock=self.clock,
            rung=lambda _: False,
        )  # fmt: skip
        manifest = dataclasses.replace(MANIFEST, modules_sha256="")
        self.manifest, _ = jobs.encode_manifest("k", manifest, function=b"f", modules=b"")
        self.store.put(CHUNK.manifest_key, self.manifest)
        self.chunk = dataclasses.replace(
            CHUNK, manifest_sha256=sha256_hex(self.manifest), reply_queue=REPLIES,
            expiry_timestamp=self.clock.timestamp() + 60,
        )  # fmt: skip

    def prepare(self, *, receive_count: int = 1, **changed: object) -> Arrived | Rejected:
        body = wire.encode_chunk(dataclasses.replace(self.chunk, **changed), ARGS)
        message = ReceivedMessage(
            body=body, receipt_handle="h", receive_count=receive_count, sent_timestamp=0.0, sender_id="s"
        )
        return self.intake.prepare(message)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.invalid/123456789012/elsewhere",
        "https://user@example.invalid/1/wren-f-reply-a",
        "https://example.invalid/1/wren-other-reply-a",
        "file:///etc/passwd",
        "https://example.invalid/1/wren-f-reply-a/../x",
    ],
)
def test_outcomes_are_sent_to_no_queue_but_the_fleets_own(world, url):
    assert isinstance(world.prepare(), Arrived)
    assert isinstance(world.prepare(reply_queue=url), Rejected)


def test_a_manifest_of_another_job_is_refused_even_when_it_is_known_already(world):
    assert isinstance(world.prepare(), Arrived)
    other = "65a0b1c2-ffffffffffffffffffffffff"
    args = dataclasses.replace(world.chunk.args, key=f"jobs/{other}/manifest")
    world.store.put(f"jobs/{other}/manifest", world.manifest)
    found = world.prepare(job_id=other, manifest_key=f"jobs/{other}/manifest", args=args)
    assert isinstance(found, Rejected)


@pytest.mark.parametrize(
    "forged",
    [
        (dataclasses.replace(RESULT, call_index=1), OUTCOMES[1:2]),  # would be taken for one that leaves nothing out
        (dataclasses.replace(RESULT, job_id="other"), OUTCOMES),
        (dataclasses.replace(RESULT, chunk_id="00000009"), OUTCOMES),
    ],
)
def test_a_message_is_not_found_done_by_an_object_that_is_not_its_chunks(world, forged):
    world.store.put(result_key(JOB, CHUNK.chunk_id), wire.encode_result(*forged))
    assert isinstance(world.prepare(receive_count=2), Rejected)


@pytest.mark.parametrize("name", ["\u00b2", "9" * 900, "1.abc", "-1", "\u0661"])
def test_a_strange_name_beside_the_own_keys_is_no_call(world, name):
    left = dataclasses.replace(RESULT, left_out=((0, 4),))
    world.store.put(result_key(JOB, CHUNK.chunk_id), wire.encode_result(left, ()))
    world.store.put(call_key(JOB, CHUNK.chunk_id, 0)[:-1] + name, b"")
    found = world.prepare(receive_count=2)
    assert isinstance(found, Arrived)
    assert found.resolved == frozenset()


@pytest.mark.parametrize("kind", ["fifo", "link", "folder", "missing", "number"])
def test_a_slot_that_points_to_no_file_neither_holds_up_nor_leads_out(tmp_path, kind):
    outbox, target = tmp_path / "outbox", tmp_path / "secret"
    outbox.mkdir()
    target.write_text("s")
    if kind == "fifo":
        os.mkfifo(outbox / "x")
    elif kind == "link":
        (outbox / "x").symlink_to(target)
    elif kind == "folder":
        (outbox / "x").mkdir()
    value = json.dumps({"path": 7 if kind == "number" else "x"}).encode()
    record = records.pack_record(1, records.SUCCESS, value, flags=records.FLAG_ELSEWHERE)
    outputs = Outputs(tell=lambda _: None, folder=tmp_path / "spill")
    found = outputs.finish(
        Given(receipt_handle="h", call_index=1, attempt=1), record, job_id="j", slot=0, outbox=outbox
    )
    assert records.HEAD.unpack_from(found)[1] == records.ERROR
    assert target.read_text() == "s"


def test_an_archive_that_unpacks_to_more_than_a_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("wren_worker.slot.job._MOST_BYTES", 10_000)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.py", bytes(1_000_000))
    with pytest.raises(ValueError, match="unpacks to more"):
        unpack_modules(packed.getvalue(), tmp_path / "modules")
    assert not (tmp_path / "modules").exists()


# --- configuration --------------------------------------------------------------------------------------------------

NEEDED = '"fleet": "f", "account": "123456789012", "region": "eu-west-1", "python": "3.11"'


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"slots": "0", ' + NEEDED + "}",
        '{"slots": "-1", ' + NEEDED + "}",
        '{"slots": "many", ' + NEEDED + "}",
        '{"slots": "\u00b2", ' + NEEDED + "}",
        '{"idle_timeout": -1, ' + NEEDED + "}",
        '{"lease_time": 0, ' + NEEDED + "}",
        '{"idle_timeout": 1e308, ' + NEEDED + "}",
        '{"memory_bytes": -1, ' + NEEDED + "}",
        '{"runtime": "\\ud800", ' + NEEDED + "}",
        '{"fleet": "x", ' + NEEDED + "}",
        "{" + NEEDED.replace("3.11", "../3") + "}",
        "{" + NEEDED.replace("123456789012", "x") + "}",
        "{" + NEEDED.replace('"f"', '"F!"') + "}",
        "{" + NEEDED + "}" + " " * 70_000 + "x",
    ],
)
def test_a_configuration_that_would_be_stumbled_over_later_is_refused(tmp_path, text):
    path = tmp_path / "instance.json"
    path.write_text("{" + NEEDED + "}")
    load_instance_config(path)
    path.write_text(text, encoding="utf-8")
    if text.endswith("x"):  # what is past the bound is not read
        assert load_instance_config(path).fleet == "f"
        return
    with pytest.raises(ConfigError):
        load_instance_config(path)


@pytest.mark.parametrize("text", ["a = " + "1" * 5000, "a = " + "[" * 5000, "\x00", "a = 1\na = 2"])
def test_a_config_file_that_is_no_toml_is_refused(tmp_path, text):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError):
        load_settings({"WREN_CONFIG": str(tmp_path / "config.toml")})


@pytest.mark.parametrize("text", ["[" * 100_000, '{"idle_timeout": 1' + "0" * 400 + "}", "[]", "null", "\ufffd"])
def test_the_dead_man_takes_its_defaults_for_what_it_cannot_read(tmp_path, text):
    place = Path(wren_worker.__file__).parent.parent / "cloud-init" / "deadman.py"
    spec = importlib.util.spec_from_file_location("deadman_under_test", place)
    deadman = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(deadman)
    (tmp_path / "instance.json").write_text(text)
    assert deadman.load_limits(str(tmp_path / "instance.json")) == deadman.DEFAULTS


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf"), True, "7", None])
def test_a_state_object_counts_in_numbers(value):
    assert _number(value) is None
    assert _number(7) == 7.0
