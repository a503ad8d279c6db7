"""The ``systemctl`` of a local instance: notes who calls, and tells the instance's machine. Standard library only.

Run by path: ``systemctl.py <instance folder> <arguments of systemctl>``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

UNITS = ("wren-supervisord.service", "wren-deadman.timer")
USAGE = f"systemctl of the sandbox: start [--no-block] {'|'.join(UNITS)}, or poweroff [--force]"


def parse(arguments: list[str]) -> dict[str, object] | None:
    """Return the request to the machine, None when this systemctl does not know it."""
    options = [argument for argument in arguments if argument.startswith("-")]
    words = [argument for argument in arguments if not argument.startswith("-")]
    if words == ["poweroff"] and set(options) <= {"--force", "-f", "--no-block"}:
        return {"verb": "poweroff", "force": bool({"--force", "-f"} & set(options))}
    if len(words) == 2 and words[0] == "start" and words[1] in UNITS and set(options) <= {"--no-block"}:
        return {"verb": "start", "unit": words[1]}
    return None


def append_line(path: Path, record: dict[str, object]) -> None:
    """Append one JSON line in one write, so that lines of several callers do not mix."""
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps(record).encode() + b"\n")


def _main(arguments: list[str]) -> int:
    # by path there is no package around this file
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from wren_worker.sandbox import processes  # noqa: PLC0415

    folder, request = Path(arguments[0]), parse(arguments[1:])
    caller = os.getppid()
    above = processes.parent(caller)
    record: dict[str, object] = {
        "timestamp": round(time.time(), 3),
        "arguments": arguments[1:],
        "pid": os.getpid(),
        "caller_pid": caller,
        "caller": processes.command_line(caller),
        "caller_parent_pid": above,
        "caller_parent": processes.command_line(above),
    }
    append_line(folder / "log" / "systemctl.log", record)
    if request is None:
        sys.stderr.write(f"{USAGE}\n")
        return 1
    try:
        pipe = os.open(folder / "run" / "systemctl.fifo", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # nobody reads: the machine is going down already
        sys.stderr.write("Failed to connect to the machine: it is shutting down.\n")
        return 1
    os.write(pipe, json.dumps(request).encode() + b"\n")
    os.close(pipe)
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
