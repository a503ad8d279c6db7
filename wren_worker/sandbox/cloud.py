"""The sandbox's view of moto's EC2 and IAM, in process: what runs, and what became of it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.core.utils import utcnow
from moto.ec2.models import ec2_backends
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import Instance, StateReason
from moto.ec2.responses.general import General
from moto.iam.models import iam_backends

from wren_worker.config import this_python
from wren_worker.version import VERSION

__all__ = ["ACCOUNT", "REGION", "Cloud", "mend_instances"]

ACCOUNT = "123456789012"
REGION = "us-east-1"

_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}


class Cloud:
    """EC2 of one account and region. ``Any`` stands for moto's own instance objects."""

    def __init__(self) -> None:
        self._ec2 = ec2_backends[ACCOUNT][REGION]

    def instances(self) -> Iterator[Any]:
        """Yield every instance there ever was, oldest first."""
        for reservation in list(self._ec2.reservations.values()):
            yield from list(reservation.instances)

    def find(self, instance_id: str) -> Any:
        """Return an instance.

        Raises:
            KeyError: There is none of that id.
        """
        for instance in self.instances():
            if instance.id == instance_id:
                return instance
        raise KeyError(instance_id)

    def set_state(self, instance: Any, state: str, *, code: str = "", reason: str = "") -> None:
        """Move an instance into a state; with a code, say why."""
        instance._state.name = state
        instance._state.code = _CODES[state]
        if code:
            instance.state_reason = StateReason(f"{code}: {reason}", code)
            instance._reason = reason

    def end(self, instance: Any, *, code: str, reason: str, stop: bool = False) -> None:
        """Record that an instance ended, or stopped, without TerminateInstances."""
        if stop:
            instance.stop()
        elif instance.state != "terminated":
            instance.terminate()
        self.set_state(instance, "stopped" if stop else "terminated", code=code, reason=reason)

    def tags(self, instance: Any) -> Mapping[str, str] | None:
        """Return what IMDS may show of the instance's tags, None when the launch did not ask for it."""
        if instance.metadata_options.instance_metadata_tags != "enabled":
            return None
        return {tag["key"]: tag["value"] for tag in instance.get_tags()}

    def role(self, instance: Any) -> str:
        """Return the name of the instance's role, "" without a profile."""
        profile = instance.iam_instance_profile
        if not profile:
            return ""
        name = str(profile["Arn"]).rpartition("/")[2]
        roles = iam_backends[ACCOUNT]["aws"].get_instance_profile(name).roles
        return str(roles[0].name) if roles else ""

    def user_data(self, instance: Any) -> bytes | None:
        """Return the instance's user-data as IMDS shows it."""
        return base64.b64decode(str(instance.user_data)) if instance.user_data else None

    def n_vcpus(self, instance_type: str) -> int:
        """Return the vCPUs of a type, 1 when unknown."""
        return int(INSTANCE_TYPES.get(instance_type, {}).get("VCpuInfo", {}).get("DefaultVCpus", 1))

    def connect(self) -> None:
        """Give the default VPC its way to the internet, as every account's has."""
        vpc: Any = self._ec2.get_default_vpc()
        gateway = self._ec2.create_internet_gateway()
        self._ec2.attach_internet_gateway(gateway.id, vpc.id)
        (table,) = self._ec2.describe_route_tables(filters={"vpc-id": vpc.id, "association.main": "true"})
        self._ec2.create_route(route_table_id=table.id, destination_cidr_block="0.0.0.0/0", gateway_id=gateway.id)

    def bake_image(self) -> str:
        """Register the image that a bake would have left: this interpreter, this version."""
        python = this_python()
        image = self._ec2.register_image(name=f"wren-worker-py{python}", description="The sandbox's baked image")
        image.virtualization_type, image.architecture, image.root_device_type = "hvm", "x86_64", "ebs"
        image.root_device_name = "/dev/xvda"
        image.add_tags({"wren:python": python, "wren:version": VERSION, "wren:wheel": VERSION})
        return str(image.id)


def mend_instances() -> None:
    """Let an instance be shutting down while its local machine still runs, and show that machine's console."""
    for method, state in (("terminate", "shutting-down"), ("stop", "stopping")):
        original = getattr(Instance, method)

        def ending(self: Any, original: Any = original, state: str = state) -> Any:
            previous = original(self)
            if getattr(self, "wren_machine_runs", False):
                self._state.name, self._state.code = state, _CODES[state]
            return previous

        setattr(Instance, method, ending)

    def get_console_output(self: Any) -> ActionResult:
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        console = getattr(instance, "wren_console", None)
        text = Base64EncodedString.from_raw_string(console() if console else "")
        return ActionResult({"InstanceId": instance.id, "Timestamp": utcnow(), "Output": text})

    General.get_console_output = get_console_output  # type: ignore[method-assign]
