"""The account's own machine images: fills ``protocol.images.Images``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from wren_worker.aws.errors import error_code, explain, is_aws_error
from wren_worker.aws.session import Aws
from wren_worker.errors import FleetError
from wren_worker.protocol.images import ImageInfo

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import ImageTypeDef

__all__ = ["Ec2Images"]

_TAG = "wren:python"


class Ec2Images:
    """The images that are tagged ``wren:python`` and belong to this account.

    Args:
        aws: The identity to act as.
    """

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    def images(self) -> list[ImageInfo]:
        """Return them, newest first.

        Raises:
            FleetError: EC2 refused.
        """
        try:
            pages = self._aws.ec2().get_paginator("describe_images").paginate(
                Owners=["self"], Filters=[{"Name": "tag-key", "Values": [_TAG]}]
            )  # fmt: skip
            found = [image for page in pages for image in page["Images"]]
            stored = self._stored_bytes([one for image in found for one in _snapshots(image)])
        except Exception as error:
            if not is_aws_error(error):
                raise
            raise FleetError(f"Images cannot be listed. {explain(error)}") from error
        infos = [_info(image, stored) for image in found]
        return sorted(infos, key=lambda info: (info.created_timestamp, info.image_id), reverse=True)

    def _stored_bytes(self, snapshot_ids: Sequence[str]) -> dict[str, int]:
        """Return what snapshots hold, of those that EC2 tells it of; an image lives on without a word about them."""
        if not snapshot_ids:
            return {}
        # by filter and not by id: one that is gone would fail the whole call
        pages = self._aws.ec2().get_paginator("describe_snapshots").paginate(
            OwnerIds=["self"], Filters=[{"Name": "snapshot-id", "Values": list(snapshot_ids)[:200]}]
        )  # fmt: skip
        sizes = {
            one["SnapshotId"]: one.get("FullSnapshotSizeInBytes", 0) for page in pages for one in page["Snapshots"]
        }
        return {snapshot_id: n_bytes for snapshot_id, n_bytes in sizes.items() if n_bytes}

    def set_tags(self, image: ImageInfo, tags: Mapping[str, str]) -> None:
        """Tag an image and its snapshots.

        Raises:
            FleetError: EC2 refused.
        """
        try:
            self._aws.ec2().create_tags(
                Resources=[image.image_id, *image.snapshot_ids],
                Tags=[{"Key": name, "Value": value} for name, value in tags.items()],
            )
        except Exception as error:
            if not is_aws_error(error):
                raise
            raise FleetError(f"{image.image_id} could not be tagged. {explain(error)}") from error

    def remove(self, image: ImageInfo) -> dict[str, str]:
        """Deregister an image and delete its snapshots; return ``{snapshot_id: reason}`` for those that are left.

        Raises:
            FleetError: The image could not be deregistered; nothing was deleted.
        """
        ec2 = self._aws.ec2()
        try:
            ec2.deregister_image(ImageId=image.image_id)
        except Exception as error:
            if not is_aws_error(error):
                raise
            # somebody else was quicker, or an earlier try got this far: the snapshots remain to be deleted
            if not error_code(error).startswith(("InvalidAMIID.NotFound", "InvalidAMIID.Unavailable")):
                raise FleetError(f"{image.image_id} could not be deregistered. {explain(error)}") from error
        left: dict[str, str] = {}
        for snapshot_id in image.snapshot_ids:
            try:
                ec2.delete_snapshot(SnapshotId=snapshot_id)
            except Exception as error:
                if not is_aws_error(error):
                    raise
                if not error_code(error).startswith("InvalidSnapshot.NotFound"):
                    left[snapshot_id] = explain(error)
        return left


def _snapshots(image: ImageTypeDef) -> tuple[str, ...]:
    mappings = image.get("BlockDeviceMappings", [])
    return tuple(one["Ebs"]["SnapshotId"] for one in mappings if one.get("Ebs", {}).get("SnapshotId"))


def _info(image: ImageTypeDef, stored: Mapping[str, int]) -> ImageInfo:
    tags = {tag["Key"]: tag["Value"] for tag in image.get("Tags", [])}
    snapshot_ids = _snapshots(image)
    is_exact = bool(snapshot_ids) and all(one in stored for one in snapshot_ids)
    volumes = sum(one.get("Ebs", {}).get("VolumeSize", 0) for one in image.get("BlockDeviceMappings", []))
    created = image.get("CreationDate", "")
    return ImageInfo(
        image_id=image["ImageId"],
        name=image.get("Name", ""),
        state=image.get("State", ""),
        python=tags.get(_TAG, ""),
        version=tags.get("wren:version", ""),
        runtime=tags.get("wren:runtime", ""),
        created_timestamp=datetime.fromisoformat(created).timestamp() if created else 0.0,
        n_bytes=sum(stored[one] for one in snapshot_ids) if is_exact else volumes * 1024**3,
        is_exact=is_exact,
        snapshot_ids=snapshot_ids,
    )
