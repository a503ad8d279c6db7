"""Copies into the wheel what lies beside the package: supervisord.conf, cloud-init/, packer/, examples/."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHARED = ("supervisord.conf", "cloud-init", "packer", "examples")


class BuildWithSharedFiles(build_py):
    """Puts the shared files under ``wren_worker/_files``; ``config.shared_file`` finds them in both places."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "wren_worker" / "_files"
        for name in SHARED:
            source = Path(__file__).parent / name
            if source.is_dir():
                shutil.copytree(source, target / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target / name)


setup(cmdclass={"build_py": BuildWithSharedFiles})
