#!/usr/bin/env bash
# The units that run the daemon and end the machine. cloud-init/ owns them; a stock image gets the same by another way.
set -euo pipefail
: "${WREN_FILES:?the uploaded folder}"

bash "$WREN_FILES/cloud-init/install.sh"
