#!/usr/bin/env bash
# Proves the runtime and records what it is, in /opt/wren/etc/runtime.json. A runtime that fails makes no image.
set -euo pipefail
: "${WREN_FILES:?the uploaded folder}" "${WREN_RUNTIME:?conda, wheels or none}" "${WREN_PYTHON_MINOR:?3.11 to 3.14}"

etc=/opt/wren/etc
case $WREN_RUNTIME in
conda) blas=mkl ;;
wheels) blas=openblas ;;
none) blas=none ;;
*) echo "record: WREN_RUNTIME=$WREN_RUNTIME is none of conda, wheels, none" >&2 && exit 1 ;;
esac

rm -f "$etc/runtime.json"
install -m 0644 "$WREN_FILES/packer/runtime_check.py" "$etc/runtime_check.py"
# -I: nothing of this machine's environment gets in
/opt/wren/runtime/bin/python -I "$etc/runtime_check.py" --blas "$blas" --python "$WREN_PYTHON_MINOR" \
    --kind "$WREN_RUNTIME" --explicit "$etc/runtime-explicit.txt" >"$etc/runtime.json.new" ||
    { cat "$etc/runtime.json.new" && rm -f "$etc/runtime.json.new" && exit 1; }
mv "$etc/runtime.json.new" "$etc/runtime.json"
chmod 0644 "$etc"/*
cat "$etc/runtime.json"
