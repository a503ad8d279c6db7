"""The sandbox's S3 where it answers by itself, seen through boto3 beside what moto answers of the same objects."""

from __future__ import annotations

import hashlib
import os
import threading

import boto3
import pytest
from botocore.exceptions import ClientError

from wren_worker.sandbox import control

BUCKET = "plain"
MB = 1024 * 1024


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with control.private(tmp_path_factory.mktemp("sandbox")) as sandbox:
        session = boto3.Session(
            aws_access_key_id="AKIAWRENSANDBOX00000", aws_secret_access_key="sandbox", region_name="us-east-1"
        )
        client = session.client("s3", endpoint_url=sandbox.info.endpoint)
        client.create_bucket(Bucket=BUCKET)
        yield client


def code(caught) -> str:
    return caught.value.response["Error"]["Code"]


@pytest.mark.parametrize("key", ["a", "deep/er/key", "name with space", "ques?tion", "plus+per%2Fcent", "ümläut"])
@pytest.mark.parametrize("size", [0, 1, 100_000, 3 * MB])
def test_what_is_put_is_got_by_both(s3, key, size):
    body = os.urandom(size)
    told = s3.put_object(Bucket=BUCKET, Key=key, Body=body, ContentType="text/odd")
    got = s3.get_object(Bucket=BUCKET, Key=key)
    assert got["Body"].read() == body
    assert got["ContentType"] == "text/odd"
    by_moto = s3.head_object(Bucket=BUCKET, Key=key)
    assert (by_moto["ContentLength"], by_moto["ETag"], by_moto["ContentType"]) == (size, told["ETag"], "text/odd")
    assert got["ETag"] == told["ETag"]
    if size <= MB:
        assert told["ETag"] == f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=key)["Contents"][0]
    assert (listed["Size"], listed["ETag"]) == (size, told["ETag"])
    s3.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": key})
    assert s3.get_object(Bucket=BUCKET, Key="copy")["Body"].read() == body
    s3.delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=BUCKET, Key=key)
    assert code(caught) == "NoSuchKey"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("0-0", b"0"), ("2-4", b"234"), ("7-", b"789"), ("8-100", b"89"), ("-3", b"789"), ("0-9", b"0123456789")],
)
def test_ranges(s3, wanted, expected):
    s3.put_object(Bucket=BUCKET, Key="digits", Body=b"0123456789")
    got = s3.get_object(Bucket=BUCKET, Key="digits", Range=f"bytes={wanted}")
    assert got["Body"].read() == expected
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert got["ContentRange"].endswith("/10")


def test_a_range_behind_the_end_is_refused(s3):
    s3.put_object(Bucket=BUCKET, Key="digits", Body=b"0123456789")
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=BUCKET, Key="digits", Range="bytes=10-12")
    assert code(caught) == "InvalidRange"


def test_one_of_many_conditional_writers_wins(s3):
    won: list[int] = []
    lost: list[ClientError] = []

    def write(number: int) -> None:
        try:
            s3.put_object(Bucket=BUCKET, Key="once", Body=b"%d" % number, IfNoneMatch="*")
            won.append(number)
        except ClientError as error:
            lost.append(error)

    threads = [threading.Thread(target=write, args=[number]) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert {error.response["Error"]["Code"] for error in lost} == {"PreconditionFailed"}
    assert {error.response["ResponseMetadata"]["HTTPStatusCode"] for error in lost} == {412}
    assert s3.get_object(Bucket=BUCKET, Key="once")["Body"].read() == b"%d" % won[0]


def test_parts_become_one_object_and_stay_readable_by_their_numbers(s3):
    bodies = [os.urandom(5 * MB), os.urandom(5 * MB + 1), b"end"]
    upload_id = s3.create_multipart_upload(Bucket=BUCKET, Key="parts")["UploadId"]
    etags = [
        s3.upload_part(Bucket=BUCKET, Key="parts", UploadId=upload_id, PartNumber=number, Body=body)["ETag"]
        for number, body in enumerate(bodies, 1)
    ]
    parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
    with pytest.raises(ClientError) as caught:
        s3.complete_multipart_upload(
            Bucket=BUCKET, Key="parts", UploadId=upload_id, MultipartUpload={"Parts": [parts[2], parts[0]]}
        )
    assert code(caught) == "EntityTooSmall"
    wrong = [{**parts[0], "ETag": parts[1]["ETag"]}]
    with pytest.raises(ClientError) as caught:
        s3.complete_multipart_upload(Bucket=BUCKET, Key="parts", UploadId=upload_id, MultipartUpload={"Parts": wrong})
    assert code(caught) == "InvalidPart"
    told = s3.complete_multipart_upload(
        Bucket=BUCKET, Key="parts", UploadId=upload_id, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
    )
    assert told["ETag"].endswith('-3"')
    assert s3.get_object(Bucket=BUCKET, Key="parts")["Body"].read() == b"".join(bodies)


def test_what_is_asked_for_in_another_way_is_motos(s3):
    s3.put_object(Bucket=BUCKET, Key="meta", Body=b"x", Metadata={"note": "yes"}, StorageClass="GLACIER_IR")
    assert s3.head_object(Bucket=BUCKET, Key="meta")["Metadata"] == {"note": "yes"}
    assert s3.get_object(Bucket=BUCKET, Key="meta")["StorageClass"] == "GLACIER_IR"
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket="nowhere", Key="a", Body=b"x")
    assert code(caught) == "NoSuchBucket"
    s3.create_bucket(Bucket="versions")
    s3.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    first = s3.put_object(Bucket="versions", Key="a", Body=b"1")["VersionId"]
    s3.put_object(Bucket="versions", Key="a", Body=b"2")
    assert s3.get_object(Bucket="versions", Key="a", VersionId=first)["Body"].read() == b"1"
    assert s3.get_object(Bucket="versions", Key="a")["Body"].read() == b"2"
    s3.put_object_tagging(Bucket=BUCKET, Key="meta", Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})
    assert s3.get_object_tagging(Bucket=BUCKET, Key="meta")["TagSet"] == [{"Key": "k", "Value": "v"}]
