"""The bootstrap archive: what an instance lacks at launch, in one file that its user-data names by sha256.

It brings the units, ``supervisord.conf`` and the launcher's own wheel, built here from the installed package, so that
both sides are equal. An image baked by ``packer/`` needs no more. A stock image also needs the daemon's environment:
as wheels, when a folder of them is given, else the instance installs it from PyPI at boot, pinned by hash
(``packer/daemon.lock``). ``cloud-init/bootstrap.sh`` is what runs on the instance.

Equal inputs give equal bytes, so an archive is uploaded once and its launches share a launch template version.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import re
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from wren_worker.config import shared_file
from wren_worker.errors import ConfigError
from wren_worker.version import VERSION

__all__ = ["Archive", "build", "own_wheel"]

_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip knows no earlier time
_PACKAGE = Path(__file__).resolve().parents[1]
_LEFT_OUT = ("__pycache__", "_files")


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A bootstrap archive, ready to be stored under ``key``."""

    data: bytes
    sha256: str

    @property
    def key(self) -> str:
        """Return where it belongs in the fleet's bucket."""
        return f"wheels/bootstrap-{self.sha256}.tar.gz"


def build(*, python: str, wheels: Path | None = None, packages: Path | None = None) -> Archive:
    """Return the archive for instances whose ``python3`` is ``python``.

    Args:
        python: The Python minor, "3.11".
        wheels: A folder with a wheel of everything the daemon needs; None leaves that to the image, or to PyPI at boot.
        packages: A folder with the wheels of the runtime, cloudpickle among them; None leaves it to the image, or to
            PyPI at boot, pinned as ``packer/environment-py*.yml`` has it.

    Raises:
        ConfigError: A wheel cannot be installed on such an instance, or one that is needed is missing.
    """
    files: dict[str, bytes] = {}
    for name in ("cloud-init", "supervisord.conf"):
        files |= dict(_shared(name))
    files["daemon.lock"] = shared_file("packer/daemon.lock").read_bytes()
    for name in ("environment.yml", "environment_wheels.py"):
        source = f"environment-py{python.replace('.', '')}.yml" if name == "environment.yml" else name
        files[name] = shared_file(f"packer/{source}").read_bytes()
    files[f"wren_worker-{VERSION}-py3-none-any.whl"] = own_wheel()
    pip = _pip_wheel()
    if pip is not None:
        files[pip.name] = pip.read_bytes()
    if wheels is not None:
        needed = re.findall(r"^([\w.-]+)==", files["daemon.lock"].decode(), re.MULTILINE)
        files |= _wheels("wheels", wheels, python=python, needed=needed)
    if packages is not None:
        files |= _wheels("packages", packages, python=python, needed=["cloudpickle"])
    data = _pack(files)
    return Archive(data=data, sha256=hashlib.sha256(data).hexdigest())


def own_wheel() -> bytes:
    """Return a wheel of the running package, whether it was installed or is a checkout."""
    files = {f"wren_worker/{name}": data for name, data in _tree(_PACKAGE)}
    for name in ("cloud-init", "supervisord.conf"):
        files |= {f"wren_worker/_files/{path}": data for path, data in _shared(name)}
    info = f"wren_worker-{VERSION}.dist-info"
    files[f"{info}/METADATA"] = _metadata().encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: wren_worker\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{name},{_record_hash(data)},{len(data)}\n" for name, data in sorted(files.items()))
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return target.getvalue()


def _tree(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and path.suffix != ".pyc" and not any(part in _LEFT_OUT for part in relative.parts):
            yield relative.as_posix(), path.read_bytes()


def _shared(name: str) -> Iterator[tuple[str, bytes]]:
    path = shared_file(name)
    if path.is_file():
        yield name, path.read_bytes()
    else:
        yield from ((f"{name}/{relative}", data) for relative, data in _tree(path))


def _metadata() -> str:
    """Return the package's metadata, as far as an instance can want it."""
    lines = ["Metadata-Version: 2.1", "Name: wren-worker", f"Version: {VERSION}"]
    try:
        lines += [f"Requires-Dist: {name}" for name in metadata.requires("wren-worker") or () if "extra" not in name]
    except metadata.PackageNotFoundError:
        pass  # a checkout that was never installed
    return "\n".join(lines) + "\n"


def _record_hash(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def _pip_wheel() -> Path | None:
    """Return the wheel of pip that this Python would put into a new environment."""
    folders = [Path(found) for found in (sysconfig.get_config_var("WHEEL_PKG_DIR"),) if found]
    spec = util.find_spec("ensurepip")
    if spec is not None and spec.origin:
        folders.append(Path(spec.origin).parent / "_bundled")
    found = [wheel for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))]
    return found[0] if found else None


def _wheels(where: str, folder: Path, *, python: str, needed: Iterable[str]) -> dict[str, bytes]:
    found = sorted(folder.glob("*.whl"))
    there = {wheel.name.split("-")[0].replace("_", "-").lower() for wheel in found}
    missing = [name for name in needed if name.replace("_", "-").replace(".", "-").lower() not in there]
    if missing:
        raise ConfigError(
            f"The wheels in {folder} lack {', '.join(missing)}. Fetch them: pip download --only-binary :all: "
            f"--python-version {python} --platform manylinux2014_x86_64 -d {folder} {' '.join(missing)}",
            missing=missing,
        )
    wrong = [wheel.name for wheel in found if not _fits(wheel.stem, python)]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)} cannot be installed under Python {python} on x86_64 Linux.", wrong=wrong)
    return {f"{where}/{wheel.name}": wheel.read_bytes() for wheel in found}


def _fits(stem: str, python: str) -> bool:
    """Return whether a wheel's tags may suit; pip on the instance looks closer."""
    interpreters, abis, platforms = stem.split("-")[-3:]
    major, minor = (int(part) for part in python.split("."))
    if not any(part == "any" or (part.endswith("x86_64") and "linux" in part) for part in platforms.split(".")):
        return False
    for tag in interpreters.split("."):
        match = re.fullmatch(r"(cp|py)(\d)(\d*)", tag)
        if match is None or int(match[2]) != major:
            continue
        exact = match[1] == "cp" and "abi3" not in abis and "none" not in abis
        if not match[3] or (int(match[3]) == minor if exact else int(match[3]) <= minor):
            return True
    return False


def _pack(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    # no name and no time in the header; wheels are compressed already
    with (
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=packed, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()
