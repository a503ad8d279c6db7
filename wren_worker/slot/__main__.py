"""Starts a slot's keeper: ``<runtime python> -P .../wren_worker/slot/__main__.py <control fd> <daemon pid>``."""

import importlib
import sys
import types
from pathlib import Path


def main() -> None:
    """Make this folder importable as ``_wren.slot`` without running ``wren_worker`` itself, and serve."""
    package = types.ModuleType("_wren")
    package.__path__ = [str(Path(__file__).resolve().parent.parent)]
    sys.modules["_wren"] = package
    keeper = importlib.import_module("_wren.slot.keeper")
    keeper.main(int(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    main()
