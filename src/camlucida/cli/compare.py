"""``camlucida compare``: many methods on one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from camlucida.cli import options
from camlucida.cli.exits import SOME_FAILED

if TYPE_CHECKING:
    from camlucida.judging.compare import MethodResult


def compare(
    path: Annotated[Path | None, typer.Argument(help="A picture; none takes the sample picture.")] = None,
    model: options.Model = None,
    methods: Annotated[str, typer.Option(help="Names with commas between them, or all.")] = "all",
    class_: Annotated[
        str | None, typer.Option("--class", help="Explain this class; the likeliest if not given.")
    ] = None,
    colormap: Annotated[options.Colormap | None, typer.Option(help="Of the overlays.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the results.")] = Path("camlucida-out"),
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    bgr: options.Bgr = False,
    size: options.PictureSize = None,
    output: options.Output = None,
    provider: options.Provider = None,
    threads: options.Threads = None,
) -> None:
    """Explain a picture by many methods: a contact sheet, and a table of cost, residual and agreement."""
    from camlucida.images.picture import read
    from camlucida.images.sample import sample
    from camlucida.judging import compare as judging

    picture = sample() if path is None else read(path)
    classes = 1 if class_ is None else [options.id_or_name(class_)]
    fields = options.preprocess_fields(mean, std, scale, bgr, size)
    opened = options.opened(model, fields, providers=provider, threads=threads, output=output)
    results = judging.compare(picture, opened, [name.strip() for name in methods.split(",")], classes)
    judging.save(results, out, colormap)
    _print(results, out)
    if any(result.failure for result in results):
        raise typer.Exit(SOME_FAILED)


def _print(results: Sequence[MethodResult], folder: Path) -> None:
    """Print methods with their costs, residuals and agreement with cam (or the first that worked)."""
    from rich.console import Console
    from rich.text import Text

    from camlucida.cli.printing import plain_table, two_columns, written_to
    from camlucida.judging.compare import agreement, reference
    from camlucida.results.picture_record import number
    from camlucida.results.words import short_residual

    console = Console(highlight=False)
    first, agreed = reference(results), agreement(results)
    table = plain_table()
    for name in (
        "method",
        "passes",
        "residual",
        "grid",
        "" if first is None else f"agrees with {results[first].method}",
    ):
        justify: Literal["left", "right"] = "left" if name in ("method", "residual", "grid") else "right"
        table.add_column(name, justify=justify, no_wrap=True)
    failures = []
    for i, result in enumerate(results):
        if result.explanation is None or first is None:
            failures.append((result.method, result.failure))
            continue
        residual = short_residual(number(result.explanation.residual[0, 0]))
        grid = "×".join(map(str, result.explanation.grid))
        cells = (result.method, f"{result.cost:.2f}", residual, grid, f"{agreed[first, i]:+.2f}")
        table.add_row(*map(Text, cells))
    console.print(table)
    if failures:
        console.print("not for this model:")
        two_columns(failures, console)
    written_to(folder, console)
