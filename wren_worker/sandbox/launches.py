"""Mends moto's EC2 where it is laxer or poorer than AWS, as far as a fleet of ours can tell.

- RunInstances takes everything from the launch template, and is idempotent by ClientToken.
- MaxCount is honoured, capacity can run out, instance types and images must exist, user-data has its limit.
- A template version made with SourceVersion has what the source had.
"""

from __future__ import annotations

import base64
import copy
import threading
from collections.abc import Mapping
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import Instance
from moto.ec2.models.spot_requests import SpotInstanceRequest
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.responses.launch_templates import LaunchTemplates
from moto.ec2.utils import random_spot_request_id

__all__ = ["Capacity", "Tokens", "mend_launches"]

_USER_DATA_BYTES = 16384
Params = dict[str, Any]


class Capacity:
    """How many more instances of a type can start; unlimited unless somebody injects a shortage."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}
        self._lock = threading.Lock()

    def limit(self, instance_type: str, count: int | None) -> None:
        """Let ``count`` more start; None takes the limit away."""
        with self._lock:
            if count is None:
                self._left.pop(instance_type, None)
            else:
                self._left[instance_type] = count

    def take(self, instance_type: str, wanted: int) -> int:
        """Return how many of ``wanted`` can start, and count them."""
        with self._lock:
            if instance_type not in self._left:
                return wanted
            granted = min(wanted, self._left[instance_type])
            self._left[instance_type] -= granted
            return granted

    def limits(self) -> dict[str, int]:
        """Return what is left of each limited type."""
        with self._lock:
            return dict(self._left)


class Tokens:
    """What each ClientToken started; the same token with other parameters is refused."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._known: dict[tuple[str, str], tuple[str, Any]] = {}

    def recall(self, operation: str, token: str, parameters: Params) -> Any:
        """Return what the token started, None when it is new."""
        known = self._known.get((operation, token))
        if known is None:
            return None
        if known[0] != repr(parameters):
            message = f"Arguments on this idempotent request are inconsistent with token {token}."
            raise EC2ClientError("IdempotentParameterMismatch", message)
        return known[1]

    def keep(self, operation: str, token: str, parameters: Params, result: Any) -> None:
        """Remember what the token started."""
        self._known[operation, token] = (repr(parameters), result)


def template_of(response: Any, spec: Mapping[str, str]) -> tuple[Any, Params]:
    """Return the template version that a specification names, and its data."""
    backend = response.ec2_backend
    if spec.get("LaunchTemplateId"):
        template = backend.get_launch_template(spec["LaunchTemplateId"])
    else:
        template = backend.get_launch_template_by_name(spec["LaunchTemplateName"])
    number = str(spec.get("Version") or "$Default")
    found = template.get_version(number)
    return found, copy.deepcopy(dict(found.data))


def merge(base: Params, over: Mapping[str, Any]) -> Params:
    """Return the template's data with a request's parameters over it; tags add up."""
    merged = base | {key: value for key, value in over.items() if value is not None}
    if base.get("TagSpecifications") and over.get("TagSpecifications"):
        tags: dict[str, dict[str, str]] = {}
        for spec in (*base["TagSpecifications"], *over["TagSpecifications"]):
            kind = tags.setdefault(spec["ResourceType"], {})
            kind |= {tag["Key"]: tag.get("Value", "") for tag in spec.get("Tags", [])}
        merged["TagSpecifications"] = [
            {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in found.items()]}
            for kind, found in tags.items()
        ]
    return merged


def check(response: Any, params: Params) -> None:
    """Refuse what EC2 refuses.

    Raises:
        EC2ClientError: Says what.
    """
    instance_type = params.get("InstanceType")
    if instance_type and instance_type not in INSTANCE_TYPES:
        raise EC2ClientError("InvalidParameterValue", f"Invalid value '{instance_type}' for InstanceType.")
    if not params.get("ImageId"):
        raise EC2ClientError("MissingParameter", "The request must contain the parameter ImageId")
    response.ec2_backend.describe_images(ami_ids=[params["ImageId"]])
    user_data = params.get("UserData")
    if user_data and len(base64.b64decode(str(user_data))) > _USER_DATA_BYTES:
        raise EC2ClientError("InvalidParameterValue", "User data is limited to 16384 bytes")


def start(run: Any, response: Any, params: Params, *, spot: bool) -> Any:
    """Start instances by moto's own RunInstances and give them what it drops; return the reservation."""
    before = response.params
    profile = params.pop("IamInstanceProfile", None)
    if params.get("NetworkInterfaces") and params.get("SubnetId"):
        # the template names the interface, a fleet's override its subnet
        params["NetworkInterfaces"][0]["SubnetId"] = params.pop("SubnetId")
    if params.get("UserData"):
        params["UserData"] = str(params["UserData"])  # a template holds it as an object of moto's
    for mapping in params.get("BlockDeviceMappings") or []:
        if not {"VolumeSize", "SnapshotId"} & set(mapping.get("Ebs", ())):
            mapping.setdefault("Ebs", {})["VolumeSize"] = 8  # the image's own size, which moto does not know
    response.params = params
    try:
        reservation = run(response).result
    finally:
        response.params = before
    for instance in reservation.instances:
        if profile:
            response.ec2_backend.associate_iam_instance_profile(
                instance_id=instance.id,
                iam_instance_profile_name=profile.get("Name"),
                iam_instance_profile_arn=profile.get("Arn"),
            )
        if spot:
            _add_spot_request(response, instance, params)
    return reservation


def _add_spot_request(response: Any, instance: Instance, params: Params) -> None:
    class Request(SpotInstanceRequest):
        def launch_instance(self) -> Instance:
            return instance

    backend = response.ec2_backend
    options = (params.get("InstanceMarketOptions") or {}).get("SpotOptions") or {}
    request = Request(
        backend,
        random_spot_request_id(),
        price=options.get("MaxPrice") or "",
        image_id=instance.image_id,
        spot_instance_type="one-time",
        valid_from=None,
        valid_until=None,
        launch_group=None,
        availability_zone_group=None,
        key_name="",
        security_groups=[],
        user_data=None,
        instance_type=instance.instance_type,
        placement=instance.availability_zone,
        kernel_id=None,
        ramdisk_id=None,
        monitoring_enabled=False,
        subnet_id=instance.subnet_id or "",
        tags={},
        spot_fleet_id=None,
        instance_interruption_behaviour="terminate",
    )
    backend.spot_instance_requests[request.id] = request
    instance.lifecycle = "spot"
    instance.instance_lifecycle = "spot"  # type: ignore[attr-defined]
    instance.spot_instance_request_id = request.id  # type: ignore[attr-defined]


def _mend_run_instances(capacity: Capacity, tokens: Tokens) -> Any:
    original = InstanceResponse.run_instances

    def run_instances(self: Any) -> ActionResult:
        asked = copy.deepcopy(dict(self.params))
        token = asked.get("ClientToken") or ""
        with tokens.lock:
            known = tokens.recall("RunInstances", token, asked) if token else None
            if known is not None:
                return ActionResult(known)
            params = copy.deepcopy(asked)
            spec, tags = params.pop("LaunchTemplate", None), {}
            if spec:
                found, data = template_of(self, spec)
                params = merge(data, params)
                tags = template_tags(found)
            check(self, params)
            instance_type = params.get("InstanceType") or "m1.small"
            least, most = int(params["MinCount"]), int(params["MaxCount"])
            granted = capacity.take(instance_type, most)
            if granted < least:
                raise EC2ClientError("InsufficientInstanceCapacity", no_capacity(instance_type))
            params["MinCount"] = params["MaxCount"] = granted
            spot = (params.get("InstanceMarketOptions") or {}).get("MarketType") == "spot"
            reservation = start(original, self, params, spot=spot)
            for instance in reservation.instances:
                instance.add_tags(tags)
            if token:
                tokens.keep("RunInstances", token, asked, reservation)
            return ActionResult(reservation)

    InstanceResponse.run_instances = run_instances  # type: ignore[method-assign]
    return original


def template_tags(found: Any) -> dict[str, str]:
    return {
        "aws:ec2launchtemplate:id": str(found.template.id),
        "aws:ec2launchtemplate:version": str(found.number),
    }


def no_capacity(instance_type: str) -> str:
    return (
        f"We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested. "
        "Our system will be working on provisioning additional capacity."
    )


def _mend_template_versions() -> None:
    original = LaunchTemplates.create_launch_template_version

    def create_launch_template_version(self: Any) -> ActionResult:
        source = self.params.get("SourceVersion")
        if source:
            spec = {key: self.params.get(key) for key in ("LaunchTemplateId", "LaunchTemplateName")}
            _, data = template_of(self, {**spec, "Version": str(source)})
            self.params["LaunchTemplateData"] = data | dict(self.params.get("LaunchTemplateData") or {})
        return original(self)

    LaunchTemplates.create_launch_template_version = create_launch_template_version  # type: ignore[method-assign]


def mend_launches(capacity: Capacity, tokens: Tokens) -> Any:
    """Put RunInstances and template versions in place, once per process; return moto's own RunInstances."""
    _mend_template_versions()
    return _mend_run_instances(capacity, tokens)
