"""What every object store does: in memory, over moto, the sandbox and LocalStack."""

from __future__ import annotations

import threading
import time
import uuid

import pytest

from wren_worker.aws.s3 import S3Store
from wren_worker.errors import StoreError
from wren_worker.protocol.ports import ObjectStore
from wren_worker.testing import MemoryStore


@pytest.fixture(params=["memory", "moto", "sandbox", "localstack"])
def store(request) -> ObjectStore:
    if request.param == "memory":
        return MemoryStore()
    aws = request.getfixturevalue(f"{request.param}_aws")
    bucket = f"contract-{uuid.uuid4().hex[:12]}"
    aws.s3().create_bucket(Bucket=bucket)
    return S3Store(aws, bucket, timeout=10.0)


@pytest.mark.parametrize("data", [b"", b"abc", bytes(range(256)) * 40_000])
def test_what_is_put_is_got(store, data):
    store.put("a/b", data)
    assert store.get("a/b") == data
    assert store.exists("a/b")


def test_put_writes_over_what_was_there(store):
    store.put("k", b"old")
    store.put("k", memoryview(b"new"))
    assert store.get("k") == b"new"


def test_a_key_is_written_once(store):
    assert store.put_once("k", b"first") is True
    assert store.put_once("k", memoryview(b"second")) is False
    assert store.get("k") == b"first"


def test_a_key_that_put_wrote_is_taken(store):
    store.put("k", b"")
    assert store.put_once("k", b"second") is False
    assert store.get("k") == b""


def test_a_deleted_key_is_free_again(store):
    store.put_once("k", b"first")
    store.delete(["k"])
    assert store.put_once("k", b"second") is True


def test_one_of_many_writers_wins_and_its_bytes_stay(store):
    n = 12
    barrier, won = threading.Barrier(n), []

    def write(number):
        barrier.wait()
        if store.put_once("k", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    [winner] = won
    assert store.get("k") == b"%d" % winner


def test_a_file_is_written_once(store, tmp_path):
    (tmp_path / "first").write_bytes(b"x" * 100_000)
    (tmp_path / "second").write_bytes(b"y")
    assert store.put_once("k", tmp_path / "first") is True
    assert store.put_once("k", tmp_path / "second") is False
    assert store.get("k") == b"x" * 100_000


def test_an_empty_file_is_an_empty_object(store, tmp_path):
    (tmp_path / "empty").touch()
    assert store.put_once("k", tmp_path / "empty") is True
    assert store.get("k") == b""


@pytest.mark.parametrize("offset", [0, 1, 9, 10, 11])
@pytest.mark.parametrize("length", [None, 0, 1, 5, 100])
def test_a_range_is_cut_like_a_slice(store, offset, length):
    data = b"0123456789"
    store.put("k", data)
    expected = data[offset:] if length is None else data[offset : offset + length]
    assert store.get("k", offset=offset, length=length) == expected


def test_a_range_of_an_empty_object_is_empty(store):
    store.put("k", b"")
    assert store.get("k", offset=0, length=4) == b""


def test_a_missing_key_is_none(store, tmp_path):
    assert store.get("none") is None
    assert store.get("none", offset=3, length=4) is None
    assert store.exists("none") is False
    assert store.download("none", tmp_path / "file") is False
    assert list(tmp_path.glob("*file*")) == []


def test_a_prefix_is_no_key(store):
    store.put("a/b", b"")
    assert store.exists("a") is False
    assert store.exists("a/") is False


def test_an_object_or_its_range_is_downloaded(store, tmp_path):
    store.put("k", b"0123456789")
    assert store.download("k", tmp_path / "file") is True
    assert (tmp_path / "file").read_bytes() == b"0123456789"
    assert store.download("k", tmp_path / "file", offset=2, length=3) is True  # over what was there
    assert (tmp_path / "file").read_bytes() == b"234"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["file"]


def test_objects_are_listed_in_key_order(store):
    for key in ("b/10", "b/9", "a/1", "b/1", "b", "c/1", "b/1/0", "b-1", "b/é"):
        store.put(key, key.encode())
    listed = list(store.list("b/"))
    assert [info.key for info in listed] == ["b/1", "b/1/0", "b/10", "b/9", "b/é"]
    assert [info.n_bytes for info in listed] == [3, 5, 4, 3, 4]
    assert all(abs(info.modified_timestamp - time.time()) < 60 for info in listed)


def test_a_listing_starts_after_a_key(store):
    for number in range(5):
        store.put(f"k/{number}", b"")
    assert [info.key for info in store.list("k/", start_after="k/2")] == ["k/3", "k/4"]
    assert [info.key for info in store.list("k/", start_after="k/25")] == ["k/3", "k/4"]  # need not exist
    assert [info.key for info in store.list("k/", start_after="a")] == [f"k/{number}" for number in range(5)]
    assert list(store.list("k/", start_after="k/4")) == []
    assert list(store.list("none/")) == []


@pytest.mark.slow
def test_a_listing_goes_on_past_a_page(store):
    keys = [f"k/{number:04d}" for number in range(1005)]
    for key in keys:
        store.put(key, b"")
    assert [info.key for info in store.list("k/")] == keys
    store.delete([*keys, "never/there"])
    assert list(store.list("k/")) == []


def test_keys_are_deleted_and_missing_ones_are_no_error(store):
    store.put("a", b"")
    store.put("b", b"")
    store.delete([])
    store.delete(["a", "none"])
    assert [info.key for info in store.list("")] == ["b"]


def test_a_bucket_that_is_not_there_is_gone(moto_aws):
    store = S3Store(moto_aws, "never-made", timeout=5.0)
    for use in (
        lambda: store.put("k", b""),
        lambda: store.put_once("k", b""),
        lambda: store.get("k"),
        lambda: list(store.list("")),
    ):
        with pytest.raises(StoreError) as failure:
            use()
        assert failure.value.gone


def test_pieces_are_one_object(store):
    store.put("k", [b"ab", memoryview(b"cd"), b""])
    assert store.get("k") == b"abcd"
    assert store.put_once("k", [b"x"]) is False
    assert store.put_once("l", [memoryview(b"x" * 3_000_000), b"y"]) is True
    assert store.get("l", offset=2_999_999) == b"xy"


def test_a_buffer_is_filled_from_an_object(store):
    store.put("k", b"0123456789")
    target, seen = bytearray(4), []
    assert store.fill("k", memoryview(target), offset=3, seen=lambda view: seen.append(bytes(view))) is True
    assert bytes(target) == b"".join(seen) == b"3456"
    assert store.fill("k", memoryview(target), offset=7) is False
    assert store.fill("k", memoryview(target), offset=10) is False
    assert store.fill("none", memoryview(target)) is False
    assert store.fill("k", memoryview(bytearray())) is True


@pytest.mark.slow
def test_much_goes_up_in_parts_and_comes_back_in_ranges(store):
    pieces = [bytes([number]) * 7_000_001 for number in range(6)]
    assert store.put_once("k", pieces) is True
    assert store.put_once("k", [b"x" * 40_000_000]) is False
    target = bytearray(42_000_006)
    assert store.fill("k", memoryview(target)) is True
    assert target == b"".join(pieces)
    assert store.get("k", offset=7_000_000, length=2) == b"\x00\x01"
    [info] = store.list("k")
    assert info.n_bytes == len(target)
