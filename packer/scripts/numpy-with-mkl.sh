#!/usr/bin/env bash
# numpy-with-mkl.sh FOLDER: a Python environment whose numpy is built against MKL from the package registry, for trying
# runtime_check.py and slim-mkl.sh where conda's channels are out of reach. Run by hand: it takes some seven minutes and
# needs a C and a C++ compiler and pkg-config. No part of an image.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:?where to make it}

python3 -m venv "$folder"
folder=$(cd "$folder" && pwd)
pip=("$folder/bin/python" -m pip --quiet --disable-pip-version-check install)
"${pip[@]}" mkl==2026.2.0 mkl-devel==2026.2.0 threadpoolctl==3.8.0 cloudpickle==3.1.2
PKG_CONFIG_PATH=$folder/lib/pkgconfig nice "${pip[@]}" --no-binary numpy --no-cache-dir numpy==2.4.6 \
    -Csetup-args=-Dblas=mkl-sdl -Csetup-args=-Dlapack=mkl-sdl
"$folder/bin/python" -I "$here/runtime_check.py" --blas mkl
bash "$here/scripts/slim-mkl.sh" "$folder/lib"
"$folder/bin/python" -I "$here/runtime_check.py" --blas mkl
