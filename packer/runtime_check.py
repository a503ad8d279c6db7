#!/usr/bin/env python3
"""Proves a runtime: run it by the runtime's own interpreter. One JSON line; exit code 0 when all is right, else 1.

    <runtime>/bin/python -I runtime_check.py --blas mkl --python 3.11

--blas says which BLAS is wanted: "mkl" or "openblas" (numpy, scipy and all that load one must have that and no other),
"mkl-library" (an MKL without numpy, called directly), "none" (no numerical packages at all).
Results are held against identities and against sums by math.fsum, never against another BLAS.
The checks run in a process of their own: where MKL lacks a file, it ends the process.
"""

# Imports are what is checked here, whatever they raise is the finding, and the same numbers every time are wanted.
# ruff: noqa: PLC0415, BLE001, S311

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import math
import os
import random
import subprocess
import sys
from array import array
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "numba", "pyarrow", "joblib", "threadpoolctl", "cloudpickle")
_MODULES = {"scikit-learn": "sklearn"}
_TIMEOUT = 300.0


class _Wrong(Exception):
    """One thing that is not as it must be."""


def _require(condition: object, text: str) -> None:
    if not condition:
        raise _Wrong(text)


def _python(wanted: str) -> None:
    found = f"{sys.version_info.major}.{sys.version_info.minor}"
    _require(not wanted or found == wanted, f"Python is {found}, not {wanted}")


def _cloudpickle() -> None:
    import pickle

    import cloudpickle

    offset = 40
    # of this program's __main__, so it travels by value
    function = pickle.loads(cloudpickle.dumps(lambda x: x + offset))
    _require(function(2) == 42, "a function that went through cloudpickle gives something else")


# the MKL library itself, by its C interface


def _library(found: list[str]) -> ctypes.CDLL:
    place = Path(sys.prefix) / "lib"
    files = sorted(place.glob("libmkl_rt.so*"))
    _require(files, f"there is no libmkl_rt in {place}")
    found.append(str(files[-1]))
    return ctypes.CDLL(str(files[-1]))


def _address(data: array[float]) -> ctypes.c_void_p:
    return ctypes.c_void_p(data.buffer_info()[0])


def _dgemm(mkl: ctypes.CDLL) -> None:
    n = 256
    source = random.Random(1)
    a, b = (array("d", [source.uniform(-1, 1) for _ in range(n * n)]) for _ in range(2))
    c = array("d", bytes(8 * n * n))
    one, zero = ctypes.c_double(1), ctypes.c_double(0)
    mkl.cblas_dgemm(101, 111, 111, n, n, n, one, _address(a), n, _address(b), n, zero, _address(c), n)
    for _ in range(200):
        i, j = source.randrange(n), source.randrange(n)
        exact = math.fsum(a[i * n + k] * b[k * n + j] for k in range(n))
        _require(abs(c[i * n + j] - exact) < 1e-11, f"MKL's dgemm is wrong at {i},{j}: {c[i * n + j]!r}, not {exact!r}")


def _dgesdd(mkl: ctypes.CDLL) -> None:
    n = 48
    source = random.Random(2)
    a = array("d", [source.uniform(-1, 1) for _ in range(n * n)])
    work, u, vt = array("d", a), array("d", bytes(8 * n * n)), array("d", bytes(8 * n * n))
    s = array("d", bytes(8 * n))
    code = mkl.LAPACKE_dgesdd(101, ctypes.c_char(b"A"), n, n, *map(_address, (work,)), n,
                              _address(s), _address(u), n, _address(vt), n)  # fmt: skip
    _require(code == 0, f"MKL's dgesdd ended with {code}")
    _require(all(s[i] >= s[i + 1] >= 0 for i in range(n - 1)), "MKL's singular values are not in order")
    for i in range(n):
        for j in range(n):
            back = math.fsum(u[i * n + k] * s[k] * vt[k * n + j] for k in range(n))
            _require(abs(back - a[i * n + j]) < 1e-12 * n, "MKL's SVD does not multiply back")
            unit = math.fsum(u[k * n + i] * u[k * n + j] for k in range(n))
            _require(abs(unit - (i == j)) < 1e-12 * n, "MKL's SVD has a U that is not orthogonal")


def _fft(mkl: ctypes.CDLL) -> None:
    n = 1024
    source = random.Random(3)
    x = array("d", [source.uniform(-1, 1) for _ in range(2 * n)])
    y, back = array("d", bytes(16 * n)), array("d", bytes(16 * n))
    for data, result, sign in ((x, y, -1), (y, back, 1)):
        mkl.fftw_plan_dft_1d.restype = ctypes.c_void_p
        plan = mkl.fftw_plan_dft_1d(n, _address(data), _address(result), sign, 64)  # FFTW_ESTIMATE
        _require(plan, "MKL made no FFT plan")
        mkl.fftw_execute(ctypes.c_void_p(plan))
        mkl.fftw_destroy_plan(ctypes.c_void_p(plan))
    energy, spectrum = math.fsum(v * v for v in x), math.fsum(v * v for v in y)
    _require(abs(spectrum - n * energy) < 1e-9 * n * energy, "MKL's FFT breaks Parseval's identity")
    _require(max(abs(b - n * v) for v, b in zip(x, back, strict=True)) < 1e-10 * n, "MKL's FFT does not go back")
    _require(abs(y[0] - math.fsum(x[::2])) < 1e-10 * n, "the FFT's first term is not the sum")


def _vector(mkl: ctypes.CDLL) -> None:
    n = 5000
    x, y = array("d", [i / 1000 - 2 for i in range(n)]), array("d", bytes(8 * n))
    mkl.vdExp(n, _address(x), _address(y))
    _require(all(abs(v - math.exp(u)) < 1e-14 * v for u, v in zip(x, y, strict=True)), "MKL's vector exp is wrong")


def _mkl_library(facts: dict[str, Any]) -> None:
    found: list[str] = []
    mkl = _library(found)
    for check in (_dgemm, _dgesdd, _fft, _vector):
        check(mkl)
    folders = sorted({os.path.dirname(path) for path in _maps("libmkl_")})
    facts["mkl_files"], facts["mkl_folder"] = _loaded("libmkl_"), folders[0]
    _require(len(folders) == 1, f"MKL is loaded from several folders: {', '.join(folders)}")


# numpy and what stands on it


def _numpy() -> None:
    import numpy as np

    source = np.random.default_rng(4)
    n = 512
    a, b = source.standard_normal((2, n, n))
    c = a @ b
    for i, j in source.integers(0, n, (200, 2)):
        exact = math.fsum(float(x) * float(y) for x, y in zip(a[i], b[:, j], strict=True))
        _require(abs(float(c[i, j]) - exact) < 1e-10, f"numpy's product is wrong at {i},{j}")
    u, s, vt = np.linalg.svd(a[:200, :150], full_matrices=False)
    _require(np.abs((u * s) @ vt - a[:200, :150]).max() < 1e-11, "numpy's SVD does not multiply back")
    _require(np.abs(u.T @ u - np.eye(150)).max() < 1e-11, "numpy's SVD has a U that is not orthogonal")
    x = source.standard_normal(4096)
    y = np.fft.fft(x)
    _require(abs((np.abs(y) ** 2).sum() / (4096 * (x**2).sum()) - 1) < 1e-11, "the FFT breaks Parseval's identity")
    _require(np.abs(np.fft.ifft(y).real - x).max() < 1e-12, "the FFT does not go back")


def _numba() -> None:
    import numba

    @numba.njit
    def squares(n: int) -> int:
        total = 0
        for i in range(n):
            total += i * i
        return total

    _require(squares(1000) == 332833500, "numba's compiled loop gives something else")


def _import_all() -> None:
    """Import what is installed: each may bring a BLAS of its own."""
    import importlib
    import importlib.util

    for name in _versions():
        importlib.import_module(_MODULES.get(name, name))
    for name in ("scipy.linalg", "sklearn.linear_model", "pyarrow.compute"):
        if importlib.util.find_spec(name.partition(".")[0]):
            importlib.import_module(name)


def _one_blas(wanted: str, facts: dict[str, Any]) -> None:
    from threadpoolctl import threadpool_info

    blas = [one for one in threadpool_info() if one["user_api"] == "blas"]
    facts["blas"] = [{key: one.get(key) for key in ("internal_api", "version", "threading_layer")} for one in blas]
    found = sorted({one["internal_api"] for one in blas})
    _require(found == [wanted], f"BLAS is {' and '.join(found) or 'nowhere'}, not {wanted}")
    prefix = os.path.realpath(sys.prefix) + os.sep
    outside = [one["filepath"] for one in blas if not os.path.realpath(one["filepath"]).startswith(prefix)]
    _require(not outside, f"BLAS is not the runtime's own but {', '.join(outside)}")
    if wanted == "mkl":
        facts["mkl_files"] = _loaded("libmkl_")


def _maps(part: str) -> set[str]:
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return {line.split(maxsplit=5)[-1] for line in lines if f"/{part}" in line}


def _loaded(part: str) -> list[str]:
    return sorted(os.path.basename(path) for path in _maps(part))


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _checks(options: argparse.Namespace, facts: dict[str, Any]) -> list[Callable[[], None]]:
    checks: list[Callable[[], None]] = [lambda: _python(options.python)]
    if options.blas == "mkl-library":
        return [*checks, lambda: _mkl_library(facts)]
    checks += [_cloudpickle]
    if options.blas != "none":
        checks += [_import_all, _numpy, lambda: _one_blas(options.blas, facts)]
    if options.blas == "mkl":
        checks += [lambda: _mkl_library(facts)]
    if "numba" in _versions():
        checks += [_numba]
    return checks


def _inside(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the checks found, in the process that may die of them."""
    facts: dict[str, Any] = {"versions": _versions()}
    failures = []
    for check in _checks(options, facts):
        try:
            check()
        except Exception as error:
            failures.append(str(error) if isinstance(error, _Wrong) else f"{type(error).__name__}: {error}")
    return {"ok": not failures, "failures": failures, **facts}


def _outside(arguments: list[str]) -> dict[str, Any]:
    """Return what the process found, or how it ended."""
    command = [sys.executable, "-I", __file__, "--inside", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return {"ok": False, "failures": [f"the checks did not end within {_TIMEOUT:.0f} s"]}
    try:
        report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return report
    except (IndexError, ValueError):
        last = " ".join((done.stdout + done.stderr).split())[-600:]
        return {"ok": False, "failures": [f"the checks' process ended with {done.returncode}: {last}"]}


def main(arguments: list[str]) -> int:
    """Check, print one JSON line, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blas", choices=("mkl", "openblas", "mkl-library", "none"), default="mkl")
    parser.add_argument("--python", default="", help="the Python minor that it must be")
    parser.add_argument("--kind", default="", help="conda, wheels or none: recorded")
    parser.add_argument("--explicit", help="the list of packages whose sha256 is the runtime's name")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        print(json.dumps(_inside(options)))
        return 0
    digest = "none"
    if options.explicit and Path(options.explicit).is_file():
        digest = hashlib.sha256(Path(options.explicit).read_bytes()).hexdigest()
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    report = _outside(arguments)
    print(json.dumps({"digest": digest, "python": minor, "kind": options.kind, **report}))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
