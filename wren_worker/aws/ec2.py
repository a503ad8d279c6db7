"""EC2 as far as a fleet needs it: fills ``ports.Machines``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wren_worker.aws.createfleet import fleet_report, fleet_request, tag_list
from wren_worker.aws.errors import classify, error_code, explain, is_aws_error
from wren_worker.aws.network import Network, Place
from wren_worker.aws.retry import Backoff
from wren_worker.aws.session import Aws
from wren_worker.aws.shortfalls import MAY_PASS, mend
from wren_worker.aws.templates import Recipe, Templates
from wren_worker.clock import Clock, SystemClock
from wren_worker.errors import FleetError
from wren_worker.protocol.ports import FoundImage, InstanceInfo, InstanceRequest, LaunchReport, TypeInfo

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import CreateFleetResultTypeDef, ImageTypeDef, InstanceTypeDef

__all__ = ["Ec2Machines"]

#: How long EC2 may take to learn of an instance profile. Source: IAM User Guide, "changes are not always immediately
#: visible", read 2026-11; seconds are usual.
_PROFILE_TIMEOUT = 40.0
#: Source: EC2 TerminateInstances, read 2026-11.
_MAX_IDS = 1000
#: Source: EC2 DescribeInstanceTypes, read 2026-11.
_MAX_TYPES = 100
#: A spot price that has not changed for so long is no price.
_PRICE_AGE = timedelta(days=90)
ALIVE = ("pending", "running", "stopping", "shutting-down")


class Ec2Machines:
    """A fleet's instances, launched from its launch template.

    Args:
        aws: The identity to act as.
        template: The launch template's name, and that of the security group.
        fleet: The fleet, for the group's tag.
        clock: Waits until EC2 knows a new instance profile.
    """

    def __init__(self, aws: Aws, template: str, *, fleet: str = "", clock: Clock | None = None) -> None:
        self._aws = aws
        self._template = template
        self._clock = clock or SystemClock()
        self._templates = Templates(aws, template)
        self._network = Network(aws, group=template, fleet=fleet)

    def launch(self, request: InstanceRequest) -> LaunchReport:
        """Start instances by CreateFleet, type instant; a partial fill is a report, not an error.

        Raises:
            FleetError: Nothing was started; says why. ``retryable``: asking again later may help.
        """
        fleet = fleet_request(request, template=self._template, choices=self._choices(request))
        tries = Backoff(self._clock, timeout=_PROFILE_TIMEOUT, base_time=4.0, cap_time=8.0)
        for n_try in itertools.count(1):
            # a request that started nothing is settled under its token, so the next try needs one of its own
            fleet["ClientToken"] = request.client_token if n_try == 1 else f"{request.client_token}-{n_try}"
            try:
                return fleet_report(self._create_fleet(fleet), request)
            except FleetError as failure:
                # IAM is eventually consistent: EC2 does not know a new instance profile for some seconds; nor
                # everywhere a template's new version
                text = str(failure).lower()
                if not ("iam instance profile" in text or "versionnotfound" in text) or not tries.wait():
                    raise
        raise AssertionError  # the loop has no end

    def _create_fleet(self, fleet: Mapping[str, Any]) -> CreateFleetResultTypeDef:
        try:
            return self._aws.ec2().create_fleet(**fleet)
        except Exception as error:
            if not is_aws_error(error):
                raise
            raise FleetError(
                f"No instance was started. {explain(error)}",
                started=(),
                code=error_code(error),
                retryable=classify(error).retryable or error_code(error) in MAY_PASS,
            ) from error

    def _choices(self, request: InstanceRequest) -> list[tuple[str, list[Place]]]:
        """Return the template versions to launch from, each with its subnets."""
        places = self._network.places(request.subnet_ids)
        groups = request.security_group_ids or (self._network.group(places[0].vpc_id),)
        kinds = sorted({place.public_ip for place in places})
        recipes = [
            Recipe(image_id=request.image_id, user_data=request.user_data, group_ids=groups, public_ip=public)
            for public in kinds
        ]
        versions = self._templates.versions(recipes, request.fleet)
        return [
            (version, [place for place in places if place.public_ip is public])
            for version, public in zip(versions, kinds, strict=True)
        ]

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
            self._aws.ec2().create_tags(Resources=list(instance_ids), Tags=tag_list(tags))
        except Exception as error:
            if not is_aws_error(error):
                raise
            raise FleetError(f"The instances could not be tagged. {explain(error)}") from error

    def find_image(self, python: str) -> FoundImage | None:
        """Return the newest own image for a Python minor, by its ``wren:python`` tag.

        Raises:
            FleetError: EC2 refused.
        """
        filters = {"tag:wren:python": python, "state": "available"}
        return self._newest_image(owner="self", filters=filters)

    def named_image(self, image_id: str) -> FoundImage | None:
        """Return an image by its id, None when there is no such one for this account.

        Raises:
            FleetError: EC2 refused.
        """
        return self._newest_image(image_id=image_id)

    def find_stock_image(self, owner: str, name_pattern: str) -> str | None:
        """Return the newest x86_64 image of an owner whose name fits a pattern.

        Raises:
            FleetError: EC2 refused.
        """
        filters = {"name": name_pattern, "architecture": "x86_64", "root-device-type": "ebs", "state": "available"}
        found = self._newest_image(owner=owner, filters=filters)
        return found.image_id if found else None

    def _newest_image(
        self, *, owner: str = "", image_id: str = "", filters: Mapping[str, str] = MappingProxyType({})
    ) -> FoundImage | None:
        asked: dict[str, Any] = {"Owners": [owner]} if owner else {"ImageIds": [image_id]}
        if filters:
            asked["Filters"] = [{"Name": name, "Values": [value]} for name, value in filters.items()]
        try:
            images = self._aws.ec2().describe_images(**asked)["Images"]
        except Exception as error:
            if not is_aws_error(error):
                raise
            if error_code(error).startswith("InvalidAMIID"):
                return None
            raise FleetError(f"Images cannot be listed. {explain(error)}") from error

        def made(image: ImageTypeDef) -> str:
            return image.get("CreationDate", "")

        newest = max(images, key=made, default=None)
        if newest is None:
            return None
        tags = {tag.get("Key", ""): tag.get("Value", "") for tag in newest.get("Tags", ())}
        return FoundImage(image_id=newest["ImageId"], wheel=tags.get("wren:wheel", ""))

    def describe_types(self, instance_types: Sequence[str]) -> list[TypeInfo]:
        """Return what EC2 says of instance types, in the same order.

        Raises:
            FleetError: One does not exist in the region, or EC2 refused.
        """
        found: dict[str, TypeInfo] = {}
        for start in range(0, len(instance_types), _MAX_TYPES):
            names: Any = list(instance_types[start : start + _MAX_TYPES])
            try:
                answer = self._aws.ec2().describe_instance_types(InstanceTypes=names)["InstanceTypes"]
            except Exception as error:
                if not is_aws_error(error):
                    raise
                told = mend([(error_code(error), "")])
                raise FleetError(f"{explain(error)} {told}".strip(), started=(), retryable=False) from error
            found |= {kind.get("InstanceType", ""): _type_info(kind) for kind in answer}
        return [found[name] for name in instance_types if name in found]

    def spot_prices(self, instance_types: Sequence[str]) -> Mapping[str, tuple[float, float]]:
        """Return today's spot prices, ``(lowest, highest)`` of all zones; {} when EC2 does not tell."""
        names: Any = list(instance_types)
        try:
            history = self._aws.ec2().describe_spot_price_history(
                InstanceTypes=names, ProductDescriptions=["Linux/UNIX"], StartTime=datetime.now(UTC)
            )["SpotPriceHistory"]
        except Exception as error:
            if is_aws_error(error):
                return {}
            raise
        found: dict[str, list[float]] = {}
        for entry in history:
            # asked for from now on, EC2 gives the price that holds; an emulator may give one of long ago
            if entry["Timestamp"] > datetime.now(UTC) - _PRICE_AGE:
                found.setdefault(entry["InstanceType"], []).append(float(entry["SpotPrice"]))
        return {name: (min(prices), max(prices)) for name, prices in found.items()}

    def console_output(self, instance_id: str) -> str:
        """Return the instance's console text, "" when there is none yet."""
        try:
            return self._aws.ec2().get_console_output(InstanceId=instance_id).get("Output", "")  # botocore decodes it
        except Exception as error:
            if is_aws_error(error):
                return ""
            raise


def _type_info(kind: Any) -> TypeInfo:
    processor = kind.get("ProcessorInfo", {})
    return TypeInfo(
        name=kind.get("InstanceType", ""),
        n_vcpus=int(kind.get("VCpuInfo", {}).get("DefaultVCpus", 1)),
        memory_bytes=int(kind.get("MemoryInfo", {}).get("SizeInMiB", 0)) << 20,
        architectures=tuple(processor.get("SupportedArchitectures", ())),
        manufacturer=str(processor.get("Manufacturer", "")),
    )


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
