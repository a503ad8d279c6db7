"""Runs the sandbox in this process until it is told to stop: ``python -m wren_worker.sandbox <folder>``."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

from wren_worker import config
from wren_worker.sandbox import state

_PR_SET_CHILD_SUBREAPER = 36


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m wren_worker.sandbox")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--supervisord-conf", type=Path)
    parser.add_argument("--deadman", type=Path)
    parser.add_argument("--detach", action="store_true", help="return once it serves, and leave it running")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input is closed")
    return parser.parse_args(arguments)


def _await_eof(stop: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    stop.set()


def _detach(folder: Path) -> int | None:
    """Go on in a child that is nobody's; the parent returns the exit code once the child serves, or failed."""
    child = os.fork()
    if child == 0:
        os.setsid()
        return None
    while True:
        if os.waitpid(child, os.WNOHANG)[0]:
            return 1
        running = state.load(folder)
        if running is not None and running.pid == child:
            return 0
        time.sleep(0.01)


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM, SIGINT or, if asked to, the end of standard input."""
    options = _parse(arguments)
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    exit_code = _detach(folder) if options.detach else None
    return _serve(folder, options) if exit_code is None else exit_code


def _serve(folder: Path, options: argparse.Namespace) -> int:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if sys.platform.startswith("linux"):
        # what a machine leaves behind that was itself killed stays below us, where it is found
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    from wren_worker.sandbox.server import Sandbox  # noqa: PLC0415 - signals are caught before moto is imported

    sandbox = Sandbox(
        folder,
        port=options.port,
        supervisord_conf=options.supervisord_conf or config.shared_file("supervisord.conf"),
        deadman=options.deadman or config.shared_file("cloud-init/deadman.py"),
    )
    state.save(folder, sandbox.endpoint)
    if options.until_eof:
        threading.Thread(target=_await_eof, args=(stop,), name="owner", daemon=True).start()
    while not stop.wait(3600):
        pass
    left = sandbox.close()
    state.remove(folder)
    return 1 if left else 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # threads of open connections must not hold us
