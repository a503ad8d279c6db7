"""CreateFleet of type instant as EC2 does it: spread over its pools, with the reasons for what it could not start."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses.fleets import Fleets
from moto.ec2.utils import random_fleet_id

from wren_worker.sandbox.launches import (
    Capacity,
    Params,
    Tokens,
    check,
    merge,
    no_capacity,
    start,
    template_of,
    template_tags,
)

__all__ = ["mend_fleets"]


def _pools(response: Any, configs: list[Params]) -> Iterator[tuple[Any, Params, Params]]:
    """Yield each choice that a fleet has: template version, its data with the override, the override itself."""
    for config in configs:
        found, data = template_of(response, config["LaunchTemplateSpecification"])
        for override in config.get("Overrides") or [{}]:
            over = {k: v for k, v in override.items() if k in ("InstanceType", "SubnetId", "ImageId", "MaxPrice")}
            zone = override.get("AvailabilityZone")
            placement = {"Placement": {"AvailabilityZone": zone}} if zone else {}
            yield found, merge(data, over | placement), override


def mend_fleets(capacity: Capacity, tokens: Tokens, run: Any) -> None:
    """Put CreateFleet in place, once per process; ``run`` is moto's own RunInstances."""
    original = Fleets.create_fleet

    def create_fleet(self: Any) -> ActionResult:
        asked = copy.deepcopy(dict(self.params))
        if asked.get("Type") != "instant":
            return original(self)
        token = asked.get("ClientToken") or ""
        with tokens.lock:
            known = tokens.recall("CreateFleet", token, asked) if token else None
            if known is None:
                known = _Allotment(self, asked, capacity, run).fill()
                if token:
                    tokens.keep("CreateFleet", token, asked, known)
            return ActionResult(known)

    Fleets.create_fleet = create_fleet  # type: ignore[method-assign]


class _Allotment:
    """One instant fleet: spreads the target over its pools and notes why some gave nothing."""

    def __init__(self, response: Any, asked: Params, capacity: Capacity, run: Any) -> None:
        self._response = response
        self._capacity = capacity
        self._run = run
        target = asked["TargetCapacitySpecification"]
        self._target = int(target["TotalTargetCapacity"])
        self._spot = target.get("DefaultTargetCapacityType") == "spot" or int(target.get("SpotTargetCapacity") or 0) > 0
        self._instance_tags = [
            spec for spec in asked.get("TagSpecifications", []) if spec["ResourceType"] in ("instance", "volume")
        ]
        self._pools = list(_pools(response, asked["LaunchTemplateConfigs"]))
        self._fleet_id = random_fleet_id()
        self._errors: list[Params] = []
        options = asked.get("SpotOptions" if self._spot else "OnDemandOptions") or {}
        self._minimum = int(options.get("MinTargetCapacity") or 0)

    def fill(self) -> Params:
        """Start what can be started, one of each pool in turn: what a fleet that is spread over pools looks like."""
        pools = [pool for pool in self._pools if self._is_possible(pool)]
        shares, live, missing = [0] * len(pools), list(range(len(pools))), self._target
        while missing and live:
            for index in list(live)[:missing]:
                if self._capacity.take(self._type(pools[index]), 1):
                    shares[index] += 1
                    missing -= 1
                else:
                    live.remove(index)
                    message = no_capacity(self._type(pools[index]))
                    self._errors.append(self._error(pools[index], "InsufficientInstanceCapacity", message))
        if self._target - missing < self._minimum:
            shares = [0] * len(pools)
        started = [self._begin(pool, share) for pool, share in zip(pools, shares, strict=True) if share]
        return {"FleetId": self._fleet_id, "Errors": self._errors, "Instances": started}

    @staticmethod
    def _type(pool: tuple[Any, Params, Params]) -> str:
        return str(pool[1].get("InstanceType") or "m1.small")

    def _is_possible(self, pool: tuple[Any, Params, Params]) -> bool:
        try:
            check(self._response, pool[1])
            if pool[1].get("SubnetId"):
                self._response.ec2_backend.get_subnet(pool[1]["SubnetId"])
        except EC2ClientError as error:
            self._errors.append(self._error(pool, error.code, error.message))
            return False
        return True

    def _choice(self, pool: tuple[Any, Params, Params]) -> Params:
        found, _, override = pool
        spec = {"LaunchTemplateId": found.template.id, "Version": str(found.number)}
        return {"LaunchTemplateSpecification": spec, "Overrides": override}

    def _error(self, pool: tuple[Any, Params, Params], code: str, message: str) -> Params:
        return {
            "LaunchTemplateAndOverrides": self._choice(pool),
            "Lifecycle": "spot" if self._spot else "on-demand",
            "ErrorCode": code,
            "ErrorMessage": message,
        }

    def _begin(self, pool: tuple[Any, Params, Params], count: int) -> Params:
        found, data, _ = pool
        params = merge(copy.deepcopy(data), {"TagSpecifications": self._instance_tags})
        params |= {"MinCount": count, "MaxCount": count}
        if self._spot:
            params["InstanceMarketOptions"] = {
                "MarketType": "spot",
                "SpotOptions": {"MaxPrice": params.get("MaxPrice")},
            }
        reservation = start(self._run, self._response, params, spot=self._spot)
        for instance in reservation.instances:
            instance.add_tags(template_tags(found) | {"aws:ec2:fleet-id": self._fleet_id})
        return {
            "LaunchTemplateAndOverrides": self._choice(pool),
            "Lifecycle": "spot" if self._spot else "on-demand",
            "InstanceIds": [instance.id for instance in reservation.instances],
            "InstanceType": self._type(pool),
        }
