"""The account's images through moto, as it is and as the sandbox mends it, and the commands over them."""

from __future__ import annotations

import json
import os
import secrets
import stat
import subprocess
import sys

import pytest

from wren_worker.aws.images import Ec2Images
from wren_worker.errors import FleetError

CLI = "from wren_worker.cli.main import main; main(prog_name='wren-standalone')"


@pytest.fixture(params=["moto", "sandbox"])
def aws(request):
    return request.getfixturevalue(f"{request.param}_aws")


@pytest.fixture
def images(aws):
    return Ec2Images(aws)


@pytest.fixture
def bake(aws):
    """Return a function that registers an image over a snapshot of its own, as packer leaves it."""
    ec2 = aws.ec2()
    made = []

    def bake(tags):
        volume = ec2.create_volume(AvailabilityZone=f"{aws.region}a", Size=9)["VolumeId"]
        snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
        ec2.delete_volume(VolumeId=volume)
        mapping = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot, "VolumeSize": 9}}
        name = f"wren-test-{secrets.token_hex(4)}"
        image_id = ec2.register_image(Name=name, RootDeviceName="/dev/xvda", BlockDeviceMappings=[mapping])["ImageId"]
        if tags:
            ec2.create_tags(Resources=[image_id], Tags=[{"Key": key, "Value": value} for key, value in tags.items()])
        made.append(image_id)
        return image_id

    yield bake
    left = {image["ImageId"] for image in ec2.describe_images(Owners=["self"])["Images"]}
    for image_id in made:
        if image_id in left:
            ec2.deregister_image(ImageId=image_id)


def ours(images, image_id):
    return next((image for image in images.images() if image.image_id == image_id), None)


def snapshots(aws, image):
    found = {one["SnapshotId"] for one in aws.ec2().describe_snapshots(OwnerIds=["self"])["Snapshots"]}
    return found & set(image.snapshot_ids)


def test_an_image_of_ours_is_described(images, bake):
    image = ours(images, bake({"wren:python": "3.12", "wren:version": "7", "wren:runtime": "abc"}))
    assert (image.python, image.version, image.runtime, image.state) == ("3.12", "7", "abc", "available")
    assert image.created_timestamp > 1_600_000_000
    assert image.n_bytes > 0
    assert image.snapshot_ids


def test_an_image_without_the_tag_is_not_seen(images, bake):
    assert ours(images, bake({})) is None
    assert ours(images, bake({"Name": "mine"})) is None


def test_newest_come_first(images, bake):
    for _ in range(2):
        bake({"wren:python": "3.11"})
    stamps = [image.created_timestamp for image in images.images()]
    assert stamps == sorted(stamps, reverse=True)


def test_tags_are_set_on_image_and_snapshots(aws, images, bake):
    image = ours(images, bake({"wren:python": "3.11"}))
    images.set_tags(image, {"wren:runtime": "digest"})
    assert ours(images, image.image_id).runtime == "digest"
    tagged = aws.ec2().describe_tags(Filters=[{"Name": "resource-id", "Values": list(image.snapshot_ids)}])["Tags"]
    assert ("wren:runtime", "digest") in {(tag["Key"], tag["Value"]) for tag in tagged}


def test_an_image_goes_with_its_snapshots(aws, images, bake):
    other = ours(images, bake({"wren:python": "3.11"}))
    image = ours(images, bake({"wren:python": "3.11"}))
    assert snapshots(aws, image)
    assert images.remove(image) == {}
    assert ours(images, image.image_id) is None
    assert not snapshots(aws, image)
    assert ours(images, other.image_id) is not None
    assert snapshots(aws, other)


def test_removing_what_is_gone_is_no_error(images, bake):
    image = ours(images, bake({"wren:python": "3.11"}))
    images.remove(image)
    assert images.remove(image) == {}


def test_a_snapshot_that_stays_is_told(images, bake, monkeypatch):
    from botocore.exceptions import ClientError

    image = ours(images, bake({"wren:python": "3.11"}))
    in_use = ClientError({"Error": {"Code": "InvalidSnapshot.InUse", "Message": "in use by ami-9"}}, "DeleteSnapshot")

    def refuse(**_):
        raise in_use

    monkeypatch.setattr(images._aws.ec2(), "delete_snapshot", refuse)
    left = images.remove(image)
    assert set(left) == set(image.snapshot_ids)
    assert "in use by ami-9" in next(iter(left.values()))


def test_a_refusal_is_a_sentence(images, bake, monkeypatch):
    from botocore.exceptions import ClientError

    image = ours(images, bake({"wren:python": "3.11"}))
    denied = ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": "no"}}, "DeregisterImage")

    def refuse(**_):
        raise denied

    with monkeypatch.context() as patch:
        patch.setattr(images._aws.ec2(), "deregister_image", refuse)
        with pytest.raises(FleetError, match="could not be deregistered"):
            images.remove(image)


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cli(aws, tmp_path):
    """Return a function that runs wren-standalone against the emulator, with a PATH of the test's own."""
    endpoint = aws.ec2().meta.endpoint_url
    environ = {
        **os.environ,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_DEFAULT_REGION": aws.region,
        "PATH": str(tmp_path),
    }

    def run(*arguments, **changes):
        return subprocess.run(
            [sys.executable, "-c", CLI, *arguments],
            env={name: value for name, value in {**environ, **changes}.items() if value is not None},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_ls_lists_with_price_and_marks_what_auto_takes(cli, bake):
    first, second = (bake({"wren:python": "3.14", "wren:runtime": "c" * 64}) for _ in range(2))
    done = cli("--json", "image", "ls")
    assert done.returncode == 0, done.stderr
    rows = {row["image"]: row for row in json.loads(done.stdout)}
    assert {first, second} <= set(rows)
    assert rows[first]["runtime"] == "c" * 16
    assert rows[first]["usd_month"] > 0
    assert sorted([str(rows[first]["auto"]), str(rows[second]["auto"])]) == ["None", "yes"]


def test_rm_lists_asks_and_removes(cli, bake, images):
    image_id = bake({"wren:python": "3.11"})
    asked = cli("image", "rm", image_id)
    assert asked.returncode != 0
    assert image_id in asked.stdout
    assert "Remove 1 images" in asked.stderr
    assert ours(images, image_id) is not None
    done = cli("image", "rm", "--yes", image_id)
    assert done.returncode == 0, done.stderr
    assert ours(images, image_id) is None


def test_rm_leaves_what_is_not_ours_alone(cli, bake, aws):
    mine = bake({"Name": "mine"})
    ours_too = bake({"wren:python": "3.11"})
    done = cli("image", "rm", "--yes", ours_too, mine)
    assert done.returncode == 1
    assert f"error: {mine} is none of your images" in done.stderr
    # all or nothing: a list with a mistake in it removes nothing
    left = {image["ImageId"] for image in aws.ec2().describe_images(Owners=["self"])["Images"]}
    assert {mine, ours_too} <= left


def test_build_says_in_a_sentence_that_packer_is_missing(cli):
    done = cli("image", "build", "--python", "3.11", AWS_ENDPOINT_URL=None)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Building an image needs packer, which is not installed.")
    assert len(done.stderr.splitlines()) == 1


def test_build_refuses_where_there_is_no_aws(cli):
    done = cli("image", "build", "--python", "3.11")
    assert done.returncode == 1
    assert "AWS_ENDPOINT_URL" in done.stderr


def test_a_dry_run_shows_the_command_and_has_the_template_checked(cli, tmp_path):
    packer = tmp_path / "packer"
    packer.write_text('#!/bin/sh\n[ "$1" = version ] && echo "Packer v1.14.0" && exit\necho "got $1 $2"\n')
    packer.chmod(packer.stat().st_mode | stat.S_IXUSR)
    arguments = ("image", "build", "--python", "3.13", "--region", "eu-west-3", "--base", "ubuntu-24.04", "--dry-run")
    done = cli(*arguments, AWS_ENDPOINT_URL=None, AWS_ACCESS_KEY_ID=None)
    assert done.returncode == 0, done.stderr
    assert "packer build -only=amazon-ebs.wren" in done.stdout
    assert {"python=3.13", "region=eu-west-3", "ssh_username=ubuntu"} <= set(done.stdout.split())
    assert "got validate -only=amazon-ebs.wren" in done.stderr


BUILDS = """#!/bin/sh
[ "$1" = version ] && echo "Packer v1.14.0" && exit
for argument; do case $argument in output=*) output=${argument#output=} ;; esac; done
echo "==> amazon-ebs.wren: the fake builds"
build='{"packer_run_uuid": "u", "artifact_id": "us-east-1:IMAGE"}'
echo "{\\"builds\\": [$build], \\"last_run_uuid\\": \\"u\\"}" >"$output/manifest.json"
echo '{"digest": "DIGEST", "python": "3.11", "ok": true}' >"$output/runtime.json"
"""


def test_build_names_the_image_its_price_and_tags_it_with_its_runtime(cli, bake, images, aws, tmp_path):
    image_id = bake({"wren:python": "3.11", "wren:runtime": "conda-asked-1"})
    packer = tmp_path / "packer"
    packer.write_text(BUILDS.replace("IMAGE", image_id).replace("DIGEST", "d" * 64), encoding="utf-8")
    packer.chmod(packer.stat().st_mode | stat.S_IXUSR)
    endpoint = aws.ec2().meta.endpoint_url
    services = {"AWS_ENDPOINT_URL": None, "AWS_ENDPOINT_URL_EC2": endpoint, "AWS_ENDPOINT_URL_STS": endpoint}
    done = cli("image", "build", "--python", "3.11", **services)
    assert done.returncode == 0, done.stderr
    assert f"{image_id}: Python 3.11, runtime {'d' * 16}" in done.stdout
    assert "a month; remove it: image rm" in done.stdout
    assert "the fake builds" in done.stderr
    assert ours(images, image_id).runtime == "d" * 64
