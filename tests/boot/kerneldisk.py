"""The disk of a machine with a kernel: the same Debian, a cloud kernel, the image's own scripts, as one ext4."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import rootfs
from host import SUITES, run, this_python

#: What Debian's own image for EC2 has beyond the base, as far as a boot needs it.
PACKAGES = ("linux-image-cloud-amd64", "initramfs-tools", "zstd", "netplan.io", "e2fsprogs")
#: What cloud-init asks for an address before there is a network.
DHCP = {"bookworm": "isc-dhcp-client", "trixie": "dhcpcd-base"}

_INSTALL = """
mount --bind /proc proc; mount --bind /dev dev; mount -t sysfs none sys; mount -t tmpfs none tmp
cp --remove-destination -L /etc/resolv.conf etc/resolv.conf
printf 'do_symlinks = no\\n' >etc/kernel-img.conf
chroot . env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive sh -ec \
    "apt-get -qq update; apt-get -qq install -y --no-install-recommends $PACKAGES >/dev/null"
chroot . systemctl --quiet enable systemd-networkd.service
printf '/dev/vda / ext4 defaults 0 1\\n' >etc/fstab
rm -rf etc/resolv.conf var/lib/apt/lists/* var/cache/apt/*
"""
_IMAGE = """
cp boot/vmlinuz-* "$FOLDER/vmlinuz"; cp boot/initrd.img-* "$FOLDER/initrd"
mke2fs -q -F -t ext4 -d . "$FOLDER/root.img" "$SIZE"
"""
_SIZE = "3G"


@dataclass(frozen=True)
class KernelDisk:
    """A folder with ``root.img``, sparse, and its kernel and initrd, which qemu loads as GRUB would."""

    folder: Path


def prepare() -> KernelDisk:
    """Make what is not there yet."""
    base, wheels = rootfs.start()
    packages = (*PACKAGES, DHCP[SUITES[this_python()]])
    kernel = rootfs.cached(
        f"kernel-{rootfs.digest(base.name, _INSTALL, *packages)}",
        lambda folder: rootfs.overlay(folder, (base,), _INSTALL, PACKAGES=" ".join(packages)),
    )
    layers = (*rootfs.provision((kernel, base), wheels), kernel, base)
    image = rootfs.cached(
        f"image-{rootfs.digest(*(layer.name for layer in layers), _IMAGE, _SIZE)}",
        lambda folder: _write_image(folder, layers),
    )
    return KernelDisk(image)


def _write_image(folder: Path, layers: tuple[Path, ...]) -> None:
    upper = folder / "upper"  # nothing is written there
    upper.mkdir()
    rootfs.overlay(upper, layers, _IMAGE, FOLDER=str(folder), SIZE=_SIZE)
    upper.rmdir()


def write_files(image: Path, source: Path) -> None:
    """Write a folder's content onto an image's root, root's own, without mounting it."""
    lines = []
    for path in sorted(source.rglob("*")):
        target = f"/{path.relative_to(source)}"
        if path.is_dir():
            lines.append(f"mkdir {target}")  # says so and goes on when it is there
        else:
            mode = f"0100{os.stat(path).st_mode & 0o777:o}"
            lines += [f"rm {target}", f"write {path} {target}", f"sif {target} mode {mode}", f"sif {target} uid 0"]
    run(["debugfs", "-w", "-f", "-", image], input="\n".join(lines) + "\n")


def read_folder(image: Path, source: str, target: Path) -> None:
    """Bring a folder of an image's out."""
    target.mkdir(parents=True, exist_ok=True)
    run(["debugfs", "-R", f"rdump {source} {target}", image])
