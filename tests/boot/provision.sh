#!/usr/bin/env bash
# What the image's own scripts will do (packer/scripts); as long as there are none.
set -euo pipefail
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3-venv >/dev/null
python3 -m venv /opt/wren/venv
/opt/wren/venv/bin/pip --quiet --disable-pip-version-check install --no-deps --require-hashes \
    -r "$WREN_FILES/packer/daemon.lock"
bash "$WREN_FILES/cloud-init/install.sh"
