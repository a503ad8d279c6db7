#!/usr/bin/env bash
# What the base image lacks: packages, folders, the user. Serves Debian 12 and Ubuntu 24.04.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

[ "$(uname -m)" = x86_64 ] || { echo "this image is for x86_64 only: MKL has no other" >&2; exit 1; }

# a machine that has just booted is still being set up, and holds apt's lock while it is
if [ -d /run/systemd/system ] && command -v cloud-init >/dev/null; then
    cloud-init status --wait >/dev/null || true
fi

apt-get -o DPkg::Lock::Timeout=300 update -qq
apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends ca-certificates curl python3-venv >/dev/null

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "the base has $(python3 --version); the daemon needs 3.11 or newer" >&2; exit 1; }

# An instance lives for hours: updates come with the next image. Apt's timers would take a core and its lock at boot.
for unit in apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service man-db.timer; do
    ln -sfn /dev/null "/etc/systemd/system/$unit"
done

# everything under /opt/wren is readable for all: slots may run as a user of their own
install -d -m 0755 /opt/wren /opt/wren/etc
getent passwd wren >/dev/null ||
    useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin wren
