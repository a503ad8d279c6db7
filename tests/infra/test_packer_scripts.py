"""The image's scripts, environments and pins; conda's channels are out of reach, so a stand-in answers for conda."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import wren_worker
from wren_worker.fleet.image import pythons

ROOT = Path(wren_worker.__file__).parents[1]
PACKER = ROOT / "packer"
SCRIPTS = sorted((PACKER / "scripts").glob("*.sh"))


def test_shellcheck_finds_nothing():
    assert len(SCRIPTS) >= 7
    command = [Path(sys.executable).with_name("shellcheck"), "--severity=style", *SCRIPTS]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_stop_at_the_first_error(script):
    assert "\nset -euo pipefail\n" in script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)


def wheels(*arguments):
    command = [sys.executable, str(PACKER / "environment_wheels.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("python", pythons())
def test_environments_are_pinned_and_have_mkl_and_no_other_blas(python):
    path = PACKER / f"environment-py{python.replace('.', '')}.yml"
    lines = path.read_text(encoding="utf-8").splitlines()
    entries = [line.strip().removeprefix("- ").split()[0] for line in lines if line.startswith("  - ")]
    assert entries[:4] == ["conda-forge", "nodefaults", f"python={python}", "libblas=*=*mkl"]
    assert not any("openblas" in entry or entry.startswith("nomkl") for entry in entries)
    done = wheels(path)
    required = dict(line.split("==") for line in done.stdout.splitlines())
    assert set(required) == {
        *("numpy", "scipy", "pandas", "scikit-learn", "numba", "pyarrow", "joblib", "threadpoolctl", "cloudpickle")
    }
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in required.values())


def test_cloudpickle_is_one_on_both_sides():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    ours = re.search(r"^cloudpickle==(\S+)$", text, re.M).group(1)
    for path in PACKER.glob("environment-*.yml"):
        assert f"- cloudpickle={ours}\n" in path.read_text(encoding="utf-8"), path.name


def test_a_line_that_is_no_pin_is_refused(tmp_path):
    (tmp_path / "e.yml").write_text("dependencies:\n  - numpy=1.0\n  - pip:\n      - thing\n", encoding="utf-8")
    done = wheels(tmp_path / "e.yml")
    assert done.returncode != 0
    assert "- pip:" in done.stderr


def test_the_daemon_s_lock_is_what_constraints_pin():
    text = (PACKER / "daemon.lock").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.M))
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {name.lower().replace("_", "-"): version for name, _, version in (line.partition("==") for line in lines)}
    assert {"boto3", "cloudpickle", "cryptography", "psutil", "supervisor", "watchtower"} <= set(locked)
    assert locked == {name: pinned[name] for name in locked}, "run packer/make_daemon_lock.py"
    assert all("--hash=sha256:" in part for part in re.split(r"^(?=\w)", text, flags=re.M)[1:])


# --- conda: its channels are out of reach here, so a stand-in that answers as conda does

STAND_IN = """
prefix=$3
mkdir -p "$prefix/bin"
cat >"$prefix/bin/conda" <<'END'
#!/bin/sh
case "$1 $2" in
"env create") mkdir -p "$5/lib" && cp "$7" "$5/environment.yml" ;;
list*) printf '# conda 1\\n@EXPLICIT\\n%s\\n' LISTED ;;
esac
END
chmod +x "$prefix/bin/conda"
"""
MKL = "https://c/linux-64/mkl-2026.0.0-h1_0.conda#aa"
NUMPY = "https://c/linux-64/numpy-2.4.6-py311_0.conda#bb"


def provision_conda(tmp_path, require_tool, listed, *, sha256=""):
    require_tool("curl")
    installer = tmp_path / "installer.sh"
    installer.write_text(STAND_IN.replace("LISTED", " ".join(listed)), encoding="utf-8")
    environ = {
        "PATH": os.environ["PATH"],
        "WREN_FILES": str(ROOT),
        "WREN_PYTHON_MINOR": "3.11",
        "WREN_RUNTIME": "conda",
        "WREN_SLIM": "false",
        "WREN_RUNTIME_PREFIX": str(tmp_path / "wren/runtime"),
        "WREN_ETC": str(tmp_path / "etc"),
        "WREN_MINIFORGE_URL": installer.as_uri(),
        "WREN_MINIFORGE_SHA256": sha256 or hashlib.sha256(installer.read_bytes()).hexdigest(),
    }
    command = ["bash", str(PACKER / "scripts/runtime.sh")]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_the_runtime_is_listed_by_hash_without_what_changes_from_day_to_day(tmp_path, require_tool):
    done = provision_conda(tmp_path, require_tool, [NUMPY, MKL])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "etc/runtime-explicit.txt").read_text(encoding="utf-8") == f"{MKL}\n{NUMPY}\n"
    assert (
        (tmp_path / "wren/runtime/environment.yml")
        .read_text(encoding="utf-8")
        .startswith("# The runtime of Python 3.11")
    )
    assert not (tmp_path / "wren/miniforge").exists()


def test_an_installer_that_is_not_the_pinned_one_is_not_run(tmp_path, require_tool):
    done = provision_conda(tmp_path, require_tool, [MKL], sha256="0" * 64)
    assert done.returncode == 1
    assert "not what was pinned" in done.stderr
    assert not (tmp_path / "wren").exists()


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        ([NUMPY], "no MKL"),
        ([MKL, "https://c/noarch/nomkl-1.0-h5_0.tar.bz2#cc"], "another BLAS"),
        ([MKL, "https://c/linux-64/libopenblas-0.3-p_0.conda#cc"], "another BLAS"),
    ],
)
def test_an_environment_with_another_blas_makes_no_image(tmp_path, require_tool, listed, told):
    done = provision_conda(tmp_path, require_tool, listed)
    assert done.returncode == 1
    assert told in done.stderr
