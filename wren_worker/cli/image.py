"""``image build``, ``image ls``, ``image rm``: the machine images that instances boot from."""

from __future__ import annotations

import os
import shlex
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from wren_worker.cli.main import Context, pass_context
from wren_worker.config import shared_file, this_python
from wren_worker.errors import FleetError
from wren_worker.fleet import image as fleet_image
from wren_worker.protocol.images import ImageInfo
from wren_worker.wiring.operator import Operator, region_of

__all__ = ["image"]

#: The template has another source, for tests.
_ONLY = "-only=amazon-ebs.wren"


@click.group()
def image() -> None:
    """The images that instances boot from: daemon and packages baked in, so that they boot in seconds."""


@image.command()
@click.option("--python", default=this_python, help="The Python minor of your calls.  [default: yours]")
@click.option("--region", default="", help="Where the image will be.  [default: yours]")
@click.option("--type", "instance_type", default="c5.xlarge", show_default=True, help="The machine that builds.")
@click.option("--base", type=click.Choice(list(fleet_image.BASES)), default="debian-12", show_default=True)
@click.option(
    "--runtime",
    type=click.Choice(["conda", "wheels"]),
    default="conda",
    show_default=True,
    help="conda: MKL, any Python; wheels: OpenBLAS, the base's own Python.",
)
@click.option("--subnet", default="", help="Where it builds; else the default VPC.")
@click.option("--encrypt/--no-encrypt", default=True, show_default=True, help="Disk and snapshot.")
@click.option("--dry-run", is_flag=True, help="Only show the command, and let packer check the template.")
@pass_context
def build(
    context: Context,
    /,
    *,
    python: str,
    region: str,
    instance_type: str,
    base: str,
    runtime: str,
    subnet: str,
    encrypt: bool,
    dry_run: bool,
) -> None:
    """Build an image with packer, on an instance that it starts and ends."""
    settings = replace(context.settings, region=region or context.settings.region)
    wanted = fleet_image.Build(
        python=python,
        region=region_of(settings),
        profile=settings.profile,
        instance_type=instance_type,
        base=base,
        runtime=runtime,
        subnet=subnet,
        encrypt=encrypt,
    )
    folder = shared_file("packer")
    with tempfile.TemporaryDirectory(prefix="wren-image-") as scratch:
        output = Path(scratch)
        variables = wanted.variables(output)
        if dry_run:
            context.output.say(shlex.join(fleet_image.build_command("packer", ["build", _ONLY], variables, folder)))
            packer = fleet_image.find_packer()
            fleet_image.run_packer(
                fleet_image.build_command(packer, ["validate", _ONLY], variables, folder), context.output.note
            )
            return
        if os.environ.get("AWS_ENDPOINT_URL"):
            raise FleetError("An image is built on AWS itself, and AWS_ENDPOINT_URL points elsewhere. Unset it.")
        packer = fleet_image.find_packer()
        operator = Operator(settings)  # credentials that do not work shall say so before packer starts
        context.output.note(f"building for Python {python} in {operator.place}")
        command = fleet_image.build_command(packer, ["build", "-color=false", _ONLY], variables, folder)
        fleet_image.run_packer(command, context.output.note)
        _conclude(context, operator, fleet_image.read_result(output))


def _conclude(context: Context, operator: Operator, built: fleet_image.Built) -> None:
    """Put the runtime's name into the tags, and say what there is now."""
    made = fleet_image.find(operator.images.images(), built.image_id)
    try:
        operator.images.set_tags(made, {"wren:runtime": built.digest})
    except FleetError as error:
        context.output.note(f"the image is whole, but its wren:runtime tag is not the digest: {error}")
    context.output.data({"image": made.image_id, "runtime": dict(built.runtime), "usd_month": _price(made)})
    context.output.say(f"{made.image_id}: Python {made.python}, runtime {built.digest[:16]}")
    context.output.say(f"it costs {_bound(made)}${_price(made):.2f} a month; remove it: image rm {made.image_id}")


def _price(made: ImageInfo) -> float:
    return round(fleet_image.monthly_price(made.n_bytes), 2)


def _bound(made: ImageInfo) -> str:
    return "" if made.is_exact else "at most "


_COLUMNS = ["image", "python", "runtime", "version", "created", "gb", "usd_month", "state", "auto"]


def _shown(found: ImageInfo, chosen: dict[str, str]) -> dict[str, object]:
    return {
        "image": found.image_id,
        "python": found.python,
        "runtime": found.runtime[:16] or None,
        "version": found.version or None,
        "created": datetime.fromtimestamp(found.created_timestamp, UTC).strftime("%Y-%m-%d %H:%M"),
        "gb": round(found.n_bytes / 1024**3, 1),
        "usd_month": _price(found),
        "state": found.state,
        "auto": "yes" if chosen.get(found.python) == found.image_id else None,
    }


@image.command()
@pass_context
def ls(context: Context) -> None:
    """List your images; "auto" marks those that `launch --image auto` takes."""
    operator = Operator(context.settings)
    found = operator.images.images()
    chosen = fleet_image.newest(found)
    context.output.table(
        _COLUMNS,
        [_shown(one, chosen) for one in found],
        empty=f"no images of yours are tagged wren:python, {operator.place}; build one: wren-standalone image build",
    )


@image.command()
@click.argument("image_ids", metavar="AMI...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
def rm(context: Context, image_ids: tuple[str, ...], *, yes: bool) -> None:
    """Deregister images and delete their snapshots. Instances that run go on."""
    operator = Operator(context.settings)
    known = operator.images.images()
    wanted = [fleet_image.find(known, image_id) for image_id in dict.fromkeys(image_ids)]
    for one in wanted:
        context.output.say(f"  {one.image_id}  Python {one.python}  {one.name}  {' '.join(one.snapshot_ids)}".rstrip())
    if not yes:
        click.confirm(f"Remove {len(wanted)} images and their snapshots?", abort=True, err=True)
    left: dict[str, str] = {}
    for one in wanted:
        left |= operator.images.remove(one)
    context.output.data({"removed": [one.image_id for one in wanted], "snapshots_left": left})
    context.output.say(f"removed {len(wanted)}")
    if left:
        reasons = "; ".join(f"{snapshot_id}: {reason}" for snapshot_id, reason in left.items())
        raise FleetError(f"Snapshots are left, and cost: {reasons}")
