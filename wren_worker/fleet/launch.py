"""Starting instances."""

from __future__ import annotations

from wren_worker.config import InstanceConfig, Names
from wren_worker.errors import FleetError
from wren_worker.fleet.spec import Launch
from wren_worker.fleet.userdata import render
from wren_worker.protocol.ports import InstanceRequest, LaunchReport, Machines
from wren_worker.version import VERSION

__all__ = ["launch"]


def launch(machines: Machines, spec: Launch, names: Names, *, python: str, launch_id: str) -> LaunchReport:
    """Start what ``spec`` asks for; a partial fill is told in the report.

    Args:
        machines: Starts them.
        spec: What to start.
        names: The fleet.
        python: The Python minor that their slots run.
        launch_id: Unique; repeating it repeats the same request, which starts nothing twice.

    Raises:
        FleetError: Nothing was started; says why.
    """
    image = spec.image if spec.image != "auto" else machines.find_image(python)
    if image is None:
        raise FleetError(
            f"There is no image for Python {python} in {names.region}: none of yours is tagged wren:python={python}. "
            "Name one with --image, or use a Python that has one.",
            started=(),
        )
    config = InstanceConfig(
        fleet=names.fleet,
        account=names.account,
        region=names.region,
        python=python,
        slots=spec.slots,
        idle_timeout=spec.idle_timeout,
        max_lifetime=spec.max_lifetime,
        lease_time=spec.lease_time,
        stale_timeout=spec.stale_timeout,
        boot_timeout=spec.boot_timeout,
        deadman_interval=spec.deadman_interval,
        # no launch id: it is a tag, and here it would make a template version of every launch
        version=VERSION,
    )
    return machines.launch(
        InstanceRequest(
            fleet=names.fleet,
            count=spec.count,
            instance_types=spec.types,
            image_id=image,
            user_data=render(config),
            python=python,
            version=VERSION,
            launch_id=launch_id,
            client_token=launch_id,
            spot=spec.spot,
            max_price=spec.max_price,
            subnet_ids=spec.subnets,
        )
    )
