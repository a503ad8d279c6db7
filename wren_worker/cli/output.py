"""What commands print: tables on a terminal, plain columns elsewhere, JSON when asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence

import click

__all__ = ["Output"]


class Output:
    """Where a command's results go.

    Args:
        as_json: Print JSON instead of text.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def say(self, text: str) -> None:
        """Print a line for people; nothing when JSON was asked for."""
        if not self.as_json:
            click.echo(text)

    def note(self, text: str) -> None:
        """Print a line about what is going on, beside the results."""
        click.echo(text, err=True)

    def data(self, value: object) -> None:
        """Print JSON; nothing when text was asked for."""
        if self.as_json:
            click.echo(json.dumps(value, indent=1, default=str))

    def table(self, columns: Sequence[str], rows: Iterable[Mapping[str, object]], *, empty: str = "") -> None:
        """Print rows: a list of objects as JSON, a table on a terminal, columns separated by two spaces elsewhere."""
        rows = list(rows)
        if self.as_json:
            self.data(rows)
        elif not rows:
            click.echo(empty)
        elif sys.stdout.isatty():
            self._rich(columns, rows)
        else:
            self._plain(columns, rows)

    @staticmethod
    def _plain(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
        cells = [list(columns), *([_cell(row.get(name)) for name in columns] for row in rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        for line in cells:
            padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            click.echo("  ".join(padded).rstrip())

    @staticmethod
    def _rich(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
        from rich.console import Console  # noqa: PLC0415 - only a terminal pays for it
        from rich.table import Table  # noqa: PLC0415

        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in columns:
            table.add_column(name)
        for row in rows:
            table.add_row(*(_cell(row.get(name)) for name in columns))
        Console().print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
