"""S3 when it races, stalls and refuses: botocore's stubs answer in its place."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.response import StreamingBody
from botocore.stub import ANY, Stubber

from wren_worker.aws import s3, s3_multipart, s3_ranges
from wren_worker.aws.s3 import S3Store
from wren_worker.aws.session import Aws
from wren_worker.errors import StoreError
from wren_worker.testing import FakeClock

EXPORTS = {"AWS_ENDPOINT_URL": "http://localhost:1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
MODIFIED = datetime.fromtimestamp(1_700_000_000, tz=UTC)
ONCE = {"Bucket": "b", "Key": "k", "Body": b"data", "IfNoneMatch": "*"}


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def aws():
    return Aws("us-east-1", account="123456789012", exports=EXPORTS)


@pytest.fixture
def stub(aws):
    with Stubber(aws.s3()) as stub:
        yield stub
        stub.assert_no_pending_responses()


@pytest.fixture
def store(aws, clock):
    return S3Store(aws, "b", timeout=30, clock=clock)


def body(data):
    return {"Body": StreamingBody(io.BytesIO(data), len(data))}


def test_a_free_key_is_ours(store, stub):
    stub.add_response("put_object", {}, ONCE)
    assert store.put_once("k", b"data") is True


def test_a_taken_key_is_not(store, stub, clock):
    stub.add_client_error("put_object", "PreconditionFailed", "taken", 412)
    assert store.put_once("k", memoryview(b"data")) is False
    assert clock.sleeps == []


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ConditionalRequestConflict", 409),
        ("InternalError", 500),
        ("SlowDown", 503),
        ("ServiceUnavailable", 503),
        ("RequestTimeout", 400),
    ],
)
def test_the_same_bytes_go_again_after_a_race_or_a_fault(store, stub, clock, code, status):
    stub.add_client_error("put_object", code, "x", status)
    stub.add_response("put_object", {}, ONCE)
    assert store.put_once("k", b"data") is True
    assert len(clock.sleeps) == 1


def test_a_lost_answer_may_have_been_our_own_and_still_is_taken(store, aws, monkeypatch, clock):
    answers = iter(
        [
            EndpointConnectionError(endpoint_url="x"),
            aws.s3().exceptions.ClientError({"ResponseMetadata": {"HTTPStatusCode": 412}}, "PutObject"),
        ]
    )

    def put(**_):
        raise next(answers)

    monkeypatch.setattr(aws.s3(), "put_object", put)
    assert store.put_once("k", b"data") is False


def test_writing_ends_with_its_time(store, aws, monkeypatch, clock):
    def put(**_):
        clock.advance(10)
        raise EndpointConnectionError(endpoint_url="x")

    monkeypatch.setattr(aws.s3(), "put_object", put)
    with pytest.raises(StoreError) as caught:
        store.put_once("k", b"data")
    assert (caught.value.transient, caught.value.denied, caught.value.gone) == (True, False, False)
    assert caught.value.key == "k"


@pytest.mark.parametrize(
    ("code", "status", "flag"),
    [("AccessDenied", 403, "denied"), ("ExpiredToken", 400, "denied"), ("NoSuchBucket", 404, "gone")],
)
@pytest.mark.parametrize("write", ["put", "put_once"])
def test_a_refusal_is_no_reason_to_try_again(store, stub, clock, write, code, status, flag):
    stub.add_client_error("put_object", code, "x", status)
    with pytest.raises(StoreError) as caught:
        getattr(store, write)("k", b"data")
    assert getattr(caught.value, flag)
    assert not caught.value.transient
    assert clock.sleeps == []


@pytest.mark.parametrize(("code", "status"), [("NoSuchKey", 404), ("AccessDenied", 403)])
def test_a_missing_key_is_none_even_where_s3_does_not_tell(store, stub, tmp_path, code, status):
    stub.add_client_error("get_object", code, "x", status)
    if code == "AccessDenied":
        stub.add_client_error("list_objects_v2", code, "x", status)  # asked once
    stub.add_client_error("get_object", code, "x", status)
    assert store.get("k") is None
    assert store.download("k", tmp_path / "f") is False
    assert list(tmp_path.glob("f")) == []


@pytest.mark.parametrize("read", ["get", "exists"])
def test_to_who_may_list_a_403_is_a_denial(store, stub, read):
    operation, code = ("get_object", "AccessDenied") if read == "get" else ("head_object", "403")
    stub.add_client_error(operation, code, "x", 403)
    stub.add_response("list_objects_v2", {}, {"Bucket": "b", "MaxKeys": 1})
    stub.add_client_error(operation, code, "x", 403)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"denied .*permission") as caught:
            getattr(store, read)("k")
        assert caught.value.denied


@pytest.mark.parametrize("code", ["SignatureDoesNotMatch", "InvalidAccessKeyId", "RequestTimeTooSkewed"])
def test_other_403s_are_not_a_missing_key(store, stub, code):
    stub.add_client_error("get_object", code, "x", 403)
    with pytest.raises(StoreError) as caught:
        store.get("k")
    assert caught.value.denied


@pytest.mark.parametrize(
    ("offset", "length", "header"), [(0, 3, "bytes=0-2"), (5, 3, "bytes=5-7"), (5, None, "bytes=5-")]
)
def test_ranges(store, stub, offset, length, header):
    stub.add_response("get_object", body(b"abc"), {"Bucket": "b", "Key": "k", "Range": header})
    assert store.get("k", offset=offset, length=length) == b"abc"


def test_nothing_lies_in_an_empty_range(store, stub):
    stub.add_client_error("get_object", "InvalidRange", "x", 416)
    assert store.get("k", offset=9) == b""
    stub.add_response("get_object", body(b"a"))
    assert store.get("k", length=0) == b""


class Broken(io.BytesIO):
    def read(self, *_):
        raise ConnectionResetError


def test_a_body_that_breaks_off_is_asked_for_again(store, stub, tmp_path):
    for _ in range(2):
        stub.add_response("get_object", {"Body": StreamingBody(Broken(), 4)})
        stub.add_response("get_object", body(b"whole"))
    assert store.get("k") == b"whole"
    assert store.download("k", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"whole"


def test_a_body_that_is_short_is_asked_for_again(store, stub):
    stub.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"who"), 5)})
    stub.add_response("get_object", body(b"whole"))
    assert store.get("k") == b"whole"


def test_a_file_that_cannot_be_written_is_not_s3s_fault(store, stub, tmp_path):
    stub.add_response("get_object", body(b"whole"))
    with pytest.raises(FileNotFoundError):
        store.download("k", tmp_path / "no" / "f")


@pytest.mark.parametrize(("status", "expected"), [(403, False), (404, False)])
def test_a_head_that_is_refused_is_a_key_that_is_free(store, stub, status, expected):
    stub.add_client_error("head_object", str(status), "x", status)
    if status == 403:
        stub.add_client_error("list_objects_v2", "AccessDenied", "x", status)
    assert store.exists("k") is expected


def test_a_list_goes_on_after_the_last_key_whatever_happens_between(store, stub, clock):
    def page(*keys, more):
        return {
            "Contents": [{"Key": key, "Size": 1, "LastModified": MODIFIED} for key in keys],
            "IsTruncated": more,
        }

    first = {"Bucket": "b", "Prefix": "p/", "MaxKeys": 1000, "StartAfter": "p/0"}
    stub.add_response("list_objects_v2", page("p/1", "p/2", more=True), first)
    stub.add_client_error("list_objects_v2", "SlowDown", "x", 503)
    stub.add_response("list_objects_v2", page("p/3", more=False), {**first, "StartAfter": "p/2"})
    assert [info.key for info in store.list("p/", start_after="p/0")] == ["p/1", "p/2", "p/3"]


def test_what_could_not_be_deleted_is_named(store, stub):
    failed = [{"Key": "k2", "Code": "AccessDenied", "Message": "no"}]
    stub.add_response("delete_objects", {"Errors": failed}, {"Bucket": "b", "Delete": ANY})
    with pytest.raises(StoreError, match="k2") as caught:
        store.delete(["k1", "k2"])
    assert (caught.value.undeleted, caught.value.denied) == (["k2"], True)


# --- large files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "MULTIPART_BYTES", 8)
    monkeypatch.setattr(s3_multipart, "PART_BYTES", 8)
    monkeypatch.setattr(s3_multipart, "_THREADS", 1)  # the stub wants its requests in order
    path = tmp_path / "large"
    path.write_bytes(b"0123456789")
    return path


COMPLETE = {
    "Bucket": "b",
    "Key": "k",
    "UploadId": "u",
    "MultipartUpload": {"Parts": [{"ETag": "1", "PartNumber": 1}, {"ETag": "2", "PartNumber": 2}]},
    "IfNoneMatch": "*",
}
ABORT = {"Bucket": "b", "Key": "k", "UploadId": "u"}


class Sent:
    """Equals a body that reads as these bytes."""

    def __init__(self, data):
        self.data = data

    def __eq__(self, body):
        found = b"".join(iter(lambda: bytes(body.read(4)), b""))
        body.seek(0)
        return found == self.data == body.read(-1) and body.tell() == len(body) == len(self.data)

    __hash__ = None


def add_parts(stub):
    stub.add_response("create_multipart_upload", {"UploadId": "u"}, {"Bucket": "b", "Key": "k"})
    for number, data in ((1, b"01234567"), (2, b"89")):
        part = {"Bucket": "b", "Key": "k", "UploadId": "u", "PartNumber": number, "Body": Sent(data)}
        stub.add_response("upload_part", {"ETag": str(number)}, part)


def test_a_large_file_goes_up_in_parts_and_once(store, stub, large):
    add_parts(stub)
    stub.add_response("complete_multipart_upload", {}, COMPLETE)
    assert store.put_once("k", large) is True


def test_a_small_file_goes_up_whole(store, stub, tmp_path):
    path = tmp_path / "small"
    path.write_bytes(b"data")
    stub.add_client_error("put_object", "InternalError", "x", 500)
    stub.add_response("put_object", {}, {**ONCE, "Body": ANY})
    assert store.put_once("k", path) is True


@pytest.mark.parametrize(("code", "status"), [("PreconditionFailed", 412), ("NoSuchUpload", 404)])
def test_a_large_file_meets_a_taken_key(store, stub, large, code, status):
    add_parts(stub)
    stub.add_client_error("complete_multipart_upload", code, "x", status)
    stub.add_response("abort_multipart_upload", {}, ABORT)
    assert store.put_once("k", large) is False


def test_a_race_for_the_key_begins_the_upload_anew(store, stub, large):
    add_parts(stub)
    stub.add_client_error("complete_multipart_upload", "ConditionalRequestConflict", "x", 409)
    stub.add_response("abort_multipart_upload", {}, ABORT)
    add_parts(stub)
    stub.add_response("complete_multipart_upload", {}, COMPLETE)
    assert store.put_once("k", large) is True


def test_a_part_that_fails_goes_again_alone_and_nothing_is_left_when_it_cannot(store, stub, large):
    stub.add_response("create_multipart_upload", {"UploadId": "u"})
    stub.add_client_error("upload_part", "InternalError", "x", 500)
    stub.add_client_error("upload_part", "AccessDenied", "x", 403)
    stub.add_response("abort_multipart_upload", {}, ABORT)
    with pytest.raises(StoreError) as caught:
        store.put_once("k", large)
    assert caught.value.denied


# --- pieces and ranges ------------------------------------------------------------------------------------------------


def test_pieces_are_one_object_and_are_not_copied(store, stub):
    large = b"x" * 2_000_000
    stub.add_client_error("put_object", "InternalError", "x", 500)
    stub.add_response("put_object", {}, {"Bucket": "b", "Key": "k", "Body": Sent(b"head" + large)})
    store.put("k", [b"head", memoryview(large)])
    stub.add_response("put_object", {}, ONCE)
    assert store.put_once("k", [b"da", b"ta"]) is True


@pytest.mark.parametrize("lengths", [[], [1], [8], [9], [3, 0, 5], [20, 1, 7], [8, 8]])
def test_pieces_are_cut_anew_without_a_gap(lengths):
    data = bytes(range(100))[: sum(lengths)]
    view, pieces = memoryview(data), []
    for length in lengths:
        pieces.append(view[:length])
        view = view[length:]
    parts = [b"".join(part) for part in s3_multipart.cut(pieces, 8)]
    assert b"".join(parts) == data
    assert all(len(part) == 8 for part in parts[:-1])
    assert all(parts)


def test_a_part_reads_as_a_file():
    part = s3_multipart.Part([memoryview(b"ab"), memoryview(b""), memoryview(b"cde")])
    assert [bytes(part.read(1)), bytes(part.read()), bytes(part.read())] == [b"ab", b"cde", b""]
    assert part.tell() == len(part) == 5
    assert part.seek(-2, 2) == 3
    assert bytes(part.read()) == b"de"
    assert part.seek(1) == 1
    assert part.seek(99, 1) == 5


def test_a_large_object_that_may_be_written_over_goes_up_in_parts(store, stub, large):
    add_parts(stub)
    stub.add_response("complete_multipart_upload", {}, {k: v for k, v in COMPLETE.items() if k != "IfNoneMatch"})
    store.put("k", [b"01234", memoryview(b"56789")])


def ranged(stub, *answers):
    for start, data in answers:
        request = {"Bucket": "b", "Key": "k", "Range": f"bytes={start}-{start + 3}"}
        stub.add_response("get_object", body(data), request)


@pytest.fixture
def small_ranges(monkeypatch):
    monkeypatch.setattr(s3_ranges, "RANGE_BYTES", 4)
    monkeypatch.setattr(s3_ranges, "_THREADS", 1)  # the stub wants its requests in order


@pytest.mark.usefixtures("small_ranges")
def test_a_buffer_is_filled_by_ranges_that_are_seen_in_order(store, stub):
    ranged(stub, (2, b"abcd"), (6, b"efgh"))
    stub.add_response("get_object", body(b"i"), {"Bucket": "b", "Key": "k", "Range": "bytes=10-10"})
    target, seen = bytearray(9), []
    assert store.fill("k", memoryview(target), offset=2, seen=lambda view: seen.append(bytes(view))) is True
    assert bytes(target) == b"abcdefghi"
    assert seen == [b"abcd", b"efgh", b"i"]


@pytest.mark.usefixtures("small_ranges")
def test_an_object_that_is_shorter_or_gone_fills_nothing(store, stub):
    ranged(stub, (0, b"abcd"), (4, b"e"))
    assert store.fill("k", memoryview(bytearray(8))) is False
    stub.add_client_error("get_object", "InvalidRange", "x", 416)
    assert store.fill("k", memoryview(bytearray(3))) is False
    stub.add_client_error("get_object", "NoSuchKey", "x", 404)
    assert store.fill("k", memoryview(bytearray(3))) is False
    stub.add_client_error("get_object", "SlowDown", "x", 503)
    ranged(stub, (0, b"abcd"))
    assert store.fill("k", memoryview(bytearray(4))) is True
