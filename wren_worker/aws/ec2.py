"""EC2 as far as a fleet needs it: fills ``ports.Machines``."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wren_worker.aws.errors import error_code, explain, is_aws_error
from wren_worker.aws.retry import Backoff
from wren_worker.aws.session import Aws
from wren_worker.clock import Clock, SystemClock
from wren_worker.errors import FleetError
from wren_worker.protocol.ports import InstanceInfo, InstanceRequest, LaunchReport

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import CreateFleetResultTypeDef, InstanceTypeDef

__all__ = ["Ec2Machines"]

#: How long EC2 may take to learn of an instance profile. Source: IAM User Guide, "changes are not always immediately
#: visible", read 2026-11; seconds are usual.
_PROFILE_TIMEOUT = 40.0
_DISK_GIB = 30
#: Source: EC2 TerminateInstances, read 2026-11.
_MAX_IDS = 1000
ALIVE = ("pending", "running", "stopping", "shutting-down")


class Ec2Machines:
    """A fleet's instances, launched from its launch template.

    Args:
        aws: The identity to act as.
        template: The launch template's name. Its default version holds what all launches share; each distinct pair of
            image and user-data becomes a version of its own, and a launch names its version.
        clock: Waits until EC2 knows a new instance profile.
    """

    def __init__(self, aws: Aws, template: str, *, clock: Clock | None = None) -> None:
        self._aws = aws
        self._template = template
        self._clock = clock or SystemClock()

    def launch(self, request: InstanceRequest) -> LaunchReport:
        """Start instances by CreateFleet, type instant; a partial fill is a report, not an error.

        Raises:
            FleetError: Nothing was started; says why.
        """
        fleet = _fleet_request(request, template=self._template, version=self._version(request))
        tries = Backoff(self._clock, timeout=_PROFILE_TIMEOUT, base_time=4.0, cap_time=8.0)
        for n_try in itertools.count(1):
            # a request that started nothing is settled under its token, so the next try needs one of its own
            fleet["ClientToken"] = request.client_token if n_try == 1 else f"{request.client_token}-{n_try}"
            try:
                return _report(self._create_fleet(fleet), request)
            except FleetError as failure:
                # IAM is eventually consistent: EC2 does not know a new instance profile for some seconds
                if "iam instance profile" not in str(failure).lower() or not tries.wait():
                    raise
        raise AssertionError  # the loop has no end

    def _create_fleet(self, fleet: Mapping[str, Any]) -> CreateFleetResultTypeDef:
        try:
            return self._aws.ec2().create_fleet(**fleet)
        except Exception as error:
            if not is_aws_error(error):
                raise
            raise FleetError(f"No instance was started. {explain(error)}", started=()) from error

    def _version(self, request: InstanceRequest) -> str:
        """Return the number of the launch template's version for this image and user-data, making it when needed."""
        content = base64.b64encode(request.user_data.encode()).decode()
        digest = hashlib.sha256(f"{request.image_id}\0{content}".encode()).hexdigest()[:32]
        ec2 = self._aws.ec2()
        try:
            base, known = self._known_versions()
            name = f"{digest} of {base}"
            if name in known:
                return known[name]
            data: Any = {"ImageId": request.image_id, "UserData": content, **self._disk(request.image_id)}
            made = ec2.create_launch_template_version(
                ClientToken=hashlib.sha256(f"{self._template}\0{name}".encode()).hexdigest()[:32],
                LaunchTemplateName=self._template,
                SourceVersion=base,
                VersionDescription=name,
                LaunchTemplateData=data,
            )
        except Exception as error:
            if not is_aws_error(error):
                raise
            if error_code(error).startswith("InvalidLaunchTemplateName"):
                raise FleetError(
                    f"The fleet '{request.fleet}' has no launch template {self._template}. Run: wren-standalone setup",
                    started=(),
                ) from error
            raise FleetError(f"The launch could not be prepared. {explain(error)}", started=()) from error
        return str(made["LaunchTemplateVersion"]["VersionNumber"])

    def _known_versions(self) -> tuple[str, dict[str, str]]:
        """Return the number of the default version, which setup keeps up to date, and the others by description."""
        base = "1"
        known: dict[str, str] = {}
        paginator = self._aws.ec2().get_paginator("describe_launch_template_versions")
        for page in paginator.paginate(LaunchTemplateName=self._template):
            for version in page["LaunchTemplateVersions"]:
                number = str(version["VersionNumber"])
                known[version.get("VersionDescription", "")] = number
                if version.get("DefaultVersion"):
                    base = number
        return base, known

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

    def instances(self, fleet: str, *, alive_only: bool = True) -> list[InstanceInfo]:
        """Return the fleet's instances, oldest first.

        Raises:
            FleetError: EC2 refused.
        """
        filters: list[dict[str, Any]] = [{"Name": "tag:wren:fleet", "Values": [fleet]}]
        if alive_only:
            filters.append({"Name": "instance-state-name", "Values": list(ALIVE)})
        try:
            pages = self._aws.ec2().get_paginator("describe_instances").paginate(Filters=filters)  # type: ignore[arg-type]
            found = [
                _info(instance)
                for page in pages
                for reservation in page["Reservations"]
                for instance in reservation.get("Instances", [])
            ]
        except Exception as error:
            if not is_aws_error(error):
                raise
            raise FleetError(f"The fleet's instances cannot be listed. {explain(error)}") from error
        return sorted(found, key=lambda info: (info.launch_timestamp, info.instance_id))

    def terminate(self, instance_ids: Sequence[str]) -> dict[str, str]:
        """End instances; return ``{instance_id: reason}`` for those that could not be ended."""
        failed: dict[str, str] = {}
        for start in range(0, len(instance_ids), _MAX_IDS):
            failed |= self._terminate(instance_ids[start : start + _MAX_IDS])
        return failed

    def _terminate(self, instance_ids: Sequence[str]) -> dict[str, str]:
        try:
            self._aws.ec2().terminate_instances(InstanceIds=list(instance_ids))
        except Exception as error:
            if not is_aws_error(error):
                raise
            if len(instance_ids) == 1:
                return {instance_ids[0]: explain(error)}
            # one bad id fails the whole call, so each on its own
            failed: dict[str, str] = {}
            for instance_id in instance_ids:
                failed |= self._terminate([instance_id])
            return failed
        return {}

    def set_tags(self, instance_ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """Tag running instances.

        Raises:
            FleetError: EC2 refused.
        """
        try:
            self._aws.ec2().create_tags(Resources=list(instance_ids), Tags=_tag_list(tags))
        except Exception as error:
            if not is_aws_error(error):
                raise
            raise FleetError(f"The instances could not be tagged. {explain(error)}") from error

    def find_image(self, python: str) -> str | None:
        """Return the newest own image for a Python minor, by its ``wren:python`` tag.

        Raises:
            FleetError: EC2 refused.
        """
        try:
            images = self._aws.ec2().describe_images(
                Owners=["self"],
                Filters=[
                    {"Name": "tag:wren:python", "Values": [python]},
                    {"Name": "state", "Values": ["available"]},
                ],
            )["Images"]
        except Exception as error:
            if not is_aws_error(error):
                raise
            raise FleetError(f"Images cannot be listed. {explain(error)}") from error
        newest = max(images, key=lambda image: image.get("CreationDate", ""), default=None)
        return newest["ImageId"] if newest else None

    def console_output(self, instance_id: str) -> str:
        """Return the instance's console text, "" when there is none yet."""
        try:
            return self._aws.ec2().get_console_output(InstanceId=instance_id).get("Output", "")  # botocore decodes it
        except Exception as error:
            if is_aws_error(error):
                return ""
            raise


def _fleet_request(request: InstanceRequest, *, template: str, version: str) -> dict[str, Any]:
    tags = _tag_list({**request.tags,
        "Name": f"wren-{request.fleet}",
        "wren:fleet": request.fleet,
        "wren:launch": request.launch_id,
        "wren:python": request.python,
        "wren:version": request.version,
    })  # fmt: skip
    overrides = [
        {"InstanceType": kind, **({"SubnetId": subnet} if subnet else {})}
        | ({"MaxPrice": request.max_price} if request.spot and request.max_price else {})
        for kind in request.instance_types
        for subnet in (request.subnet_ids or ("",))
    ]
    specification = {"LaunchTemplateName": template, "Version": version}
    fleet: dict[str, Any] = {
        "Type": "instant",
        "LaunchTemplateConfigs": [{"LaunchTemplateSpecification": specification, "Overrides": overrides}],
        "TargetCapacitySpecification": {
            "TotalTargetCapacity": request.count,
            "DefaultTargetCapacityType": "spot" if request.spot else "on-demand",
        },
        # with the launch itself, never after: an instance without tags is one that nobody finds again
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": tags},
            {"ResourceType": "volume", "Tags": tags},
        ],
    }
    if request.spot:
        fleet["SpotOptions"] = {"AllocationStrategy": "price-capacity-optimized"}
    return fleet


def _tag_list(tags: Mapping[str, str]) -> list[Any]:
    return [{"Key": name, "Value": value} for name, value in tags.items()]


def _report(answer: CreateFleetResultTypeDef, request: InstanceRequest) -> LaunchReport:
    ids = tuple(one for group in answer.get("Instances", []) for one in group.get("InstanceIds", []))
    reasons: dict[tuple[str, str], None] = {}
    for error in answer.get("Errors", []):
        override = error.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
        place = " ".join(filter(None, (str(override.get("InstanceType", "")), str(override.get("SubnetId", "")))))
        text = f"{place}: {error.get('ErrorMessage', '')}" if place else str(error.get("ErrorMessage", ""))
        reasons[str(error.get("ErrorCode", "")), text] = None
    shortfalls = tuple(reasons)
    if not ids:
        told = "; ".join(f"{text} ({code})" for code, text in shortfalls) or "EC2 gave no reason"
        raise FleetError(
            f"No instance was started, of {request.count} asked for: {told}.{_advice(shortfalls)}",
            started=(),
            shortfalls=shortfalls,
        )
    return LaunchReport(instance_ids=ids, shortfalls=shortfalls)


def _advice(shortfalls: Iterable[tuple[str, str]]) -> str:
    if any("Capacity" in code for code, _ in shortfalls):
        return " Try other --type values, or other --subnet values in other zones."
    return ""


def _info(instance: InstanceTypeDef) -> InstanceInfo:
    reason: Any = instance.get("StateReason", {})
    tags: Iterable[Any] = instance.get("Tags", [])
    return InstanceInfo(
        instance_id=instance["InstanceId"],
        instance_type=instance.get("InstanceType", ""),
        state=instance["State"].get("Name", ""),
        launch_timestamp=instance["LaunchTime"].timestamp(),
        spot=instance.get("InstanceLifecycle") == "spot",
        zone=instance.get("Placement", {}).get("AvailabilityZone", ""),
        state_reason_code=reason.get("Code", ""),
        state_reason=reason.get("Message", ""),
        tags={tag["Key"]: tag["Value"] for tag in tags},
    )
