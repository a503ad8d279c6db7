"""CreateFleet: the request for a launch, and what its answer means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wren_worker.aws.network import Place
from wren_worker.aws.shortfalls import MAY_PASS, mend
from wren_worker.errors import FleetError
from wren_worker.protocol.ports import InstanceRequest, LaunchReport

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import CreateFleetResultTypeDef

__all__ = ["fleet_report", "fleet_request", "tag_list"]


def fleet_request(
    request: InstanceRequest, *, template: str, choices: Sequence[tuple[str, Sequence[Place]]]
) -> dict[str, Any]:
    """Return the request for an instant fleet over all types and subnets.

    Args:
        request: What to launch.
        template: The launch template's name.
        choices: Its versions to launch from, each with the subnets that it is for.
    """
    tags = tag_list({**request.tags,
        "Name": f"wren-{request.fleet}",
        "wren:fleet": request.fleet,
        "wren:launch": request.launch_id,
        "wren:python": request.python,
        "wren:version": request.version,
    })  # fmt: skip
    price = {"MaxPrice": request.max_price} if request.spot and request.max_price else {}
    configs = [
        {
            "LaunchTemplateSpecification": {"LaunchTemplateName": template, "Version": version},
            "Overrides": [
                {"InstanceType": kind, "SubnetId": place.subnet_id, **price}
                for kind in request.instance_types
                for place in places
            ],
        }
        for version, places in choices
    ]
    fleet: dict[str, Any] = {
        "Type": "instant",
        "LaunchTemplateConfigs": configs,
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
    else:
        fleet["OnDemandOptions"] = {"AllocationStrategy": "lowest-price"}
    return fleet


def tag_list(tags: Mapping[str, str]) -> list[Any]:
    """Return tags as EC2 takes them."""
    return [{"Key": name, "Value": value} for name, value in tags.items()]


def fleet_report(answer: CreateFleetResultTypeDef, request: InstanceRequest) -> LaunchReport:
    """Return what was started, and why not the rest.

    Raises:
        FleetError: Nothing was; ``retryable`` when asking again later may help.
    """
    ids = tuple(one for group in answer.get("Instances", []) for one in group.get("InstanceIds", []))
    # a pool that had none is nobody's concern when another had enough
    shortfalls = _shortfalls(answer.get("Errors", [])) if len(ids) < request.count else ()
    if not ids:
        told = "; ".join(f"{text} ({code})" for code, text in shortfalls) or "EC2 gave no reason"
        raise FleetError(
            f"No instance was started, of {request.count} asked for: {told}. {mend(shortfalls)}".rstrip(),
            started=(),
            shortfalls=shortfalls,
            retryable=any(code in MAY_PASS for code, _ in shortfalls),
        )
    return LaunchReport(instance_ids=ids, shortfalls=shortfalls, mend=mend(shortfalls))


def _shortfalls(errors: Iterable[Any]) -> tuple[tuple[str, str], ...]:
    """Return ``(code, sentence)`` of each reason, with the pools that gave it; EC2 repeats a reason for each pool."""
    pools: dict[tuple[str, str], dict[str, None]] = {}
    for error in errors:
        override = error.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
        place = " ".join(filter(None, (str(override.get("InstanceType", "")), str(override.get("SubnetId", "")))))
        reason = str(error.get("ErrorCode", "")), str(error.get("ErrorMessage", "")).rstrip(". ")
        pools.setdefault(reason, {})[place] = None
    found = []
    for (code, text), places in pools.items():
        named = [place for place in places if place]
        where = ", ".join(named[:2]) + (f" and {len(named) - 2} more" if len(named) > 2 else "")
        found.append((code, f"{where}: {text}" if where else text))
    return tuple(found)
