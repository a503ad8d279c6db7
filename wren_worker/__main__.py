"""What runs on an instance: ``python -m wren_worker daemon``, started by supervisord."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the daemon and return its exit code."""
    if sys.argv[1:] != ["daemon"]:
        sys.stderr.write("usage: python -m wren_worker daemon (people use wren-standalone)\n")
        return 2
    from wren_worker.wiring.instance import run_daemon  # noqa: PLC0415 - only what is asked for is imported

    return run_daemon(os.environ)


if __name__ == "__main__":
    sys.exit(main())
