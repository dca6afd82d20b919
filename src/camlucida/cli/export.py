"""``camlucida export``: a classifier as an ONNX file whose outputs include its maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from camlucida.cli import options

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
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    bgr: options.Bgr = False,
    size: options.PictureSize = None,
    output: options.Output = None,
) -> None:
    """Write a classifier as an ONNX file that gives its class activation maps with its logits."""
    from camlucida.cli.printing import two_columns
    from camlucida.export.class_names import read_class_names
    from camlucida.export.exporting import ExportOptions
    from camlucida.export.exporting import export as write

    names = None if labels is None else read_class_names(labels)
    fields = options.preprocess_fields(mean, std, scale, bgr, size)
    wanted: Upsample | None = (
        "input" if upsample == "input" else options.height_width(upsample, "--upsample", " or input")
    )
    written = write(model, out, ExportOptions(top, wanted, boxes, names, **fields, output=output))
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
