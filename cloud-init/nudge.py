#!/usr/bin/env python3
"""Makes supervisord look at its programs now: by itself it starts them a second late, and stops them late too.

Run by systemd right after it has started or asked supervisord to stop. Standard library only.
"""

import os
import socket
import sys
import time

PATIENCE = 2.0  # seconds until supervisord has its socket


def nudge(path):
    """Connect once, which ends supervisord's wait; return whether that was possible."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(path)
        except OSError:
            return False
        return True


def main():
    """Nudge as soon as there is somebody to nudge."""
    path = os.path.join(os.environ.get("WREN_RUN_DIR", "/run/wren"), "supervisor.sock")
    end = time.monotonic() + PATIENCE
    while not nudge(path) and time.monotonic() < end:
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
