"""``camlucida export``: a classifier as an ONNX file whose outputs include its maps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from camlucida.export.picture_outputs import Upsample


def export(
    model: Annotated[str, typer.Argument(help="A classifier: FILE.onnx, timm:NAME, FILE.py:FUNCTION, a run's folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write, ….onnx.")],
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Maps of the so many likeliest classes alone; all if not given."),
    ] = None,
    upsample: Annotated[
        str | None,
        typer.Option(metavar="HxW|input", help="Also heatmaps of this size, or of the picture's own: input."),
    ] = None,
    boxes: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Also boxes around what is above this share of a map's maximum."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="The classes' names: a JSON list, or one a line; the source's own if not given."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="The pictures' size, where the source leaves it open."),
    ] = None,
    mean: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Of red, green and blue, in [0, 1]; the source's own or ImageNet's if not given."),
    ] = None,
    std: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Of red, green and blue, in [0, 1]; with --mean."),
    ] = None,
) -> None:
    """Write a classifier as an ONNX file that gives its class activation maps with its logits."""
    from camlucida.cli.printing import two_columns
    from camlucida.export.class_names import read_class_names
    from camlucida.export.exporting import ExportOptions
    from camlucida.export.exporting import export as write

    names = None if labels is None else read_class_names(labels)
    wanted: Upsample | None = "input" if upsample == "input" else _hw(upsample, "--upsample", " or input")
    written = write(model, out, ExportOptions(top, wanted, boxes, names, _hw(size, "--size"), mean, std))
    facts, check = written.facts, written.check
    grid = "×".join(map(str, facts.grid))
    rows = {
        "written": f"{written.path}, {written.bytes_added / 1e3:+.1f} kB",
        "classes": str(facts.classes),
        "maps": f"{grid}, of all classes" if top is None else f"{grid}, of the {top} likeliest classes",
        "head": facts.head,
        "pooling": facts.pooling,
        "features": facts.features,
        "residual": f"{check.residual:.1e} of the logits' spread (allowed: {check.tolerance:.0e})",
        "outputs": f"changed by {check.change:.1e}",
    }
    if written.parity is not None:
        rows["PyTorch"] = f"differs by {written.parity:.1e}"
    rows |= {"note": "; ".join(written.notes)} if written.notes else {}
    two_columns(rows.items())


def _hw(text: str | None, option: str, other: str = "") -> tuple[int, int] | None:
    """A height and width, written ``224x224``."""
    if text is None:
        return None
    sides = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text)
    if not sides:
        raise typer.BadParameter(f"{option}: expected HEIGHTxWIDTH{other}, such as 224x224; got {text!r}")
    return int(sides[1]), int(sides[2])
