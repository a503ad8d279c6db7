#!/usr/bin/env python3
"""What an environment file asks for, as pip requirements: for machines that have no conda. Standard library only.

environment_wheels.py environment-py311.yml      requirements, one a line
environment_wheels.py --explicit report.json     what pip's report says it installed, by name, version and sha256
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

__all__ = ["explicit", "requirements"]

#: conda's own business; everything else has the same name on PyPI
_NOT_ON_PYPI = frozenset({"python", "pip", "libblas", "mkl"})
_DEPENDENCY = re.compile(r"\s+- ([a-z0-9-]+)(?:=([^=\s]+))?(?:=(\S+))?\s*(?:#.*)?")


def requirements(environment: str) -> list[str]:
    """Return pip requirements for an environment file's text.

    Raises:
        ValueError: A line under ``dependencies`` is not ``- name=version``.
    """
    found: list[str] = []
    inside = False
    for line in environment.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not line.startswith(" "):
            inside = line.rstrip() == "dependencies:"
            continue
        if not inside:
            continue
        match = _DEPENDENCY.fullmatch(line)
        if match is None:
            raise ValueError(f"not '- name=version': {line!r}")
        name, version = match.group(1), match.group(2)
        if name not in _NOT_ON_PYPI:
            found.append(f"{name}=={version}" if version else name)
    return found


def explicit(report: str) -> list[str]:
    """Return ``name==version --hash=sha256:...`` for all that a pip report lists, sorted."""
    lines = []
    for item in json.loads(report)["install"]:
        sha256 = item["download_info"]["archive_info"]["hash"].removeprefix("sha256=")
        name = item["metadata"]["name"].lower().replace("_", "-")
        lines.append(f"{name}=={item['metadata']['version']} --hash=sha256:{sha256}")
    return sorted(lines)


def main(arguments: list[str]) -> int:
    """Print the lines and return an exit code."""
    if len(arguments) == 2 and arguments[0] == "--explicit":
        lines = explicit(Path(arguments[1]).read_text(encoding="utf-8"))
    elif len(arguments) == 1:
        lines = requirements(Path(arguments[0]).read_text(encoding="utf-8"))
    else:
        sys.stderr.write(__doc__ or "")
        return 2
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
