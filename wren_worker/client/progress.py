"""How far a wait is, on stderr: a bar where somebody looks, lines where asked for, else nothing."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.progress

__all__ = ["Progress"]

#: Seconds between two lines where there is no terminal.
_LINE_INTERVAL = 10.0


def _is_watched() -> bool:
    """Return whether stderr is a terminal or this is a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class Progress:
    """A context manager around one wait, for the thread that waits.

    Args:
        n_calls: How many calls are waited for.
        wanted: True shows progress everywhere, False nowhere, None where somebody looks.
    """

    def __init__(self, n_calls: int, *, wanted: bool | None) -> None:
        self._n_calls = n_calls
        self.draws = wanted or (wanted is None and _is_watched())
        self._bar: rich.progress.Progress | None = None
        self._last_line_time = time.monotonic()

    def __enter__(self) -> Progress:
        if self.draws and _is_watched():
            self._bar = _rich_bar(self._n_calls)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, n_done: int) -> None:
        """Show that so many calls are done."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=n_done)
        elif self.draws and (n_done == self._n_calls or time.monotonic() - self._last_line_time >= _LINE_INTERVAL):
            self._last_line_time = time.monotonic()
            print(f"wren: {n_done} of {self._n_calls} calls done", file=sys.stderr, flush=True)


def _rich_bar(n_calls: int) -> rich.progress.Progress | None:
    # rich takes 50 ms to import; only those who see a bar pay
    try:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415
    except ImportError:
        return None
    columns = TextColumn("wren"), BarColumn(), MofNCompleteColumn(), TextColumn("calls"), TimeElapsedColumn()
    bar = Progress(*columns, console=Console(stderr=True), redirect_stdout=False, refresh_per_second=5)
    bar.add_task("calls", total=n_calls)
    bar.start()
    return bar
