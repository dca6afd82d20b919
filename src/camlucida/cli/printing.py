"""What the command line prints of records: a table for people, lines of JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from camlucida.judging.compare import Row, agreement, reference
from camlucida.results.picture_record import Record, number

ROWS = 20
"""More pictures than this are only counted."""


class Lines:
    """One JSON object a picture on standard output, at once."""

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: Any, error: Any, trace: TracebackType | None) -> None:
        return None

    def add(self, record: Record) -> None:
        """Print a picture's record."""
        print(json.dumps(record), flush=True)

    def finish(self, folder: Path | None, failed: int) -> None:
        """All is printed already."""


class Table:
    """A table of the first pictures, a progress line while there are more, a summary."""

    def __init__(self, note: str) -> None:
        self._notes: list[tuple[str, str]] = [("note:", note)] if note else []
        self._console = Console(highlight=False)
        self._table = RichTable(box=None, pad_edge=False, header_style="bold")
        for name in ("picture", "class"):
            self._table.add_column(name, overflow="fold")
        self._table.add_column("probability", justify="right", no_wrap=True)
        for name in ("box x0 y0 x1 y1", "residual"):
            self._table.add_column(name, no_wrap=True)
        self.count = 0
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(),
            console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self._task = self._progress.add_task("pictures", total=None)

    def __enter__(self) -> Table:
        self._progress.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: TracebackType | None) -> None:
        self._progress.stop()

    def add(self, record: Record) -> None:
        """Take a picture's record."""
        self.count += 1
        self._progress.update(self._task, completed=self.count)
        if self.count > ROWS:
            return
        if record["note"]:
            self._notes.append(("note:", f"{record['picture']}: {record['note']}"))
        for place, one in enumerate(record["classes"]):
            value = one["probability"]
            cells = (
                record["picture"] if place == 0 else "",
                one["name"],
                f"{one['score']:+.2f}" if value is None else f"{100 * value:.1f} %",
                " ".join(map(str, one["box"])) if one["box"] else "none",
                _short(one["residual"]),
            )
            self._table.add_row(*map(Text, cells))

    def finish(self, folder: Path | None, failed: int) -> None:
        """Print the table and the summary."""
        if self.count:
            self._console.print(self._table)
            if self.count > ROWS:
                self._console.print(f"… {self.count} pictures in all")
            two_columns(self._notes, self._console)
            if folder is not None:
                self._console.print(f"written to {folder}/", markup=False, soft_wrap=True)
        if failed:
            self._console.print(f"{failed} could not be explained; each is named above")


def comparison(rows: Sequence[Row], folder: Path) -> None:
    """Print methods with their costs, residuals and agreement with cam (or the first that worked)."""
    console = Console(highlight=False)
    first = reference(rows)
    table = RichTable(box=None, pad_edge=False, header_style="bold")
    agreed = agreement(rows)
    names = ("method", "passes", "residual", "grid", f"agrees with {rows[first].method}" if first is not None else "")
    for name, justify in zip(names, ("left", "right", "left", "left", "right"), strict=True):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    failures = []
    for i, row in enumerate(rows):
        if row.explanation is None or first is None:
            failures.append((row.method, row.failure))
            continue
        residual = number(row.explanation.residual[0, 0])
        grid = "×".join(map(str, row.explanation.grid))
        cells = (row.method, f"{row.cost:.2f}", _short(residual), grid, f"{agreed[first, i]:+.2f}")
        table.add_row(*map(Text, cells))
    console.print(table)
    if failures:
        console.print("not for this model:")
        two_columns(failures, console)
    console.print(f"written to {folder}/", markup=False, soft_wrap=True)


def _short(residual: float | None) -> str:
    """A residual in at most 11 signs; "none" where the map is no decomposition."""
    if residual is None:
        return "none"
    return f"{residual:.0e} exact" if residual <= 1e-4 else f"{100 * residual:.2g} %"


def two_columns(rows: Iterable[tuple[str, str]], console: Console | None = None) -> None:
    """Print names and texts beside each other; a text breaks at its semicolons where it is too long for a line."""
    console = console or Console(highlight=False)
    table = RichTable.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, text in rows:
        whole = len(name) + 2 + len(text) <= console.width
        table.add_row(Text(name), Text(text if whole else text.replace("; ", ";\n")))
    console.print(table)
