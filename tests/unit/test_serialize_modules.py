"""Local modules: found, packed, and importable elsewhere."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import cloudpickle
import pytest

from wren_worker.errors import SerializationError
from wren_worker.protocol import modules
from wren_worker.protocol.modules import LocalModules
from wren_worker.protocol.serialize import dump_call, dump_function

LATIN = "# -*- coding: latin-1 -*-\nNAME = 'é'\nimport wl_far\n".encode("latin-1")


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """A project: a module, a package with data, a namespace package, and things that stay."""
    files = {
        "wl_near.py": b"def near(x):\n    import wl_latin\n    return x\n\nclass Point:\n    pass\n",
        "wl_latin.py": LATIN,
        "wl_far.py": b"",
        "wl_alone.py": b"import json, os, wren_worker, cloudpickle, pytest, wl_nowhere\n",
        "wl_pack/__init__.py": b"",
        "wl_pack/sub/__init__.py": b"from .. import other\nfrom . import leaf\n",
        "wl_pack/sub/leaf.py": b"import wl_far\n",
        "wl_pack/other.py": b"",
        "wl_pack/data.bin": b"\x00\r\n\xff",
        "wl_pack/__pycache__/x.pyc": b"x",
        "wl_pack/.git/config": b"x",
        "wl_pack/venv/pyvenv.cfg": b"x",
        "wl_pack/broken.py": b"def (:\n",
        "wl_space/inner.py": b"from wl_space.deep import more\n",
        "wl_space/deep/more.py": b"VALUE = 5\n",
    }
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    os.symlink("..", tmp_path / "wl_pack" / "loop")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("wl_")]:
        del sys.modules[name]


def names(archive: bytes) -> set[str]:
    return set(zipfile.ZipFile(io.BytesIO(archive)).namelist()) if archive else set()


def test_a_function_of_a_module_takes_it_along_with_what_it_imports(tree):
    import wl_near

    found = LocalModules()
    assert found.mentioned(dump_function(wl_near.near).data) == {"wl_near"}
    archive = found.archive({"wl_near"})
    assert names(archive) == {"wl_near.py", "wl_latin.py", "wl_far.py"}
    assert zipfile.ZipFile(io.BytesIO(archive)).read("wl_latin.py") == LATIN
    assert archive == LocalModules().archive(["wl_near"])


def test_arguments_take_modules_along(tree):
    import wl_near

    assert LocalModules().mentioned(dump_call(([wl_near.Point()],), {})) == {"wl_near"}
    assert LocalModules().mentioned(dump_call(("wl_near",), {})) == set()
    assert LocalModules().mentioned(dump_call((Path("x"),), {})) == set()


def test_imports_inside_lambdas_and_modules_as_globals(tree):
    import wl_pack.sub

    def inside():
        from wl_space import inner

        return inner

    function = dump_function(inside)
    assert {"wl_space", "wl_space.inner"} <= function.imports
    assert names(LocalModules().archive(function.imports)) == {"wl_space/inner.py", "wl_space/deep/more.py"}
    closing = dump_function(lambda: wl_pack.sub)
    assert "wl_pack" in LocalModules().mentioned(closing.data)


def test_a_package_travels_whole(tree):
    assert names(LocalModules().archive(["wl_pack.sub"])) == {
        "wl_pack/__init__.py",
        "wl_pack/sub/__init__.py",
        "wl_pack/sub/leaf.py",
        "wl_pack/other.py",
        "wl_pack/data.bin",
        "wl_pack/broken.py",
        "wl_far.py",
    }


def test_installed_modules_stay(tree):
    assert names(LocalModules().archive(["wl_alone", "json", "pytest", "sys", "wren_worker.errors", "__main__"])) == {
        "wl_alone.py"
    }
    assert LocalModules().archive(["json"]) == b""


def test_exclude_modules(tree):
    found = LocalModules()
    assert names(found.archive(["wl_near"], exclude=["wl_latin"])) == {"wl_near.py"}
    assert "wl_pack/sub/leaf.py" not in names(found.archive(["wl_pack"], exclude=["wl_pack.sub"]))
    assert names(found.archive(["wl_pack"], exclude=["wl_pack"])) == set()


def test_a_module_by_another_name_travels_under_that_name(tree, tmp_path):
    import importlib.util

    spec = importlib.util.spec_from_file_location("wl_renamed", tmp_path / "wl_far.py")
    assert spec is not None
    sys.modules["wl_renamed"] = importlib.util.module_from_spec(spec)
    assert names(LocalModules().archive(["wl_renamed"])) == {"wl_renamed.py"}


def test_too_much_is_refused_and_the_biggest_named(tree, monkeypatch):
    monkeypatch.setattr(modules, "MAX_ARCHIVE_BYTES", 1000)
    (tree / "wl_pack" / "huge.bin").write_bytes(b"x" * 2000)
    with pytest.raises(SerializationError, match=r"wl_pack/huge.bin.*exclude_modules"):
        LocalModules().archive(["wl_pack"])


def test_the_archive_runs_in_another_process(tree, tmp_path):
    import wl_near
    import wl_space.inner

    def f(p):
        import wl_latin

        return wl_near.near(p), wl_latin.NAME, wl_space.inner.more.VALUE

    function = dump_function(f)
    found = LocalModules()
    archive = found.archive(found.mentioned(function.data) | function.imports)
    work = tmp_path / "elsewhere"
    zipfile.ZipFile(io.BytesIO(archive)).extractall(work / "modules")
    (work / "f").write_bytes(function.data)
    # the function itself is a test module's and travels by value in a notebook; here its module does not matter
    program = "import sys, pickle; sys.path.insert(0, sys.argv[2]); print(pickle.load(open(sys.argv[1], 'rb'))(3))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(work / "f"), str(work / "modules")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=work,
        env={"PYTHONUTF8": "1"},
    )
    assert done.stdout.strip() == "(3, 'é', 5)", done.stderr
    assert cloudpickle.loads(pickle.dumps(1)) == 1


def test_a_script_of_another_folder(tree, tmp_path):
    """``__main__`` and its siblings, with the current folder elsewhere."""
    script = tree / "wl_script.py"
    root = Path(modules.__file__).parents[2]
    script.write_text(
        f"import sys; sys.path.append({str(root)!r})\n"
        "import wl_near\n"
        "from wren_worker.protocol.modules import LocalModules\n"
        "from wren_worker.protocol.serialize import dump_function\n"
        "import io, zipfile\n"
        "def f(x): return wl_near.near(x)\n"
        "found, function = LocalModules(), dump_function(f)\n"
        "archive = found.archive(found.mentioned(function.data) | function.imports)\n"
        "print(*sorted(zipfile.ZipFile(io.BytesIO(archive)).namelist()))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, cwd="/", check=False
    )
    assert done.stdout.split() == ["wl_far.py", "wl_latin.py", "wl_near.py"], done.stderr
