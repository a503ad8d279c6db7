#!/usr/bin/env bash
# The daemon's own environment: its dependencies only, by hash. The launcher's own wheel comes at boot, with --no-deps.
set -euo pipefail
: "${WREN_FILES:?the uploaded folder}"

venv=/opt/wren/venv
python3 -m venv --clear "$venv"
"$venv/bin/python" -m pip --quiet --disable-pip-version-check --no-cache-dir install \
    --no-deps --only-binary :all: --require-hashes -r "$WREN_FILES/packer/daemon.lock"
"$venv/bin/python" -m pip --disable-pip-version-check check
"$venv/bin/python" -c 'import boto3, cloudpickle, cryptography, psutil, supervisor, watchtower'
echo "daemon: $("$venv/bin/python" --version), $(du -sm "$venv" | cut -f1) MB"
