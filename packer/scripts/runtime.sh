#!/usr/bin/env bash
# The runtime: the interpreter and packages that calls see, under /opt/wren/runtime. WREN_RUNTIME says from where:
#   conda   conda-forge, BLAS = MKL, any Python of environment-py3*.yml
#   wheels  PyPI, BLAS = OpenBLAS, the base's own Python
#   none    nothing of its own: calls run in the daemon's environment
# /opt/wren/etc/runtime-explicit.txt lists every package by its sha256; the digest of that list is the runtime's name.
set -euo pipefail
: "${WREN_FILES:?the uploaded folder}" "${WREN_PYTHON_MINOR:?3.11 to 3.14}" "${WREN_RUNTIME:?conda, wheels or none}"

# Source: the .sha256 file beside the installer, as several projects that checked it give it, read 2026-11.
miniforge=26.3.2-2
miniforge_url=${WREN_MINIFORGE_URL:-https://github.com/conda-forge/miniforge/releases/download/$miniforge/Miniforge3-$miniforge-Linux-x86_64.sh}
miniforge_sha256=${WREN_MINIFORGE_SHA256:-42260ffe3830fb953d5eee1bbb32229ff06aa7c3833c1ed7a9a0420a95685d94}

runtime=${WREN_RUNTIME_PREFIX:-/opt/wren/runtime}
etc=${WREN_ETC:-/opt/wren/etc}
environment=$WREN_FILES/packer/environment-py${WREN_PYTHON_MINOR/./}.yml
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

die() {
    echo "runtime: $*" >&2
    exit 1
}

from_conda() {
    # beside the runtime: packages are hard links, which need one file system
    local conda
    conda=$(dirname "$runtime")/miniforge
    curl --fail --location --silent --show-error --retry 5 --output "$work/miniforge.sh" "$miniforge_url"
    echo "$miniforge_sha256  $work/miniforge.sh" | sha256sum --check --quiet ||
        die "$miniforge_url is not what was pinned; nothing of it was run"
    rm -rf "$conda" "$runtime"
    bash "$work/miniforge.sh" -b -p "$conda"
    CONDA_ALWAYS_YES=true CONDA_CHANNEL_PRIORITY=strict HOME=$work \
        "$conda/bin/conda" env create --quiet --prefix "$runtime" --file "$environment"
    "$conda/bin/conda" list --prefix "$runtime" --explicit --sha256 >"$work/explicit"
    rm -rf "$conda"
    # the comments of the list carry conda's version
    grep '^http' "$work/explicit" | sort >"$etc/runtime-explicit.txt"
    grep -q '/mkl-[0-9]' "$etc/runtime-explicit.txt" || die "the environment has no MKL"
    ! grep -E '/(nomkl|openblas|libopenblas)-' "$etc/runtime-explicit.txt" || die "the environment has another BLAS"
}

from_wheels() {
    local found
    found=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    [ "$found" = "$WREN_PYTHON_MINOR" ] ||
        die "the base has Python $found; wheels need a base with $WREN_PYTHON_MINOR, conda does not"
    python3 "$WREN_FILES/packer/environment_wheels.py" "$environment" >"$work/requirements.txt"
    rm -rf "$runtime"
    python3 -m venv "$runtime"
    "$runtime/bin/python" -m pip --quiet --disable-pip-version-check --no-cache-dir install \
        --only-binary :all: --report "$work/report.json" -r "$work/requirements.txt"
    "$runtime/bin/python" -m pip --disable-pip-version-check check
    python3 "$WREN_FILES/packer/environment_wheels.py" --explicit "$work/report.json" >"$etc/runtime-explicit.txt"
}

mkdir -p "$etc"
rm -f "$etc/runtime-explicit.txt"
case $WREN_RUNTIME in
conda) from_conda ;;
wheels) from_wheels ;;
none)
    rm -rf "$runtime"
    ln -s venv "$runtime"
    echo "runtime: the daemon's environment, as asked"
    exit 0
    ;;
*) die "WREN_RUNTIME=$WREN_RUNTIME is none of conda, wheels, none" ;;
esac
if [ "$WREN_RUNTIME" = conda ] && [ "${WREN_SLIM:-true}" = true ]; then
    bash "$WREN_FILES/packer/scripts/slim-mkl.sh" "$runtime/lib"
fi
chmod -R go+rX "$runtime"
echo "runtime: $(wc -l <"$etc/runtime-explicit.txt") packages, $(du -sm "$runtime" | cut -f1) MB," \
    "sha256 $(sha256sum "$etc/runtime-explicit.txt" | cut -c1-16)"
