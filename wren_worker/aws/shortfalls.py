"""Why EC2 did not start what was asked for: its codes as sentences with a mend."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["MAY_PASS", "mend", "roles_mend"]

#: Asking again in some minutes may help, without anybody's doing.
MAY_PASS = frozenset(
    {
        "InsufficientCapacity",
        "InsufficientHostCapacity",
        "InsufficientInstanceCapacity",
        "InternalError",
        "InstanceLimitExceeded",
        "MaxSpotInstanceCountExceeded",
        "RequestLimitExceeded",
        "RequestResourceCountExceeded",
        "ServiceUnavailable",
        "SpotMaxPriceTooLow",
        "Unavailable",
        "UnfulfillableCapacity",
        "VcpuLimitExceeded",
    }
)
_QUOTA = (
    "Wait until others end, launch fewer or smaller ones, or ask for more: aws service-quotas "
    "request-service-quota-increase --service-code ec2 --quota-code {code} --desired-value …"
)
_CAPACITY = "Try again in some minutes, other --type values, or more zones (leave --subnet away)."
#: Source: EC2 API reference, "Error codes", read 2026-11.
_MENDS = {
    "InsufficientCapacity": f"AWS has none left of it just now. {_CAPACITY}",
    "InsufficientHostCapacity": f"AWS has none left of it just now. {_CAPACITY}",
    "InsufficientInstanceCapacity": f"AWS has none left of it in that zone just now. {_CAPACITY}",
    "UnfulfillableCapacity": f"AWS has no spot capacity left for it just now. {_CAPACITY} Or --on-demand.",
    "MaxSpotInstanceCountExceeded": "The account's vCPU quota for spot is used up. "
    + _QUOTA.format(code="L-34B43A08")
    + " Or --on-demand, which has a quota of its own.",
    "VcpuLimitExceeded": "The account's vCPU quota is used up. " + _QUOTA.format(code="L-1216C47A"),
    "InstanceLimitExceeded": "The account's quota of instances is used up. " + _QUOTA.format(code="L-1216C47A"),
    "SpotMaxPriceTooLow": "The spot price is above --max-price. Raise it, or leave it away.",
    "InsufficientFreeAddressesInSubnet": "The subnet has no address left. Name another --subnet, or several.",
    "Unsupported": "The type is not offered in that zone. Name other --type values, or leave --subnet away.",
    "InvalidSubnetID.NotFound": "Is the --subnet of this region and account?",
    "InvalidSubnetId.NotFound": "Is the --subnet of this region and account?",
    "InvalidGroup.NotFound": "Is the --security-group of the subnet's VPC?",
    "InvalidSecurityGroupID.NotFound": "Is the --security-group of the subnet's VPC?",
    "InvalidAMIID.NotFound": "The image is not in this region, or not shared with this account.",
    "InvalidAMIID.Unavailable": "The image is not ready yet, or was deregistered.",
    "VolumeLimitExceeded": "The account's quota of disk space is used up; end what is not needed, or ask for more.",
    "MaxIOPSLimitExceeded": "The account's quota of disk operations is used up; ask for more.",
    "PendingVerification": "AWS is still verifying the account, which is new to this region: minutes, 4 hours at most.",
    "OptInRequired": "Finish signing up for EC2, or subscribe to the image in the AWS Marketplace.",
    "Blocked": "AWS has blocked the account; its support says why.",
    "RequestLimitExceeded": "Too many requests of this account at once. Try again in a minute.",
    "RequestResourceCountExceeded": "Too many at once. Launch them in several parts.",
    "InvalidInstanceType": "Is the type spelt right, and offered in this region?",
}


def roles_mend(text: str) -> str:
    """Return what to type when a service-linked role is missing and may not be made."""
    services = ["spot"] if "spot" in text.lower() else ["spot", "ec2fleet"]
    commands = " ; ".join(
        f"aws iam create-service-linked-role --aws-service-name {name}.amazonaws.com" for name in services
    )
    return f"Once per account somebody who may create roles has to run: {commands}"


def mend(shortfalls: Iterable[tuple[str, str]]) -> str:
    """Return the sentences that help against shortfalls ``(code, text)``, each once; "" when none is known."""
    found: dict[str, None] = {}
    for code, text in shortfalls:
        if "ServiceLinkedRole" in code or "service-linked role" in text.lower():
            found[roles_mend(text)] = None
        elif code in _MENDS:
            found[_MENDS[code]] = None
        elif code in ("UnauthorizedOperation", "AccessDenied"):
            found["`wren-standalone setup --print-policies` prints what a launch needs."] = None
    return " ".join(found)
