"""supervisord's event listener: powers the machine off when the daemon cannot be kept running.

Two signs: FATAL (it did not even start), and repeated unexpected exits (it starts, lives past ``startsecs``, dies, and
supervisord would restart it for ever). Standard library only and run by path, because a daemon that cannot be imported
is one of the cases. It may be told twice (supervisord also reports FATAL for a program it gives up at shutdown), so it
asks for the power-off once. Source: Supervisor 4.3, "Events"; its protocol is lines on stdin and stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import TextIO

__all__ = ["Listener", "main"]

#: So many unexpected exits of one program within so many seconds.
MAX_EXITS, EXITS_TIME = 4, 60.0


class Listener:
    """Counts what supervisord reports.

    Args:
        log_path: Where the reason is written before the machine goes.
        console: The machine's console, which takes the reason too; None when there is none of its own.
    """

    def __init__(self, log_path: Path, console: Path | None = None) -> None:
        self._log_path = log_path
        self._console = console
        self._exits: dict[str, list[float]] = defaultdict(list)
        self._asked = False

    def reason(self, event: str, facts: dict[str, str], now: float) -> str | None:
        """Return why the machine must go off, if it must; ``now`` is monotonic seconds."""
        name = facts.get("processname", "?")
        if event == "PROCESS_STATE_FATAL":
            return f"{name} could not be started"
        if event == "PROCESS_STATE_EXITED" and facts.get("expected") == "0":
            self._exits[name] = [then for then in self._exits[name] if now - then < EXITS_TIME] + [now]
            if len(self._exits[name]) >= MAX_EXITS:
                return f"{name} ended unexpectedly {MAX_EXITS} times in {EXITS_TIME:.0f} s"
        return None

    def power_off(self, why: str) -> None:
        """Ask once, and say why in the log."""
        if self._asked:
            return
        self._asked = True
        line = {"event": "power_off", "who": "listener", "why": why, "timestamp": round(time.time(), 3)}
        for path in (self._log_path, self._console):
            try:
                if path is not None:
                    with path.open("a") as log:
                        log.write(json.dumps(line) + "\n")
            except OSError:
                pass  # a full disk must not keep the machine running
        subprocess.Popen(["systemctl", "poweroff"], stdin=subprocess.DEVNULL, stdout=sys.stderr)

    def serve(self, source: TextIO, answers: TextIO) -> None:
        """Answer supervisord until it goes."""
        while True:
            answers.write("READY\n")
            answers.flush()
            header = source.readline()
            if not header:
                return
            words = dict(word.split(":", 1) for word in header.split())
            body = source.read(int(words["len"]))
            facts = dict(word.split(":", 1) for word in body.split() if ":" in word)
            why = self.reason(words.get("eventname", ""), facts, time.monotonic())
            if why is not None:
                self.power_off(why)
            answers.write("RESULT 2\nOK")
            answers.flush()


def main() -> None:
    """Serve on stdin and stdout."""
    console = os.environ.get("WREN_CONSOLE")
    log_path = Path(os.environ["WREN_LOG_DIR"]) / "listener.log"
    Listener(log_path, Path(console) if console else None).serve(sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
