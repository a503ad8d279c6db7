"""Local modules: what a function needs that no runtime has installed, packed as files.

A module is local when its file lies neither in the standard library nor in a site-packages or dist-packages folder.
A single module travels as its file, a package as its whole folder, data files included and bytes untouched. Names,
not folders, decide where a file lies in the archive, so ``import name`` works remotely however it was found here.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import io
import os
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from wren_worker.errors import SerializationError
from wren_worker.protocol.regions import without_payloads

__all__ = ["MAX_ARCHIVE_BYTES", "LocalModules"]

#: The archive travels inside the manifest, which every instance loads into memory.
MAX_ARCHIVE_BYTES = 64 * 1024 * 1024

_OWN_PACKAGE = __name__.partition(".")[0]
_INSTALLED = {"site-packages", "dist-packages"}
_SKIPPED_FOLDERS = {"__pycache__", "node_modules"} | _INSTALLED
_EPOCH = (1980, 1, 1, 0, 0, 0)


class LocalModules:
    """Finds and packs local modules. Remembers what it classified; file contents are read anew each time."""

    def __init__(self) -> None:
        paths = sysconfig.get_paths()
        self._stdlib = tuple({os.path.realpath(paths[name]) + os.sep for name in ("stdlib", "platstdlib")})
        self._seen: set[str] = set()
        self._tokens: dict[str, bytes] = {}

    def mentioned(self, data: bytes | memoryview) -> set[str]:
        """Return the names of loaded local modules that a pickle (protocol 4 or later) refers to."""
        # without the opcode STACK_GLOBAL a pickle refers to nothing by name; most arguments end here
        data = bytes(data)
        if b"\x93" not in data or b"\x93" not in (data := without_payloads(data)):
            return set()
        self._classify_loaded()
        return {name for name, token in list(self._tokens.items()) if token in data}

    def archive(self, names: Iterable[str], *, exclude: Iterable[str] = ()) -> bytes:
        """Return a deterministic zip of these modules and the local ones they import; b"" when there are none.

        Args:
            names: Module names as imports spell them; those that are not local are passed over.
            exclude: Modules that stay here, with their submodules.

        Raises:
            SerializationError: The files are larger than MAX_ARCHIVE_BYTES together, or one cannot be read.
        """
        excluded = tuple(exclude)
        files: dict[str, bytes] = {}
        pending, done = list(names), set[str]()
        while pending:
            name = pending.pop()
            if name in done or _is_below(name, excluded):
                continue
            done.add(name)
            for root, path in self._places(name):
                if root in done and root != name:
                    continue
                done.add(root)
                if _is_below(root, excluded):
                    continue
                added = {key: data for key, data in _read(root, path) if not _is_file_below(key, excluded)}
                files |= added
                _check_size(files)
                for key, data in added.items():
                    if key.endswith(".py"):
                        pending += _imports(data, key)
        return _zip(files) if files else b""

    def _classify_loaded(self) -> None:
        for name in sys.modules.keys() - self._seen:
            self._seen.add(name)
            module = sys.modules.get(name)
            if len(name) < 256 and isinstance(module, ModuleType) and self._is_local_module(name, module):
                text = name.encode()
                # SHORT_BINUNICODE, length, text: how pickle spells a short string
                self._tokens[name] = b"\x8c" + bytes([len(text)]) + text if len(text) < 256 else text

    def _is_local_module(self, name: str, module: ModuleType) -> bool:
        if name in ("__main__", "__mp_main__") or _is_below(name, (_OWN_PACKAGE,)):
            return False
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            return self._is_local_path(file)
        return any(self._is_local_path(path) for path in _search_path(module))

    def _is_local_path(self, path: str) -> bool:
        real = os.path.realpath(path)
        return os.path.exists(real) and not real.startswith(self._stdlib) and _INSTALLED.isdisjoint(real.split(os.sep))

    def _places(self, name: str) -> Iterator[tuple[str, Path]]:
        """Yield ``(root name, file or folder)``: the outermost module or regular package that ``name`` lies in."""
        parts = name.split(".")
        if parts[0] in sys.builtin_module_names or _is_below(name, ("__main__", _OWN_PACKAGE)):
            return
        search: list[str] | None = None
        for depth in range(1, len(parts) + 1):
            root = ".".join(parts[:depth])
            origin, search = _find(root, search)
            if origin is not None:
                path = Path(origin)
                if self._is_local_path(origin):
                    yield root, path.parent if path.stem == "__init__" else path
                return
            if not search:
                return


def _is_below(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def _is_file_below(key: str, roots: tuple[str, ...]) -> bool:
    return _is_below(key.partition(".")[0].replace("/", "."), roots)


def _search_path(module: ModuleType) -> list[str]:
    try:
        return [str(entry) for entry in getattr(module, "__path__", ())]
    except Exception:  # noqa: BLE001 - a module may put anything under this name
        return []


def _find(name: str, search: list[str] | None) -> tuple[str | None, list[str] | None]:
    """Return ``(file, None)`` of a module, ``(None, folders)`` of a namespace package, else ``(None, None)``."""
    module = sys.modules.get(name)
    if isinstance(module, ModuleType):
        file = getattr(module, "__file__", None)
        return (file, None) if isinstance(file, str) else (None, _search_path(module) or None)
    if search is not None:
        return _find_below(name, search)
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.has_location and spec.origin:
            return spec.origin, None
        return None, list(spec.submodule_search_locations or ()) or None if spec else None
    except Exception:  # noqa: BLE001 - finders of other people's packages raise what they like
        return None, None


def _find_below(name: str, search: list[str]) -> tuple[str | None, list[str] | None]:
    """As ``_find``, in the folders of a namespace package; ``find_spec`` would import that package."""
    try:
        spec = importlib.machinery.PathFinder.find_spec(name, search)
        if spec is not None and spec.has_location and spec.origin:
            return spec.origin, None
    except KeyError:
        pass  # a namespace package inside one that is not imported
    folders = [os.path.join(entry, name.rpartition(".")[2]) for entry in search]
    return None, [folder for folder in folders if os.path.isdir(folder)] or None


def _read(root: str, path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield ``(path in the archive, bytes)`` of a module's file or of all files of a package's folder."""
    base = root.replace(".", "/")
    try:
        if path.is_dir():
            for file, relative in _walk(path):
                yield f"{base}/{relative}", file.read_bytes()
        else:
            # an extension module keeps its ABI suffix
            yield base + "".join(path.name.partition(".")[1:]), path.read_bytes()
    except OSError as error:
        raise SerializationError(
            f"The local module '{root}' cannot be read from {path}: {error.strerror}. It has to travel with the "
            f"function; make it readable, or keep it here with exclude_modules=['{root}'].",
            module=root,
        ) from error


def _walk(top: Path) -> Iterator[tuple[Path, str]]:
    visited: set[str] = set()
    real_top = os.path.realpath(top)
    for folder, folders, names in os.walk(top, followlinks=True):
        # a link to a folder above would make the walk endless, or take along what is beside the package
        real = os.path.realpath(folder)
        if real in visited or real_top.startswith(real + os.sep):
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(
            name
            for name in folders
            if name not in _SKIPPED_FOLDERS
            and not name.startswith(".")
            and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
        )
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".") and not name.endswith((".pyc", ".pyo")) and file.is_file():
                yield file, file.relative_to(top).as_posix()


def _check_size(files: dict[str, bytes]) -> None:
    total = sum(map(len, files.values()))
    if total <= MAX_ARCHIVE_BYTES:
        return
    sizes: dict[str, int] = {}
    for key, data in files.items():
        part = "/".join(key.split("/")[:2])
        sizes[part] = sizes.get(part, 0) + len(data)
    biggest = sorted(sizes, key=lambda part: -sizes[part])[:5]
    listed = ", ".join(f"{part} ({sizes[part] / 2**20:.1f} MiB)" for part in biggest)
    raise SerializationError(
        f"The local modules that this function needs are {total / 2**20:.0f} MiB, more than the "
        f"{MAX_ARCHIVE_BYTES / 2**20:.0f} MiB that may travel with it. The biggest: {listed}. Move data out of the "
        "package, or keep modules here with exclude_modules=[...].",
        total_bytes=total,
        biggest=biggest,
    )


def _imports(source: bytes, key: str) -> set[str]:
    """Return the absolute names that a source file imports anywhere, relative ones resolved by its own place."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return set()  # it travels all the same; it may be data
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = key.split("/")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            if base:
                names.add(base)
            names.update(f"{base}.{alias.name}" if base else alias.name for alias in node.names if alias.name != "*")
    return names


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for key in sorted(files):
            entry = zipfile.ZipInfo(key, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[key])
    return buffer.getvalue()
