"""Looks at what a launch depends on: fills ``provision.Probes``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from wren_worker.aws.errors import Fault, classify, error_code, explain, is_aws_error
from wren_worker.aws.network import Network
from wren_worker.aws.session import Aws
from wren_worker.errors import FleetError

__all__ = ["AwsProbes"]

T = TypeVar("T")

#: Running On-Demand Standard instances; All Standard Spot Instance Requests. Both count vCPUs.
#: Source: Service Quotas of EC2, read 2026-11.
_QUOTAS = {False: "L-1216C47A", True: "L-34B43A08"}
_SERVICE_ROLES = {"spot": "AWSServiceRoleForEC2Spot", "ec2fleet": "AWSServiceRoleForEC2Fleet"}


class AwsProbes:
    """Asks AWS; changes nothing.

    Args:
        aws: The identity to ask as.
        network: The fleet's.
    """

    def __init__(self, aws: Aws, network: Network) -> None:
        self._aws = aws
        self._network = network

    def identity(self) -> str:
        """Return whom AWS takes the caller for."""
        return _asked(lambda: self._aws.sts().get_caller_identity()["Arn"])

    def network(self) -> str:
        """Return in one line where instances would be put, by default."""
        places = self._network.places(())
        way = "with an address of their own" if any(place.public_ip for place in places) else "without public addresses"
        zones = ", ".join(sorted({place.zone for place in places}))
        return f"default VPC {places[0].vpc_id}, zones {zones}, {way}"

    def profile_roles(self, name: str) -> int:
        """Return how many roles an instance profile holds."""
        iam = self._aws.iam()
        return len(_asked(lambda: iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]))

    def service_role(self, service: str) -> bool:
        """Return whether a service has its role in the account."""

        def ask() -> bool:
            try:
                self._aws.iam().get_role(RoleName=_SERVICE_ROLES[service])
            except Exception as error:
                if is_aws_error(error) and error_code(error) == "NoSuchEntity":
                    return False
                raise
            return True

        return _asked(ask)

    def vcpu_quota(self, *, spot: bool) -> float:
        """Return how many vCPUs of standard types may run at once."""
        code = _QUOTAS[spot]
        quotas = self._aws.service_quotas()
        return float(_asked(lambda: quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"]))


def _asked(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except Exception as error:
        if not is_aws_error(error):
            raise
        raise FleetError(explain(error), denied=classify(error) is Fault.DENIED, code=error_code(error)) from error
