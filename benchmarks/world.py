"""The world around a run: a sandbox, a fleet that the real command launches, an environment without the user's own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.install import CHECKOUT, FOLDER
from wren_worker.sandbox import control

__all__ = ["World", "world"]

_COMMAND_TIMEOUT = 120.0
_FLEET = "bench"
_CLI = "from wren_worker.cli.main import main; main(prog_name='wren-standalone')"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a runner is started into."""

    environment: dict[str, str]
    sandbox: control.SandboxInfo | None = None
    instance_ids: tuple[str, ...] = field(default=())


@contextmanager
def world(needs: str, *, n_instances: int = 0) -> Iterator[World]:
    """Give a runner what it needs, from nothing to a fleet of instances with one slot each, and end it all after.

    Args:
        needs: "", "sandbox" or "fleet".
        n_instances: Of the fleet.
    """
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-home-", ignore_cleanup_errors=True))
        environment = _environment(home)
        if not needs:
            yield World(environment=environment)
            return
        sandbox = stack.enter_context(control.private()).info
        environment |= sandbox.exports
        if needs == "fleet":
            environment["WREN_FLEET"] = _FLEET
            _command(environment, "setup")
            launch = ["--count", str(n_instances), "--type", "c5.large", "--slots", "1", "--idle-timeout", "2h"]
            _command(environment, "launch", *launch, "--wait")
        ids = tuple(str(machine["instance_id"]) for machine in control.machines(sandbox))
        yield World(environment=environment, sandbox=sandbox, instance_ids=ids)


def _environment(home: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
    # the checkout first: what lies here is measured, wherever the environment's own installation points
    path = os.pathsep.join((str(FOLDER / "peers"), str(CHECKOUT)))
    return kept | {"HOME": home, "TMPDIR": home, "PYTHONPATH": path, "WREN_CONFIG": os.devnull}


def _command(environment: dict[str, str], *arguments: str) -> None:
    """Run ``wren-standalone``.

    Raises:
        RuntimeError: It failed; carries what it said.
    """
    done = subprocess.run(
        [sys.executable, "-c", _CLI, *arguments],
        env=environment,
        cwd=Path(environment["HOME"]),
        capture_output=True,
        text=True,
        timeout=_COMMAND_TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"wren-standalone {' '.join(arguments)} failed: {done.stderr.strip()}")
