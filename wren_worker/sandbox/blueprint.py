"""What the hypervisor tells a local instance's machine, as one JSON file. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["CUT", "POWERED_OFF", "Blueprint"]

#: Exit codes of a machine: it powered itself off, or it was cut off from outside. Anything else is a fault of ours.
POWERED_OFF = 64
CUT = 65


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """One local instance. Paths are absolute; ``run_dir`` is a short alias, since socket paths are bounded."""

    instance_id: str
    folder: str
    run_dir: str
    sandbox_pid: int
    python: str
    supervisord_conf: str
    deadman: str
    environment: Mapping[str, str]
    stop_timeout: float = 3.0  # seconds between TERM and KILL of supervisord at power-off
    restart_interval: float = 0.2  # seconds before supervisord is started again
    restart_limit: int = 5  # starts after the first; then the machine powers off

    def save(self) -> Path:
        """Write the file into the instance's folder and return its path."""
        path = Path(self.folder) / "machine.json"
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        return path

    @staticmethod
    def load(folder: Path) -> Blueprint:
        """Read what ``save`` wrote."""
        return Blueprint(**json.loads((folder / "machine.json").read_text(encoding="utf-8")))
