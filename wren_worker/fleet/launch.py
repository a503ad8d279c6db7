"""Starting instances."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from wren_worker.config import InstanceConfig, Names
from wren_worker.errors import ConfigError, FleetError
from wren_worker.fleet.breaker import check_boots
from wren_worker.fleet.images import Image, choose_image
from wren_worker.fleet.spec import Launch, family_traits
from wren_worker.fleet.userdata import render
from wren_worker.protocol.ports import InstanceRequest, LaunchReport, Machines, ObjectStore
from wren_worker.version import VERSION

__all__ = ["BOOT_TAG", "LIFETIME_TAG", "UserData", "launch", "remarks"]

#: What tells anybody off the machine when it should be over. Times in seconds.
LIFETIME_TAG, BOOT_TAG = "wren:max-lifetime", "wren:boot-timeout"
#: Makes the user-data of an instance's configuration on an image.
UserData = Callable[[InstanceConfig, Image], str]


def plain_user_data(config: InstanceConfig, image: Image) -> str:
    """Return the user-data for an image that has everything.

    Raises:
        FleetError: The image is a stock one.
    """
    if image.stock:
        raise FleetError(
            f"There is no image of your own for Python {config.python}; bake one with `wren-standalone image build`, "
            "or name one with --image.",
            started=(),
            retryable=False,
        )
    return render(config)


def launch(
    machines: Machines,
    spec: Launch,
    names: Names,
    *,
    python: str,
    launch_id: str,
    store: ObjectStore | None = None,
    anyway: bool = False,
    user_data: UserData = plain_user_data,
) -> LaunchReport:
    """Start what ``spec`` asks for; a partial fill is told in the report.

    Args:
        machines: Starts them.
        spec: What to start.
        names: The fleet.
        python: The Python minor that their slots run.
        launch_id: Unique; repeating it repeats the same request, which starts nothing twice.
        store: The fleet's bucket, which tells whose daemons came up; None does not ask.
        anyway: Whether to start what failed to come up lately.
        user_data: Makes the user-data.

    Raises:
        ConfigError: No image of ours runs on such types.
        FleetError: Nothing was started; says why. ``retryable``: asking again later may help.
    """
    remarks(spec)
    image = choose_image(machines, python, wanted=spec.image)
    text = user_data(_config(spec, names, python), image)
    recipe = hashlib.sha256(f"{image.image_id}\0{text}".encode()).hexdigest()[:16]
    if store is not None and not anyway:
        check_boots(machines, store, names.fleet, recipe=recipe)
    return machines.launch(
        InstanceRequest(
            fleet=names.fleet,
            count=spec.n_wanted,
            instance_types=spec.types,
            image_id=image.image_id,
            user_data=text,
            python=python,
            version=VERSION,
            launch_id=launch_id,
            client_token=launch_id,
            spot=spec.spot,
            max_price=spec.max_price,
            subnet_ids=spec.subnets,
            security_group_ids=spec.security_groups,
            tags={
                LIFETIME_TAG: f"{spec.max_lifetime:.0f}",
                BOOT_TAG: f"{spec.boot_timeout:.0f}",
                "wren:recipe": recipe,
            },
        )
    )


def _config(spec: Launch, names: Names, python: str) -> InstanceConfig:
    return InstanceConfig(
        fleet=names.fleet,
        account=names.account,
        region=names.region,
        python=python,
        slots=str(spec.slots),
        idle_timeout=spec.idle_timeout,
        max_lifetime=spec.max_lifetime,
        lease_time=spec.lease_time,
        stale_timeout=spec.stale_timeout,
        boot_timeout=spec.boot_timeout,
        deadman_interval=spec.deadman_interval,
        # no launch id: it is a tag, and here it would make a template version of every launch
        version=VERSION,
    )


def remarks(spec: Launch) -> list[str]:
    """Return what somebody who launches these types should know.

    Raises:
        ConfigError: No image of ours runs on one of them.
    """
    arm = [kind for kind in spec.types if "g" in family_traits(kind) or kind.startswith("a1.")]
    if arm and spec.image == "auto":
        raise ConfigError(
            f"{', '.join(arm)} has ARM processors, and images here are x86_64. Take c6i.large, for example."
        )
    amd = [kind for kind in spec.types if "a" in family_traits(kind)]
    if amd:
        return [
            f"{', '.join(amd)} has AMD processors: MKL runs there, but slower than on Intel and slower than OpenBLAS; "
            "for linear algebra take an Intel type."
        ]
    return []
