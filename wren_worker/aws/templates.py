"""Versions of a fleet's launch template: one for each image, user-data and network that launches differ in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wren_worker.aws.errors import classify, error_code, explain, is_aws_error
from wren_worker.aws.session import Aws
from wren_worker.errors import FleetError

__all__ = ["Recipe", "Templates"]

_DISK_GIB = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a template's version says beyond its default version."""

    image_id: str
    user_data: str
    group_ids: tuple[str, ...]
    public_ip: bool

    @property
    def digest(self) -> str:
        """Return what tells recipes apart; stands in the version's description."""
        network = f"{','.join(sorted(self.group_ids))} {self.public_ip}"
        return hashlib.sha256(f"{self.image_id}\0{self.user_data}\0{network}".encode()).hexdigest()[:32]


class Templates:
    """Finds and makes versions of one launch template.

    Args:
        aws: The identity to act as.
        name: The launch template's. Its default version holds what all launches share; ``setup`` keeps it up to date.
    """

    def __init__(self, aws: Aws, name: str) -> None:
        self._aws = aws
        self._name = name

    def versions(self, recipes: Sequence[Recipe], fleet: str) -> list[str]:
        """Return the numbers of the versions for recipes, making those that are missing.

        Raises:
            FleetError: There is no such template, or AWS refused.
        """
        try:
            base, known = self._known()
            return [known.get(f"{one.digest} of {base}") or self._make(one, base) for one in recipes]
        except Exception as error:
            if not is_aws_error(error):
                raise
            if error_code(error).startswith("InvalidLaunchTemplateName"):
                raise FleetError(
                    f"The fleet '{fleet}' has no launch template {self._name}. Run: wren-standalone setup",
                    started=(),
                    retryable=False,
                ) from error
            text = f"The launch could not be prepared. {explain(error)}"
            raise FleetError(text, started=(), retryable=classify(error).retryable) from error

    def _known(self) -> tuple[str, dict[str, str]]:
        """Return the number of the default version, and the others by description."""
        base = "1"
        known: dict[str, str] = {}
        paginator = self._aws.ec2().get_paginator("describe_launch_template_versions")
        for page in paginator.paginate(LaunchTemplateName=self._name):
            for version in page["LaunchTemplateVersions"]:
                number = str(version["VersionNumber"])
                known[version.get("VersionDescription", "")] = number
                if version.get("DefaultVersion"):
                    base = number
        return base, known

    def _make(self, recipe: Recipe, base: str) -> str:
        description = f"{recipe.digest} of {base}"
        interface = {
            "DeviceIndex": 0,
            "AssociatePublicIpAddress": recipe.public_ip,
            "Groups": list(recipe.group_ids),
            "DeleteOnTermination": True,
        }
        data: Any = {
            "ImageId": recipe.image_id,
            "UserData": base64.b64encode(recipe.user_data.encode()).decode(),
            "NetworkInterfaces": [interface],
            **self._disk(recipe.image_id),
        }
        made = self._aws.ec2().create_launch_template_version(
            ClientToken=hashlib.sha256(f"{self._name}\0{description}".encode()).hexdigest()[:32],
            LaunchTemplateName=self._name,
            SourceVersion=base,
            VersionDescription=description,
            LaunchTemplateData=data,
        )
        return str(made["LaunchTemplateVersion"]["VersionNumber"])

    def _disk(self, image_id: str) -> dict[str, Any]:
        """Return the root disk, under the name that the image gives it: under another it would be a second disk."""
        images = self._aws.ec2().describe_images(ImageIds=[image_id])["Images"]
        name = images[0].get("RootDeviceName") if images else None
        if not name:
            return {}
        sizes = [
            mapping.get("Ebs", {}).get("VolumeSize", 0)
            for mapping in images[0].get("BlockDeviceMappings", [])
            if mapping.get("DeviceName") == name
        ]
        disk = {
            "VolumeType": "gp3",
            "Encrypted": True,
            "DeleteOnTermination": True,
            "VolumeSize": max([_DISK_GIB, *sizes]),
        }
        return {"BlockDeviceMappings": [{"DeviceName": name, "Ebs": disk}]}
