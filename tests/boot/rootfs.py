"""The disks: a stock Debian, the same provisioned by the project's own scripts, and the launcher's wheel on top.

They are overlay layers in a cache folder, named after what they were made of.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from host import ROOT, SUITES, run, this_python

from wren_worker.fleet import bootstrap

#: What the stock image has; no venv, as Debian's own cloud images have none.
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "cloud-init", "python3", "iproute2", "ca-certificates", "netbase"),
    *("procps", "kmod"),
)
_UNWANTED = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")


@dataclass(frozen=True)
class Disks:
    """Layers, topmost first, as overlayfs wants them."""

    stock: tuple[Path, ...]
    baked: tuple[Path, ...]  # dependencies and units, no wheel of ours
    complete: tuple[Path, ...]
    wheels: Path


def cache_folder() -> Path:
    return Path(os.environ.get("WREN_DRILL_CACHE") or "/var/tmp/wren-drill")


def digest(*parts: str | bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else part)
    return found.hexdigest()[:12]


def _content(*paths: Path) -> bytes:
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return b"".join(file.read_bytes() for file in files if file.is_file() and "__pycache__" not in file.parts)


def prepare() -> Disks:
    """Make what is not there yet."""
    base, wheels = start()
    top, baked = provision((base,), wheels)
    return Disks(stock=(base,), baked=(baked, base), complete=(top, baked, base), wheels=wheels)


def start() -> tuple[Path, Path]:
    """Return the stock Debian and the folder of the daemon's wheels."""
    suite = SUITES[this_python()]
    base = cached(f"base-{digest(suite, *PACKAGES)}", lambda folder: _debootstrap(suite, folder))
    lock = ROOT / "packer" / "daemon.lock"
    wheels = cached(f"wheels-{digest(this_python(), lock.read_bytes())}", lambda folder: _download(lock, folder))
    return base, wheels


def provision(base: tuple[Path, ...], wheels: Path) -> tuple[Path, Path]:
    """Return two layers for a base: the launcher's wheel, and beneath it what the image's scripts installed."""
    sources = _content(ROOT / "cloud-init", ROOT / "packer", ROOT / "supervisord.conf")
    names = [layer.name for layer in (*base, wheels)]
    baked = cached(
        f"baked-{digest(*names, sources, Path(__file__).read_bytes())}",
        lambda folder: _provision(base, folder, wheels),
    )
    wheel = bootstrap.own_wheel()
    top = cached(f"wheel-{digest(baked.name, wheel)}", lambda folder: _install_wheel(folder, (baked, *base), wheel))
    return top, baked


def cached(name: str, fill: Callable[[Path], None]) -> Path:
    """Return the folder of this name in the cache; fill it when it is not there yet."""
    folder = cache_folder() / name
    if not folder.exists():
        cache_folder().mkdir(parents=True, exist_ok=True)
        _make(folder, fill)
    return folder


def _make(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder and only then give it its name, so that what was broken off is not taken for whole."""
    half = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    print(f"drill: making {folder.name}", flush=True)
    try:
        fill(half)
        half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _debootstrap(suite: str, folder: Path) -> None:
    unwanted = [f"--dpkgopt=path-exclude={path}" for path in _UNWANTED]
    options = ["--variant=minbase", '--aptopt=APT::Install-Recommends "false"', *unwanted]
    run(["mmdebstrap", "--quiet", *options, f"--include={','.join(PACKAGES)}", suite, folder])


def _download(lock: Path, folder: Path) -> None:
    target = ["--python-version", this_python(), "--platform", "manylinux2014_x86_64"]
    target += ["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_34_x86_64"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run([*pip, "--only-binary", ":all:", "--require-hashes", *target, "-d", folder, "-r", lock])


def overlay(upper: Path, lower: tuple[Path, ...], script: str, **environ: str) -> None:
    """Run a script in a private mount namespace with the layers mounted at $ROOT."""
    work = upper.with_name(f"{upper.name}.work")
    work.mkdir(exist_ok=True)
    layers = ":".join(map(str, lower))
    mount = f'mount -t overlay -o "lowerdir={layers},upperdir={upper},workdir={work}" none "$ROOT"'
    text = f'set -euo pipefail\nROOT="{work}.root"\nmkdir -p "$ROOT"\n{mount}\ncd "$ROOT"\n{script}'
    try:
        run(
            ["unshare", "-m", "--propagation", "private", "bash", "-c", text],
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **environ},
        )
    finally:
        subprocess.run(["rm", "-rf", str(work), f"{work}.root"], check=False)


#: As packer would: the files to one place, then the scripts, as root. pip finds wheels in a folder, and no registry.
_PROVISION = """
mount --bind /proc proc; mount --bind /dev dev; mount -t tmpfs none tmp
mkdir -p tmp/wren tmp/wheels
cp -r $FILES/cloud-init $FILES/packer $FILES/supervisord.conf tmp/wren/
mount --bind $WHEELS tmp/wheels
rm -f etc/resolv.conf; cp -L /etc/resolv.conf etc/resolv.conf
for script in $SCRIPTS; do
    chroot . env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 WREN_FILES=/tmp/wren \
        WREN_RUNTIME=none WREN_PYTHON_MINOR=$PYTHON PIP_NO_INDEX=1 PIP_FIND_LINKS=/tmp/wheels bash "$script"
done
rm -rf etc/resolv.conf var/lib/apt/lists/* var/cache/apt/*
"""


def _provision(base: tuple[Path, ...], folder: Path, wheels: Path) -> None:
    python = this_python()
    scripts = [f"/tmp/wren/packer/scripts/{name}.sh" for name in ("base", "daemon", "runtime", "units", "record")]
    overlay(folder, base, _PROVISION, FILES=str(ROOT), WHEELS=str(wheels), SCRIPTS=" ".join(scripts), PYTHON=python)


def _install_wheel(folder: Path, lower: tuple[Path, ...], wheel: bytes) -> None:
    site = Path("opt/wren/venv/lib") / f"python{this_python()}" / "site-packages"
    (folder / site).mkdir(parents=True)
    path = folder / "own.whl"
    path.write_bytes(wheel)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / site)
    path.unlink()
    compiling = f"chroot . opt/wren/venv/bin/python -m compileall -q /{site}/wren_worker"
    overlay(folder, lower, compiling)
