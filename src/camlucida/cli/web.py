"""``camlucida web``: the page as a folder of plain files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def web(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the site; one written before is replaced.")],
    model: Annotated[
        Path | None,
        typer.Option("-m", "--model", help="An ONNX file with maps; the demonstration model if not given."),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(help="The npm package onnxruntime-web, archive or folder; fetched if not given."),
    ] = None,
) -> None:
    """Write a page that runs a model in the browser: a folder for any server of files."""
    from camlucida.web import write_site

    written = write_site(out, model, runtime=runtime)
    size = sum(file.stat().st_size for file in written.rglob("*") if file.is_file())
    print(f"{written}: {size / 1e6:.0f} MB; look at it with: python -m http.server -d {written}")
