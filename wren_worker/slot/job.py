"""The one job a child serves: its local modules as files, its function unpickled once."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Job", "unpack_modules"]


#: A client packs at most 64 MiB; source compresses to a tenth, and an instance's disk is not to be filled by a header.
_MOST_BYTES, _MOST_FILES = 1024**3, 100_000


def unpack_modules(archive: bytes, folder: Path) -> None:
    """Make ``folder`` hold the archive's files; a folder that is there is whole, because it is renamed into place."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unpacking-"))
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        root = partial.resolve()
        # sizes are believed: what unpacks to more than its entry says is cut there, and fails its checksum
        if len(source.infolist()) > _MOST_FILES or sum(info.file_size for info in source.infolist()) > _MOST_BYTES:
            raise ValueError(f"the module archive unpacks to more than {_MOST_BYTES} bytes or {_MOST_FILES} files")
        for name in source.namelist():
            if not (root / name).resolve().is_relative_to(root):
                raise ValueError(f"the module archive names {name!r}, which lies outside it")
        source.extractall(partial)
    try:
        partial.rename(folder)
    except OSError:  # another slot was faster
        shutil.rmtree(partial, ignore_errors=True)


class Job:
    """Loads the function when the first call needs it, so that the call's timeout covers a long import."""

    def __init__(self, header: dict[str, Any], function: bytes, modules: bytes) -> None:
        self.job_id: str = header["job_id"]
        self._env: dict[str, str] = header["env"]
        self._retry_on = frozenset(header["retry_on"])
        self._folder: str = header["modules_folder"]
        self._function_bytes = function
        self._modules = modules
        self._function: Callable[..., Any] | None = None
        self._failure: BaseException | None = None

    def enter(self) -> None:
        """Set the job's environment and module path in this process."""
        os.environ.update(self._env)
        if self._modules:
            unpack_modules(self._modules, Path(self._folder))
            sys.path.insert(0, self._folder)
            with contextlib.suppress(ValueError):
                sys.path.remove("")
        self._modules = b""

    def fail(self, error: BaseException) -> None:
        """Give every call this error: the job could not be set up."""
        self._failure = error

    def retries(self, error: BaseException) -> bool:
        """Return whether the user wants a call that raised this run again, as long as there are retries left."""
        names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
        return not self._retry_on or not self._retry_on.isdisjoint(names)

    def function(self) -> Callable[..., Any]:
        """Return the function.

        Raises:
            Exception: What unpickling it raised; the same for every call.
        """
        if self._failure is not None:
            raise self._failure
        if self._function is None:
            try:
                self._function = pickle.loads(self._function_bytes)
            except BaseException as error:
                self._failure = error
                raise
            self._function_bytes = b""
        return self._function
