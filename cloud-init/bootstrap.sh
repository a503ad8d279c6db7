#!/usr/bin/env bash
# What user-data runs out of the unpacked archive: brings a machine to where a baked image is, plus the launcher's wheel.
# Above it lie the launcher's own wheel, supervisord.conf, daemon.lock, environment.yml (the runtime's packages), a wheel of
# pip and, where PyPI is out of reach, wheels/ (the daemon's environment) and packages/ (the runtime's).
set -euo pipefail
archive=$(cd "$(dirname "$0")/.." && pwd)
venv=/opt/wren/venv
runtime=/opt/wren/runtime

say() {
    echo "wren: bootstrap: $*"
}

pip() { # pip PYTHON ARGUMENTS...: the archive's pip, which need not be installed to run
    local python=$1 wheel
    shift
    wheel=$(echo "$archive"/pip-*.whl)
    if [ ! -f "$wheel" ]; then
        "$python" -m pip "$@"
        return
    fi
    PYTHONPATH=$wheel "$python" -m pip --quiet --disable-pip-version-check --no-cache-dir "$@"
}

new_environment() { # with a pip of its own only where the archive has none
    local option=--without-pip
    if [ -z "$(compgen -G "$archive/pip-*.whl")" ]; then
        apt-get -qq update && apt-get -qq install -y --no-install-recommends python3-venv
        option=--upgrade-deps
    fi
    python3 -m venv "$option" "$1"
}

fresh=
[ -x "$venv/bin/python" ] || { fresh=yes && new_environment "$venv"; }
bash "$archive/cloud-init/install.sh"
# from here on the dead-man watches, and the deadline of user-data has done its part
systemctl start wren-deadman.timer
systemctl stop wren-boot-deadline.timer 2>/dev/null || true

if [ -d "$archive/wheels" ]; then
    say "the daemon's environment from the archive's wheels"
    pip "$venv/bin/python" install --no-index --no-deps --no-compile "$archive"/wheels/*.whl
elif [ -n "$fresh" ]; then
    say "the daemon's environment from PyPI, pinned by hash"
    pip "$venv/bin/python" install --no-deps --no-compile --only-binary :all: --require-hashes -r "$archive/daemon.lock"
fi
# pure Python and complete, so unpacking it is installing it; pip would take a second of every boot
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$site"/wren_worker "$site"/wren_worker-*.dist-info
"$venv/bin/python" -m zipfile -e "$archive"/wren_worker-*.whl "$site"

if [ -d "$archive/packages" ] && [ ! -x "$runtime/bin/python" ]; then
    say "the runtime from the archive's wheels"
    new_environment "$runtime"
    pip "$runtime/bin/python" install --no-index --no-deps --no-compile "$archive"/packages/*.whl
    chmod -R go+rX "$runtime"
elif [ ! -d "$archive/wheels" ] && [ ! -x "$runtime/bin/python" ]; then
    say "the runtime from PyPI, pinned by version"
    python3 "$archive/environment_wheels.py" "$archive/environment.yml" >"$archive/requirements.txt"
    new_environment "$runtime"
    pip "$runtime/bin/python" install --no-compile --only-binary :all: -r "$archive/requirements.txt"
    chmod -R go+rX "$runtime"
fi
say "done after $(cut -d' ' -f1 /proc/uptime) s"
