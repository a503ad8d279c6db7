"""AWS of one machine, a process in its namespace: the sandbox's APIs and the metadata service. ``aws.py FOLDER``."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import imds
from network import PORT

from wren_worker import config
from wren_worker.sandbox import gateway
from wren_worker.sandbox.server import Sandbox


def note_operations(path: Path) -> None:
    """Write a line for each request: what was asked, when, and whether the machine asked or this host."""
    add, serve = gateway.Counter.add, gateway.Gateway.__call__
    asking = threading.local()

    def noted(self: gateway.Counter, name: str) -> None:
        add(self, name)
        who = "host" if asking.name == f"127.0.0.1:{PORT}" else "machine"
        line = {"timestamp": round(time.time(), 3), "operation": name, "who": who}
        with path.open("a") as log:
            log.write(json.dumps(line) + "\n")

    def served(self: gateway.Gateway, environ: Any, start_response: Any) -> Any:
        asking.name = environ["HTTP_HOST"]  # what qemu's machine sends comes from this loopback too
        return serve(self, environ, start_response)

    gateway.Counter.add = noted  # type: ignore[method-assign]
    gateway.Gateway.__call__ = served  # type: ignore[method-assign]


def main(folder: Path) -> None:
    note_operations(folder / "operations.log")
    imds.serve(folder / "imds.json", folder / "imds.log")
    # its hypervisor has nothing to do: no instance is launched through these APIs
    Sandbox(
        folder / "sandbox",
        port=PORT,
        supervisord_conf=config.shared_file("supervisord.conf"),
        deadman=config.shared_file("cloud-init/deadman.py"),
    )
    (folder / "aws.ready").touch()
    sys.stdin.read()  # until the drill goes, whatever way


if __name__ == "__main__":
    main(Path(sys.argv[1]))
