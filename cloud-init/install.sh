#!/usr/bin/env bash
# install.sh [ROOT]: places the units, their scripts and supervisord.conf onto a machine, or onto a root folder.
# Run by the image's build, by the bootstrap of a stock image and by the boot drill; running it again changes nothing.
# Beside it lie units/ and etc/, above it supervisord.conf. Serves Debian 12 and Ubuntu 24.04.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=${1:-}
root=${root%/}
lib=$root/opt/wren/lib
system=$root/etc/systemd/system

place() { # place SOURCE TARGET
    install -D -m 0644 "$1" "$2"
}

enable() { # enable UNIT TARGET: what systemctl enable does, and it also works on a folder
    install -d "$system/$2.wants"
    ln -sfn "../$1" "$system/$2.wants/$1"
}

install -d -m 0755 "$root/opt/wren" "$lib" "$root/etc/wren" "$root/var/log/wren" "$root/var/lib/wren"
place "$here/deadman.py" "$lib/deadman.py"
place "$here/lastwords.py" "$lib/lastwords.py"
place "$here/nudge.py" "$lib/nudge.py"
place "$here/../supervisord.conf" "$lib/supervisord.conf"

for unit in "$here"/units/wren-*; do
    place "$unit" "$system/${unit##*/}"
done
# the last two are cloud-init's names from 24.3 on; a drop-in of a unit that is not there does nothing
for unit in cloud-init-local cloud-init cloud-config cloud-final cloud-init-main cloud-init-network; do
    place "$here/units/on-failure.conf" "$system/$unit.service.d/50-wren.conf"
done
place "$here/units/poweroff.conf" "$system/poweroff.target.d/50-wren.conf"
place "$here/etc/90_wren.cfg" "$root/etc/cloud/cloud.cfg.d/90_wren.cfg"
place "$here/etc/journald.conf" "$root/etc/systemd/journald.conf.d/50-wren.conf"
place "$here/etc/system.conf" "$root/etc/systemd/system.conf.d/50-wren.conf"
place "$here/etc/sysctl.conf" "$root/etc/sysctl.d/90-wren.conf"

# the supervisord unit is started by user-data, when there is something to run
enable wren-deadman.timer sysinit.target
enable wren-lastwords.service multi-user.target
enable wren-bootlog.service cloud-init.target
enable wren-checkin.service cloud-init.target

# where supervisord's listener finds its script: the package of whatever Python the environment has
for package in "$root"/opt/wren/venv/lib/python3.*/site-packages; do
    [ -d "$package" ] && ln -sfn "${package#"$root"}/wren_worker" "$root/opt/wren/package"
done

if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    sysctl --quiet --load=/etc/sysctl.d/90-wren.conf || true
    systemctl daemon-reload
fi
