"""Starting instances."""

from __future__ import annotations

import hashlib

from wren_worker.config import InstanceConfig, Names
from wren_worker.errors import ConfigError, FleetError
from wren_worker.fleet import bootstrap
from wren_worker.fleet.breaker import check_boots
from wren_worker.fleet.images import Image, choose_image
from wren_worker.fleet.spec import Launch, family_traits
from wren_worker.fleet.userdata import Bootstrap, render
from wren_worker.protocol.ports import InstanceRequest, LaunchReport, Machines, ObjectStore
from wren_worker.version import VERSION

__all__ = ["BOOT_TAG", "LIFETIME_TAG", "launch", "remarks"]

#: What tells anybody off the machine when it should be over. Times in seconds.
LIFETIME_TAG, BOOT_TAG = "wren:max-lifetime", "wren:boot-timeout"


def launch(
    machines: Machines,
    spec: Launch,
    names: Names,
    *,
    python: str,
    launch_id: str,
    store: ObjectStore | None = None,
    anyway: bool = False,
) -> LaunchReport:
    """Start what ``spec`` asks for; a partial fill is told in the report.

    Args:
        machines: Starts them.
        spec: What to start.
        names: The fleet.
        python: The Python minor that their slots run.
        launch_id: Unique; repeating it repeats the same request, which starts nothing twice.
        store: The fleet's bucket, which tells whose daemons came up and takes what the image lacks; None does neither.
        anyway: Whether to start what failed to come up lately.

    Raises:
        ConfigError: No image of ours runs on such types.
        FleetError: Nothing was started; says why. ``retryable``: asking again later may help.
        StoreError: The bucket refuses what the image lacks.
    """
    remarks(spec)
    image = choose_image(machines, python, wanted=spec.image)
    text = render(_config(spec, names, python), bootstrap=_bring(image, names, python, store))
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


def _bring(image: Image, names: Names, python: str, store: ObjectStore | None) -> Bootstrap | None:
    """Store the archive of what the image lacks, and return where it lies; one for all images of a Python."""
    if image.complete:
        return None
    if store is None:
        raise FleetError(f"{image.what}, lacks this version's wheel, and no bucket is known to bring it.", started=())
    archive = bootstrap.build(python=python)
    if not store.exists(archive.key):
        store.put(archive.key, archive.data)
    return Bootstrap(bucket=names.bucket, key=archive.key, sha256=archive.sha256, region=names.region)


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
