"""EC2 as far as a fleet needs it: fills ``ports.Machines``."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wren_worker.aws.errors import error_code, explain, is_aws_error
from wren_worker.aws.session import Aws
from wren_worker.errors import FleetError
from wren_worker.protocol.ports import InstanceInfo, InstanceRequest, LaunchReport

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import CreateFleetResultTypeDef, InstanceTypeDef

__all__ = ["Ec2Machines"]

ALIVE = ("pending", "running", "stopping", "shutting-down")


class Ec2Machines:
    """A fleet's instances, launched from its launch template.

    Args:
        aws: The identity to act as.
        template: The launch template's name. Its first version holds what all launches share; each distinct pair of
            image and user-data becomes a version of its own, and a launch names its version.
    """

    def __init__(self, aws: Aws, template: str) -> None:
        self._aws = aws
        self._template = template

    def launch(self, request: InstanceRequest) -> LaunchReport:
        """Start instances by CreateFleet, type instant; a partial fill is a report, not an error.

        Raises:
            FleetError: Nothing was started; says why.
        """
        ec2 = self._aws.ec2()
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
        fleet: dict[str, Any] = {
            "ClientToken": request.client_token,
            "Type": "instant",
            "LaunchTemplateConfigs": [
                {
                    "LaunchTemplateSpecification": {
                        "LaunchTemplateName": self._template,
                        "Version": self._version(request),
                    },
                    "Overrides": overrides,
                }
            ],
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
        try:
            answer = ec2.create_fleet(**fleet)
        except Exception as error:
            if not is_aws_error(error):
                raise
            raise FleetError(f"No instance was started. {explain(error)}", started=()) from error
        return _report(answer, request)

    def _version(self, request: InstanceRequest) -> str:
        """Return the number of the launch template's version for this image and user-data, making it when needed."""
        content = base64.b64encode(request.user_data.encode()).decode()
        name = hashlib.sha256(f"{request.image_id}\0{content}".encode()).hexdigest()[:32]
        ec2 = self._aws.ec2()
        try:
            known = ec2.describe_launch_template_versions(LaunchTemplateName=self._template)["LaunchTemplateVersions"]
            for version in known:
                if version.get("VersionDescription") == name:
                    return str(version["VersionNumber"])
            made = ec2.create_launch_template_version(
                LaunchTemplateName=self._template,
                SourceVersion="1",
                VersionDescription=name,
                LaunchTemplateData={"ImageId": request.image_id, "UserData": content},
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
        if not instance_ids:
            return {}
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
                failed |= self.terminate([instance_id])
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
                Owners=["self"], Filters=[{"Name": "tag:wren:python", "Values": [python]}]
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
            text = self._aws.ec2().get_console_output(InstanceId=instance_id).get("Output", "")
            return base64.b64decode(text).decode(errors="replace")
        except Exception as error:
            if is_aws_error(error) or isinstance(error, ValueError):
                return ""
            raise


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
            f"No instance was started, of {request.count} asked for: {told}. Try other --type values or --on-demand.",
            started=(),
            shortfalls=shortfalls,
        )
    return LaunchReport(instance_ids=ids, shortfalls=shortfalls)


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
