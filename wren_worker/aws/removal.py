"""Removes what a fleet has in AWS, with what hangs on it; botocore's errors pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wren_worker.aws.session import Aws

if TYPE_CHECKING:
    from types_boto3_s3.type_defs import ObjectIdentifierTypeDef

__all__ = ["remove_bucket", "remove_profile", "remove_queue", "remove_role"]


def remove_bucket(aws: Aws, name: str) -> None:
    """Remove a bucket with all that is in it."""
    s3 = aws.s3()
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name):
        keys: list[ObjectIdentifierTypeDef] = [{"Key": item["Key"]} for item in page.get("Contents", [])]
        if keys:
            s3.delete_objects(Bucket=name, Delete={"Objects": keys, "Quiet": True})
    for upload in s3.list_multipart_uploads(Bucket=name).get("Uploads", []):
        s3.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
    s3.delete_bucket(Bucket=name)


def remove_queue(aws: Aws, name: str) -> None:
    """Remove a queue with all that is in it."""
    sqs = aws.sqs()
    sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=name)["QueueUrl"])


def remove_role(aws: Aws, name: str) -> None:
    """Remove a role with its own policies."""
    iam = aws.iam()
    for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    iam.delete_role(RoleName=name)


def remove_profile(aws: Aws, name: str) -> None:
    """Remove an instance profile, not the role in it."""
    iam = aws.iam()
    for role in iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]:
        iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=role["RoleName"])
    iam.delete_instance_profile(InstanceProfileName=name)
