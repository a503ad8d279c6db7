#!/usr/bin/env bash
# Last: what belongs to the machine that built, and not to those that boot from the image.
set -euo pipefail

apt-get clean
rm -rf /var/lib/apt/lists/* /var/log/journal/* /var/log/*.gz /root/.cache /root/.conda /root/.condarc /tmp/wren
# instances that share a machine id would share log folders and DHCP leases; host keys are made at first boot
truncate -s 0 /etc/machine-id
rm -f /var/lib/dbus/machine-id /etc/ssh/ssh_host_*
if command -v cloud-init >/dev/null; then
    cloud-init clean --logs
fi
