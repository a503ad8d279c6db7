"""The check that an image must pass, against a real MKL, a real OpenBLAS, and the slimming of the former."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import wren_worker

PACKER = Path(wren_worker.__file__).parents[1] / "packer"
CHECK = PACKER / "runtime_check.py"
SLIM = PACKER / "scripts/slim-mkl.sh"

#: Everything that MKL 2026.2 has, by the name of its file.
PARTS = (
    *("rt", "core", "intel_lp64", "intel_ilp64", "intel_thread", "sequential", "gnu_thread", "tbb_thread"),
    *("def", "mc3", "avx2", "avx512", "avx10", "vml_def", "vml_mc3", "vml_avx2", "vml_avx512", "vml_avx10", "vml_cmpt"),
    *("scalapack_lp64", "scalapack_ilp64", "blacs_openmpi_lp64", "cdft_core"),
)
KEPT = {
    *("rt", "core", "intel_lp64", "intel_thread", "sequential", "def", "avx2", "avx512", "avx10"),
    *("vml_def", "vml_avx2", "vml_avx512", "vml_avx10"),
}


def environment(folder, *packages):
    """Return the Python of a fresh environment with these packages and nothing that they ask for."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=60)
    python = folder / "bin/python"
    command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    command += ["--only-binary", ":all:", *packages]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return python


def check(python, *arguments):
    command = [str(python), "-I", str(CHECK), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    [line] = done.stdout.splitlines()
    report = json.loads(line)
    assert done.returncode == (0 if report["ok"] else 1), done.stderr
    return report


def slim(folder):
    return subprocess.run(["bash", str(SLIM), str(folder)], capture_output=True, text=True, timeout=60, check=False)


# --- the rule of slimming, on empty files


@pytest.fixture
def library(tmp_path):
    """Return a folder with a file of ten bytes for every part, and the neighbours that it has in an environment."""
    folder = tmp_path / "lib"
    folder.mkdir()
    for part in PARTS:
        (folder / f"libmkl_{part}.so.3").write_bytes(b"x" * 10)
    for name in ("libomptarget.so", "libur_loader.so.0.12.0", "libiomp5.so", "libmkl_rt_fake.txt", "libstdc++.so.6"):
        (folder / name).write_bytes(b"x" * 10)
    (folder / "libmkl_rt.so").symlink_to("libmkl_rt.so.3")
    return folder


def test_slimming_keeps_what_some_instance_loads_and_nothing_else_of_mkl(library):
    done = slim(library)
    assert done.returncode == 0, done.stderr
    left = {path.name for path in library.iterdir()}
    mkl = {f"libmkl_{part}.so.3" for part in KEPT} | {"libmkl_rt.so"}
    assert left == mkl | {"libiomp5.so", "libmkl_rt_fake.txt", "libstdc++.so.6"}


def test_slimming_tells_the_bytes(library):
    done = slim(library)
    # the link counts as the 14 bytes of its target's name
    before, after = 10 * (len(PARTS) + 2) + 14, 10 * len(KEPT) + 14
    assert f"before {len(PARTS) + 3} files {before} bytes, after {len(KEPT) + 1} files {after} bytes" in done.stdout
    again = slim(library)
    assert f"before {len(KEPT) + 1} files {after} bytes, after {len(KEPT) + 1} files {after} bytes" in again.stdout


@pytest.mark.parametrize("part", ["rt", "core", "def", "vml_def", "avx2", "avx512"])
def test_slimming_touches_nothing_where_a_part_is_missing(library, part):
    (library / f"libmkl_{part}.so.3").unlink()
    if part == "rt":
        (library / "libmkl_rt.so").unlink()
    before = sorted(path.name for path in library.iterdir())
    done = slim(library)
    assert done.returncode == 1
    assert f"libmkl_{part}" in done.stderr
    assert sorted(path.name for path in library.iterdir()) == before


# --- OpenBLAS, which is what numpy's own wheels bring


@pytest.fixture(scope="module")
def openblas(tmp_path_factory):
    versions = dict(
        line.strip().removeprefix("- ").split("=", 1)
        for line in (PACKER / "environment-py311.yml").read_text(encoding="utf-8").splitlines()
        if line.startswith("  - ") and "=" in line
    )
    names = ("numpy", "threadpoolctl", "cloudpickle")
    return environment(tmp_path_factory.mktemp("openblas"), *(f"{name}=={versions[name]}" for name in names))


def test_openblas_is_refused_where_mkl_is_wanted(openblas):
    report = check(openblas, "--blas", "mkl")
    assert "BLAS is openblas, not mkl" in report["failures"]


def test_openblas_passes_where_it_is_wanted(openblas):
    report = check(openblas, "--blas", "openblas", "--python", f"3.{sys.version_info.minor}")
    assert report["ok"], report["failures"]
    assert report["versions"]["numpy"]


def test_another_python_is_refused(openblas):
    assert check(openblas, "--blas", "openblas", "--python", "3.9")["failures"] == [
        f"Python is 3.{sys.version_info.minor}, not 3.9"
    ]


def test_wrong_numbers_are_refused(openblas, tmp_path):
    """A BLAS that is fast and wrong: numpy's product is replaced by one that is off in one place."""
    text = CHECK.read_text(encoding="utf-8")
    broken = text.replace("    c = a @ b\n", "    c = a @ b + np.eye(n)[::-1].cumsum(0) * 1e-6\n")
    assert broken != text
    (tmp_path / "check.py").write_text(broken, encoding="utf-8")
    command = [str(openblas), "-I", str(tmp_path / "check.py"), "--blas", "openblas"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "numpy's product is wrong" in done.stdout


def test_a_runtime_without_cloudpickle_is_refused(openblas):
    subprocess.run([openblas, "-m", "pip", "-q", "uninstall", "-y", "cloudpickle"], check=True, timeout=60)
    try:
        [failure] = check(openblas, "--blas", "openblas")["failures"]
        assert "No module named 'cloudpickle'" in failure
    finally:
        command = [openblas, "-m", "pip", "-q", "--disable-pip-version-check", "install", "cloudpickle"]
        subprocess.run(command, check=True, timeout=120)


# --- MKL itself


@pytest.fixture(scope="module")
def mkl(tmp_path_factory):
    return environment(tmp_path_factory.mktemp("mkl"), "mkl==2026.2.0", "intel-openmp==2026.2.0")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_real_mkl_is_right_before_and_after_slimming_and_missed_when_it_is_gone(mkl, require_tool):
    whole = check(mkl, "--blas", "mkl-library")
    assert whole["ok"], whole["failures"]
    library = mkl.parents[1] / "lib"
    done = slim(library)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    slimmed = check(mkl, "--blas", "mkl-library")
    assert slimmed["ok"], slimmed["failures"]
    assert slimmed["mkl_files"] == whole["mkl_files"], "slimming changed what this processor runs"

    # another processor: an Intel of 2013, emulated. The files it loads are right too.
    command = [require_tool("qemu-x86_64"), "-cpu", "Haswell", str(mkl), "-I", str(CHECK), "--inside"]
    done = subprocess.run([*command, "--blas", "mkl-library"], capture_output=True, text=True, timeout=120, check=False)
    haswell = json.loads(done.stdout.splitlines()[-1])
    assert haswell["ok"], haswell["failures"]
    assert haswell["mkl_folder"] == str(library)
    assert {"libmkl_avx2.so.3", "libmkl_vml_avx2.so.3"} <= set(haswell["mkl_files"])

    # without its own kernels and the fallback MKL ends the process that asked; the check lives to tell
    for part in ("def", "avx2", "avx512", "avx10"):
        (library / f"libmkl_{part}.so.3").unlink()
    gone = check(mkl, "--blas", "mkl-library")
    assert not gone["ok"]
    assert "libmkl_def.so.3" in gone["failures"][0]
