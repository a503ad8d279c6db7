"""Building an image with packer, and what there is to know of those that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wren_worker.config import shared_file
from wren_worker.errors import ConfigError, FleetError
from wren_worker.protocol.images import ImageInfo
from wren_worker.version import VERSION

__all__ = [
    "BASES",
    "Build",
    "Built",
    "build_command",
    "find",
    "find_packer",
    "monthly_price",
    "newest",
    "pythons",
    "read_result",
    "run_packer",
]

#: Source: EBS price list, standard snapshots in us-east-1, read 2026-11; dollars a GiB and month.
_SNAPSHOT_PRICE = 0.05
#: Source: packer's changelog: 1.7 brought plugins from elsewhere and `packer init`.
_OLDEST_PACKER = (1, 7)
_INSTALL = "Install 1.7 or newer: https://developer.hashicorp.com/packer/install"

#: What the template must know of a base that is not its default.
BASES: Mapping[str, Mapping[str, str]] = {
    "debian-12": {},
    "ubuntu-24.04": {
        "base_owner": "099720109477",
        "base_name": "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-*",
        "ssh_username": "ubuntu",
        "root_device": "/dev/sda1",
    },
}

#: The Python that a base brings, which is the only one that wheels can be installed for.
_BASE_PYTHON = {"debian-12": "3.11", "ubuntu-24.04": "3.12"}

#: What packer prints when it cannot go on -> what to do about it.
_ADVICE = (
    ("packer init", "packer lacks its plugin for AWS. Run: packer init {folder}"),
    ("Missing plugins", "packer lacks its plugin for AWS. Run: packer init {folder}"),
    ("VPCIdNotSpecified", "There is no default VPC in this region: name a subnet with --subnet."),
    ("UnauthorizedOperation", "AWS denied something that packer needs; docs/ami.md lists the permissions."),
    ("No valid credential sources", "packer found no AWS credentials. Sign in, or name a profile with --profile."),
    ("No AMI was found matching filters", "The base image is not offered in this region: try another --base."),
    ("VcpuLimitExceeded", "The account's quota has no room for the machine that builds: try another --type."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What to build.

    Args:
        python: The Python minor that calls run, "3.11".
        region: Where the image will be.
        profile: A profile of the AWS configuration, "" for the default.
        instance_type: The machine that builds.
        base: A key of ``BASES``.
        runtime: "conda" (MKL) or "wheels" (OpenBLAS, the base's own Python).
        subnet: Where it builds, "" for the default VPC.
        encrypt: Whether disk and snapshot are encrypted.

    Raises:
        ConfigError: There is no such Python or base, or the one is not to be had on the other.
    """

    python: str
    region: str
    profile: str = ""
    instance_type: str = "c5.xlarge"
    base: str = "debian-12"
    runtime: str = "conda"
    subnet: str = ""
    encrypt: bool = True

    def __post_init__(self) -> None:
        if self.python not in pythons():
            raise ConfigError(f"No image is known for Python {self.python}: choose from {', '.join(pythons())}.")
        if self.base not in BASES:
            raise ConfigError(f"'{self.base}' is no base for an image: choose from {', '.join(BASES)}.")
        if self.runtime == "wheels" and self.python != _BASE_PYTHON[self.base]:
            raise ConfigError(
                f"{self.base} has Python {_BASE_PYTHON[self.base]}, and wheels need the base's own. "
                "Take --runtime conda, which brings its Python along, or another --base."
            )

    def variables(self, output: Path) -> dict[str, str]:
        """Return the template's variables; packer leaves its manifest in ``output``."""
        return {
            "python": self.python,
            "region": self.region,
            "profile": self.profile,
            "instance_type": self.instance_type,
            "runtime": self.runtime,
            "subnet": self.subnet,
            "encrypt": "true" if self.encrypt else "false",
            "wren_version": VERSION,
            "output": str(output),
            **BASES[self.base],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build left: the image, and what its runtime said of itself."""

    image_id: str
    runtime: Mapping[str, object]

    @property
    def digest(self) -> str:
        """Return the runtime's name."""
        return str(self.runtime.get("digest", ""))


def pythons() -> tuple[str, ...]:
    """Return the Python minors that there is an environment file for."""
    found = (re.fullmatch(r"environment-py(\d)(\d+)\.yml", path.name) for path in shared_file("packer").iterdir())
    minors = sorted((int(match.group(1)), int(match.group(2))) for match in found if match)
    return tuple(f"{major}.{minor}" for major, minor in minors)


def find_packer() -> str:
    """Return packer's path.

    Raises:
        FleetError: It is not installed, or is too old.
    """
    packer = shutil.which("packer")
    if packer is None:
        raise FleetError(f"Building an image needs packer, which is not installed. {_INSTALL}")
    try:
        done = subprocess.run([packer, "version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FleetError(f"{packer} does not run: {error}. {_INSTALL}") from error
    match = re.search(r"v(\d+)\.(\d+)", done.stdout)
    if match is None:
        # another program of that name exists: a tool of cracklib's
        raise FleetError(f"{packer} is not HashiCorp's packer. {_INSTALL}")
    if (int(match.group(1)), int(match.group(2))) < _OLDEST_PACKER:
        raise FleetError(f"{packer} is {match.group(0)}, which is too old for the AWS plugin. {_INSTALL}")
    return packer


def build_command(packer: str, verb: Sequence[str], variables: Mapping[str, str], folder: Path) -> list[str]:
    """Return the command that validates or builds the template in ``folder``; an empty variable is left out."""
    given = [part for name, value in variables.items() if value for part in ("-var", f"{name}={value}")]
    return [packer, *verb, *given, str(folder)]


def run_packer(command: Sequence[str], say: Callable[[str], None]) -> None:
    """Run packer and pass on what it prints, line by line.

    An interrupt reaches packer too, which then removes what it made in AWS; this waits until it has, and only then
    raises KeyboardInterrupt.

    Raises:
        FleetError: It failed; says what to do where that is known.
    """
    last: deque[str] = deque(maxlen=400)
    interrupted = False
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise FleetError(f"{command[0]} could not be started: {error.strerror}.") from error
    with process:
        assert process.stdout is not None  # noqa: S101 - narrows the type
        while True:
            try:
                for line in process.stdout:
                    last.append(line)
                    say(line.rstrip("\n"))
                break
            except KeyboardInterrupt:
                interrupted = True
                say("interrupted: waiting for packer to remove what it made")
    if interrupted:
        raise KeyboardInterrupt
    if process.returncode:
        raise FleetError(f"packer failed ({process.returncode}). {_advice(''.join(last), command[-1])}".rstrip())


def _advice(text: str, folder: str) -> str:
    for sign, advice in _ADVICE:
        if sign in text:
            return advice.format(folder=folder)
    return "What it printed last says why."


def read_result(output: Path) -> Built:
    """Return what packer's manifest and the runtime's own record say of the build that ended last.

    Raises:
        FleetError: They are not there, or name no image.
    """
    try:
        manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
        [build] = [one for one in manifest["builds"] if one["packer_run_uuid"] == manifest["last_run_uuid"]]
        artifact = str(build["artifact_id"])
        runtime = json.loads((output / "runtime.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FleetError(f"packer left no readable result in {output}: {error}.") from error
    # "region:ami", and more of them after commas when it was copied
    match = re.search(r"\bami-[0-9a-f]+\b", artifact)
    if match is None or not isinstance(runtime, dict):
        raise FleetError(f"packer's manifest names no image, but '{artifact}'.")
    return Built(image_id=match.group(0), runtime=runtime)


def monthly_price(n_bytes: int) -> float:
    """Return dollars a month for so many bytes of snapshots, in us-east-1."""
    return n_bytes / 1024**3 * _SNAPSHOT_PRICE


def newest(images: Sequence[ImageInfo]) -> dict[str, str]:
    """Return ``{python: image_id}``: what ``--image auto`` takes."""
    found: dict[str, ImageInfo] = {}
    for image in images:
        if image.state == "available":
            known = found.get(image.python)
            if known is None or image.created_timestamp > known.created_timestamp:
                found[image.python] = image
    return {python: image.image_id for python, image in found.items()}


def find(images: Sequence[ImageInfo], image_id: str) -> ImageInfo:
    """Return one of our images.

    Raises:
        FleetError: It is none of them.
    """
    for image in images:
        if image.image_id == image_id:
            return image
    raise FleetError(
        f"{image_id} is none of your images that are tagged wren:python, so it is left alone. `image ls` lists them."
    )
