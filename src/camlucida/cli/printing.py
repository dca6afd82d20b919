"""What the command line prints of results for people: tables, names beside texts, a line of progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from camlucida.results.picture_record import PictureRecord
from camlucida.results.words import likelihood, short_residual

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ROWS = 20
"""More pictures than this are only counted."""


class PictureTable:
    """A table of the first pictures, a progress line while there are more, a summary."""

    def __init__(self, note: str) -> None:
        self._notes: list[tuple[str, str]] = [("note:", note)] if note else []
        self._console = Console(highlight=False)
        self._table = plain_table()
        for name in ("picture", "class"):
            self._table.add_column(name, overflow="fold")
        self._table.add_column("probability", justify="right", no_wrap=True)
        for name in ("box x0 y0 x1 y1", "residual"):
            self._table.add_column(name, no_wrap=True)
        self._count = 0
        self._progress = progress_line()
        self._task = self._progress.add_task("pictures", total=None)

    def __enter__(self) -> PictureTable:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def add(self, record: PictureRecord) -> None:
        """Take a picture's record."""
        self._count += 1
        self._progress.update(self._task, completed=self._count)
        if self._count > ROWS:
            return
        if record["note"]:
            self._notes.append(("note:", f"{record['picture']}: {record['note']}"))
        for place, entry in enumerate(record["classes"]):
            cells = (
                record["picture"] if place == 0 else "",
                entry["name"],
                likelihood(entry["probability"], entry["score"]),
                " ".join(map(str, entry["box"])) if entry["box"] else "none",
                short_residual(entry["residual"]),
            )
            self._table.add_row(*map(Text, cells))

    def finish(self, folder: Path | None, failed: int) -> None:
        """Print the table and the summary."""
        if self._count:
            self._console.print(self._table)
            if self._count > ROWS:
                self._console.print(f"… {self._count} pictures in all")
            two_columns(self._notes, self._console)
            if folder is not None:
                written_to(folder, self._console)
        if failed:
            self._console.print(f"{failed} could not be explained; each is named above")


def progress_line() -> Progress:
    """A line that counts on standard error while work goes on; nothing where that is no terminal."""
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty(),
    )  # fmt: skip


def plain_table() -> Table:
    """A table without rules, its heads in bold."""
    return Table(box=None, pad_edge=False, header_style="bold")


def two_columns(rows: Iterable[tuple[str, str]], console: Console | None = None) -> None:
    """Print names and texts beside each other; a text breaks at its semicolons where it is too long for a line."""
    console = console or Console(highlight=False)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, text in rows:
        whole = len(name) + 2 + len(text) <= console.width
        table.add_row(Text(name), Text(text if whole else text.replace("; ", ";\n")))
    console.print(table)


def shares(result: DataclassInstance, rows: Mapping[str, str | float], as_json: bool) -> None:
    """Print a result as JSON, or its rows with shares in percent; a share that is not known (NaN) is left out."""
    if as_json:
        print(json.dumps(asdict(result)))
        return
    known: dict[str, Any] = {name: value for name, value in rows.items() if value == value}
    two_columns((name, value if isinstance(value, str) else f"{100 * value:.1f} %") for name, value in known.items())


def written_to(folder: Path, console: Console) -> None:
    """Say where the results are."""
    console.print(f"written to {folder}/", markup=False, soft_wrap=True)
