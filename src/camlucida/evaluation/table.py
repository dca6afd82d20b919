"""An evaluation as a table in the terminal: what must not be missed first."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from camlucida.evaluation.findings import Figure, limits, share, signed
from camlucida.evaluation.result import Evaluation


def print_table(evaluation: Evaluation, folder: Path | None = None, console: Console | None = None) -> None:
    """Print the verdict, then every figure with its interval and its baselines.

    Args:
        evaluation: to print.
        folder: where it was written, if it was.
        console: to print on; None: standard output.
    """
    console = console or Console(highlight=False)
    for warning in evaluation.warnings:
        console.print(Text(f"! {warning}", style="bold red"))
    if evaluation.warnings:
        console.print()
    console.print(
        Text(f"{evaluation.model} · {evaluation.method} · {evaluation.dataset} · {evaluation.pictures} pictures · "
             f"{evaluation.mode} mode"), soft_wrap=True,
    )  # fmt: skip
    console.print(Text(f"operating point: {evaluation.calibration}"), soft_wrap=True)
    for group, figures in groupby(evaluation.figures, lambda figure: figure.group):
        table = _table(group, console.width)
        for figure in figures:
            title = f"  {figure.title}" + ("" if figure.threshold is None else f" at {figure.threshold:.3f}")
            table.add_row(Text(title), Text(share(figure.value.value)), Text(limits(figure.value)), _beside(figure))
        console.print(table)
    if evaluation.note:
        console.print(Text(f"note: {evaluation.note}"), soft_wrap=True)
    if evaluation.skipped:
        console.print(f"{len(evaluation.skipped)} could not be read; each is named above")
    if folder is not None:
        console.print(f"written to {folder}/", markup=False, soft_wrap=True)


def _table(heading: str, width: int) -> Table:
    """Columns of the same widths under each heading, so that they stand in line."""
    title = Text(f"\n{heading}", style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    table.add_column("", width=max(20, min(36, width - 56)))
    table.add_column("maps", justify="right", no_wrap=True, width=5)
    table.add_column("95 %", justify="right", no_wrap=True, width=11)
    table.add_column("beside it (gain)", no_wrap=True, width=32)
    return table


def _beside(figure: Figure) -> Text:
    """A line for each baseline; those that score more than the maps stand out."""
    return Text("\n").join(
        Text(f"{one.name} {share(one.value.value)} ({signed(one.gain.value)})", "red" if one.gain.value < 0 else "")
        for one in figure.baselines
    )
