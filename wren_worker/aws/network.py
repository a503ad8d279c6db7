"""Where instances can be put so that they reach SQS, S3 and CloudWatch, and nobody reaches them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wren_worker.aws.errors import error_code, explain, is_aws_error
from wren_worker.aws.session import Aws
from wren_worker.errors import FleetError

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import SecurityGroupTypeDef, SubnetTypeDef

__all__ = ["Network", "Place"]

#: What an instance speaks to; the last parts of endpoint services' names.
_NEEDED = ("s3", "sqs")
_ALL_NEEDED = (*_NEEDED, "logs")
_DESCRIPTION = "wren_worker instances: nothing comes in"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A subnet for instances. ``public_ip``: they need an address of their own to get out."""

    subnet_id: str
    zone: str
    vpc_id: str
    public_ip: bool


class Network:
    """The VPC's side of launches.

    Args:
        aws: The identity to act as.
        group: The name of the fleet's security group.
        fleet: The fleet.
    """

    def __init__(self, aws: Aws, *, group: str, fleet: str) -> None:
        self._aws = aws
        self._group = group
        self._fleet = fleet

    def places(self, subnet_ids: Sequence[str]) -> list[Place]:
        """Return the subnets to launch into; none named: one of each zone of the default VPC.

        Raises:
            FleetError: There is no such subnet, no default VPC, or no way out of any of them.
        """
        try:
            subnets = self._named(subnet_ids) if subnet_ids else self._default()
            vpc_ids = sorted({subnet["VpcId"] for subnet in subnets})
            if len(vpc_ids) > 1:
                raise FleetError(
                    f"The subnets belong to several VPCs ({', '.join(vpc_ids)}), and a security group to one. "
                    "Name subnets of one VPC.",
                    started=(),
                )
            routes = self._routes(vpc_ids[0])
            endpoints = self._endpoints(vpc_ids[0])
        except Exception as error:
            raise _told("The network cannot be looked at.", error) from error
        return self._usable(subnets, routes, endpoints, named=bool(subnet_ids))

    def _usable(
        self, subnets: Sequence[SubnetTypeDef], routes: Mapping[str, str], endpoints: set[str], *, named: bool
    ) -> list[Place]:
        places: list[Place] = []
        stuck: list[str] = []
        for subnet in subnets:
            way = routes.get(subnet["SubnetId"], routes.get("", ""))
            if not way and not endpoints.issuperset(_NEEDED):
                stuck.append(subnet["SubnetId"])
                continue
            # a NAT or endpoints carry what leaves; an address of its own would only cost, and be seen
            public = way.startswith("igw-") and not endpoints.issuperset(_ALL_NEEDED)
            zone = subnet.get("AvailabilityZone", "")
            places.append(
                Place(subnet_id=subnet["SubnetId"], zone=zone, vpc_id=subnet.get("VpcId", ""), public_ip=public)
            )
        if not places or (stuck and named):
            raise FleetError(
                f"Nothing gets out of {', '.join(stuck)}: no route to the internet, no NAT, and no VPC endpoints for "
                "SQS and S3. Name another --subnet, or add an internet gateway, a NAT gateway or these endpoints.",
                started=(),
            )
        return places

    def _named(self, subnet_ids: Sequence[str]) -> list[SubnetTypeDef]:
        return self._aws.ec2().describe_subnets(SubnetIds=list(subnet_ids))["Subnets"]

    def default_vpc(self) -> str:
        """Return the default VPC's id, "" when there is none.

        Raises:
            FleetError: EC2 refused.
        """
        try:
            found = self._aws.ec2().describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        except Exception as error:
            raise _told("The default VPC cannot be looked for.", error) from error
        return found[0]["VpcId"] if found else ""

    def _default(self) -> list[SubnetTypeDef]:
        vpc_id = self.default_vpc()
        if not vpc_id:
            raise FleetError(
                f"There is no default VPC in {self._aws.region}. Name subnets with --subnet, or make one: "
                f"aws ec2 create-default-vpc --region {self._aws.region}",
                started=(),
            )
        filters: Any = [{"Name": "vpc-id", "Values": [vpc_id]}, {"Name": "default-for-az", "Values": ["true"]}]
        found = self._aws.ec2().describe_subnets(Filters=filters)["Subnets"]
        if not found:
            raise FleetError(
                f"The default VPC {vpc_id} has no default subnets. Name some with --subnet, or make one for each zone: "
                f"aws ec2 create-default-subnet --region {self._aws.region} --availability-zone …",
                started=(),
            )
        return sorted(found, key=lambda subnet: subnet.get("AvailabilityZone", ""))

    def _routes(self, vpc_id: str) -> dict[str, str]:
        """Return each subnet's way to the internet, "" for none; under "" that of subnets without a table of their own.

        Source: "Configure route tables", VPC user guide, read 2026-11: the main table serves subnets that name none.
        """
        ways: dict[str, str] = {}
        pages = self._aws.ec2().get_paginator("describe_route_tables")
        for page in pages.paginate(Filters=[{"Name": "vpc-id", "Values": [vpc_id]}]):
            for table in page["RouteTables"]:
                way = _way_out(table.get("Routes", []))
                for association in table.get("Associations", []):
                    ways["" if association.get("Main") else association.get("SubnetId", "-")] = way
        return ways

    def _endpoints(self, vpc_id: str) -> set[str]:
        filters: Any = [{"Name": "vpc-id", "Values": [vpc_id]}]
        try:
            pages = self._aws.ec2().get_paginator("describe_vpc_endpoints").paginate(Filters=filters)
            found = [one for page in pages for one in page["VpcEndpoints"]]
        except Exception as error:
            if not is_aws_error(error):
                raise
            return set()  # not allowed to look: then an address of its own is needed, which always works
        names = (one.get("ServiceName", "") for one in found if str(one.get("State", "")).lower() == "available")
        return {name.rpartition(".")[2] for name in names}

    def group(self, vpc_id: str) -> str:
        """Return the id of the fleet's security group in a VPC, making it when it is missing.

        Raises:
            FleetError: It is missing and may not be made.
        """
        try:
            found = self.find_group(vpc_id)
            return found["GroupId"] if found else self._make_group(vpc_id)
        except Exception as error:
            raise _told(
                f"There is no security group {self._group} in {vpc_id}, and it could not be made. Somebody who may can "
                "run `wren-standalone setup` (default VPC), or name one with --security-group; it needs no inbound "
                "rule.",
                error,
            ) from error

    def find_group(self, vpc_id: str) -> SecurityGroupTypeDef | None:
        """Return the fleet's security group in a VPC, None when it is missing."""
        filters: Any = [{"Name": "vpc-id", "Values": [vpc_id]}, {"Name": "group-name", "Values": [self._group]}]
        found = self._aws.ec2().describe_security_groups(Filters=filters)["SecurityGroups"]
        return found[0] if found else None

    def _make_group(self, vpc_id: str) -> str:
        tags: Any = [{"Key": "wren:fleet", "Value": self._fleet}, {"Key": "Name", "Value": self._group}]
        try:
            made = self._aws.ec2().create_security_group(
                GroupName=self._group,
                Description=_DESCRIPTION,
                VpcId=vpc_id,
                TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
            )
        except Exception as error:
            if is_aws_error(error) and error_code(error) == "InvalidGroup.Duplicate":
                found = self.find_group(vpc_id)
                if found:
                    return found["GroupId"]
            raise
        return made["GroupId"]  # it lets everything out and nothing in, as every new group does

    def groups(self) -> list[SecurityGroupTypeDef]:
        """Return the fleet's security groups of all VPCs."""
        filters: Any = [
            {"Name": "group-name", "Values": [self._group]},
            {"Name": "tag:wren:fleet", "Values": [self._fleet]},
        ]
        return self._aws.ec2().describe_security_groups(Filters=filters)["SecurityGroups"]

    def open_groups(self, group_ids: Sequence[str]) -> list[str]:
        """Return which of the security groups let something in.

        Raises:
            FleetError: One does not exist.
        """
        if not group_ids:
            return []
        try:
            found = self._aws.ec2().describe_security_groups(GroupIds=list(group_ids))["SecurityGroups"]
        except Exception as error:
            raise _told("The security groups cannot be looked at.", error) from error
        return [group["GroupId"] for group in found if group.get("IpPermissions")]


def _way_out(routes: Iterable[Any]) -> str:
    """Return the id of what a table's default route leads to, "" when it has none that works."""
    for route in routes:
        if route.get("DestinationCidrBlock") != "0.0.0.0/0" or route.get("State") == "blackhole":
            continue
        for kind in ("GatewayId", "NatGatewayId", "TransitGatewayId", "NetworkInterfaceId", "InstanceId"):
            if route.get(kind):
                return str(route[kind])
        return "other"
    return ""


def _told(what: str, error: BaseException) -> BaseException:
    if not is_aws_error(error):
        return error
    return FleetError(f"{what} {explain(error)}", started=(), code=error_code(error))
