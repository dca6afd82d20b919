"""``camlucida map``: pictures explained, as overlays, boxes and numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from camlucida.cli import options
from camlucida.cli.exits import Failures, say
from camlucida.errors import ImageError

if TYPE_CHECKING:
    from camlucida.explainer import Explainer
    from camlucida.explanation import Explanation
    from camlucida.targets import Classes


def map(
    paths: Annotated[
        list[str] | None, typer.Argument(help="Files, folders, patterns; none explains the sample picture.")
    ] = None,
    model: options.Model = None,
    method: Annotated[str, typer.Option(help="Which method; see: camlucida methods.")] = "cam",
    top: Annotated[int, typer.Option(help="Explain the so many likeliest classes.")] = 1,
    class_: Annotated[
        list[str] | None, typer.Option("--class", help="Explain this class, by name or id; may be repeated.")
    ] = None,
    versus: Annotated[str | None, typer.Option(help="With one --class: explain it against this one.")] = None,
    layer: options.Layer = None,
    threshold: options.Threshold = 0.2,
    colormap: Annotated[options.Colormap | None, typer.Option(help="Of the overlay.")] = None,
    signed: Annotated[bool, typer.Option("--signed", help="Show evidence against the class too.")] = False,
    batch: options.Batch = 16,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder of the results; camlucida-out if not given.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON a picture; files are written only with -o.")
    ] = False,
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    bgr: options.Bgr = False,
    size: options.PictureSize = None,
    output: options.Output = None,
    provider: options.Provider = None,
    threads: options.Threads = None,
) -> None:
    """Explain pictures: overlays, boxes and numbers."""
    from camlucida.cli.printing import PictureTable
    from camlucida.explainer import Explainer
    from camlucida.results.picture_record import records
    from camlucida.results.saving import Saver

    fields = options.preprocess_fields(mean, std, scale, bgr, size)
    opened = options.opened(model, fields, providers=provider, threads=threads, output=output)
    explainer = Explainer(opened, method=method, layer=options.layers(layer))
    failures = Failures()
    folder = out if out is not None else None if as_json else Path("camlucida-out")
    explanations = _explanations(explainer, paths, folder, _classes(class_, versus, top), batch, failures)
    table = None if as_json else PictureTable(opened.picture_note)
    if as_json and opened.assumption:
        say(f"note: {opened.assumption}")
    with ExitStack() as stack:
        if table is not None:
            stack.enter_context(table)
        stack.enter_context(closing(explanations))
        if folder is None:
            results = records(explanations, threshold)
        else:
            saver = Saver(folder, threshold=threshold, colormap=colormap, signed=signed)
            results = stack.enter_context(saver).records(explanations)
        stack.enter_context(closing(results))
        for record in results:
            if table is None:
                print(json.dumps(record), flush=True)
            else:
                table.add(record)
    if table is not None:
        table.finish(folder, failures.count)
    failures.exit()


def _classes(named: list[str] | None, versus: str | None, top: int) -> Classes:
    """What to explain: the classes named, one against another, or else the likeliest."""
    from camlucida.targets import Contrast

    classes = [options.id_or_name(name) for name in named or ()]
    if versus is None:
        return classes or top
    if len(classes) != 1:
        raise typer.BadParameter("--versus needs exactly one --class to hold against")
    return Contrast(classes[0], options.id_or_name(versus))


def _explanations(
    explainer: Explainer,
    paths: list[str] | None,
    folder: Path | None,
    classes: Classes,
    batch: int,
    on_error: Callable[[object], None],
) -> Generator[Explanation]:
    """Explanations of what the paths mean, or of the sample picture."""
    from camlucida.images.sample import sample

    if paths:
        yield from explainer.stream(_files(paths, folder, on_error), classes, on_error=on_error, batch=batch)
    else:
        yield explainer.explain_pictures([sample()], classes)


def _files(paths: list[str], folder: Path | None, on_error: Callable[[object], None]) -> Iterator[Path]:
    """The picture files that the paths mean, without the results that lie below them."""
    from camlucida.images.finding import find
    from camlucida.images.picture import shown

    for path in paths:
        results = None if folder is None or _lies_in(Path(path), folder) else folder
        try:
            for file in find([path], lambda skipped, why: on_error(f"{shown(skipped)}: {why}")):
                if results is None or not _lies_in(file.parent, results):
                    yield file
        except ImageError as error:
            on_error(error)


def _lies_in(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # links in a circle, a zero byte: reading will say so
        return False
