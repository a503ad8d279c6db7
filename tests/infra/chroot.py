"""A Debian of the test's own, entered by ssh on loopback, as packer enters a machine on EC2. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

#: what Debian's image for EC2 has, as far as provisioning meets it
PACKAGES = "ca-certificates,openssh-server,python3,sudo,systemd,systemd-sysv"
USER = "admin"

#: Runs in a namespace of its own: what it mounts goes with it.
ENTER = """
set -eu
root=$1 port=$2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mkdir -p "$root/run/sshd"
exec chroot "$root" /usr/sbin/sshd -D -e -f /dev/null -p "$port" -h /root/test_host_key \
    -o ListenAddress=127.0.0.1 -o UsePAM=no -o StrictModes=no -o PasswordAuthentication=no
"""


def require_root() -> None:
    """Skip on a user's machine; fail where CI ought to be root."""
    if os.geteuid() == 0 and sys.platform == "linux":
        return
    if os.environ.get("CI") == "true":
        pytest.fail("this needs root on Linux, and CI must have it")
    pytest.skip("needs root on Linux")


def make(folder: Path, require_tool: Callable[[str], str]) -> Path:
    """Return the root folder of a fresh Debian 12 with a user who may become root, and ``folder/key`` to enter it."""
    root = folder / "root"
    command = [require_tool("mmdebstrap"), "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm"]
    done = subprocess.run([*command, str(root)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("key", "host_key"):
        keygen = [require_tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(keygen, check=True, timeout=30)
    shutil.copy2(folder / "host_key", root / "root/test_host_key")
    # the way to the registries is this machine's
    for name in ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt", "etc/pip.conf"):
        if Path("/", name).exists():
            shutil.copyfile(Path("/", name), root / name)
    # no password, which is not the same as locked: sshd refuses the locked
    useradd = ["useradd", "--create-home", "--shell", "/bin/bash", "--password", "*", USER]
    subprocess.run(["chroot", root, *useradd], check=True, timeout=30)
    (root / "etc/sudoers.d/90-test").write_text(f"{USER} ALL=(ALL) NOPASSWD:ALL\n", encoding="ascii")
    ssh = root / "home" / USER / ".ssh"
    ssh.mkdir()
    shutil.copyfile(folder / "key.pub", ssh / "authorized_keys")
    return root


def enter(root: Path, port: int) -> list[str]:
    """Return the command that serves ssh to the chroot until it is ended."""
    return ["unshare", "--mount", "sh", "-c", ENTER, "sh", str(root), str(port)]
