"""The command line: thin. It parses, calls the library, prints; every error is a line, not a traceback."""

from __future__ import annotations

import io
import json
import re
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from camlucida.cli import evaluate, export, localizer, probe, serve, train, web
from camlucida.cli.options import ProviderOption, ThreadsOption
from camlucida.errors import CamlucidaError, ImageError

if TYPE_CHECKING:
    from camlucida.explainer import Explainer
    from camlucida.explanation import Explanation
    from camlucida.targets import Classes

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Class activation maps for any classifier.")  # fmt: skip

for command in (
    train.train, evaluate.evaluate, localizer.localizer, probe.probe, probe.finegrained, export.export, serve.serve,
    web.web,
):  # fmt: skip
    app.command()(command)

DONE, SOME_FAILED, WRONG_USAGE = 0, 1, 2


class Colormap(StrEnum):
    """The names of ``colormaps.COLORMAPS``, spelled out so that ``--help`` need not load OpenCV."""

    INFERNO = "inferno"
    MAGMA = "magma"
    PLASMA = "plasma"
    VIRIDIS = "viridis"
    CIVIDIS = "cividis"
    TURBO = "turbo"
    JET = "jet"
    COOLWARM = "coolwarm"


ModelOption = Annotated[Optional[str], typer.Option("-m", "--model", help="Which model; see: camlucida models.")]  # noqa: UP045

LayerOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(help="A layer by name, last, stages, or a stage from the last: -2. Several are fused."),
]


@app.command("map")
def map_(
    paths: Annotated[
        Optional[list[str]], typer.Argument(help="Files, folders, patterns; none explains the sample picture.")  # noqa: UP045
    ] = None,
    model: ModelOption = None,
    method: Annotated[str, typer.Option(help="Which method; see: camlucida methods.")] = "cam",
    top: Annotated[int, typer.Option(help="Explain the so many likeliest classes.")] = 1,
    class_: Annotated[
        Optional[list[str]], typer.Option("--class", help="Explain this class, by name or id; may be repeated.")  # noqa: UP045
    ] = None,
    versus: Annotated[
        Optional[str], typer.Option(help="With one --class: explain it against this one.")  # noqa: UP045
    ] = None,
    layer: LayerOption = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Of the box, a share of the map's maximum.")] = 0.2,
    colormap: Annotated[Optional[Colormap], typer.Option(help="Of the overlay.")] = None,  # noqa: UP045
    signed: Annotated[bool, typer.Option("--signed", help="Show evidence against the class too.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Pictures that go through the model at once.")] = 16,
    out: Annotated[
        Optional[Path], typer.Option("-o", "--out", help="Folder of the results; camlucida-out if not given.")  # noqa: UP045
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON a picture; files are written only with -o.")
    ] = False,
    provider: ProviderOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Explain pictures: overlays, boxes and numbers."""
    from camlucida.cli.printing import Lines, Table
    from camlucida.explainer import Explainer
    from camlucida.models import open_model
    from camlucida.results.picture_record import records
    from camlucida.results.saving import Saver

    opened = open_model(model, providers=provider, threads=threads)
    explainer = Explainer(opened, method=method, layer=_layers(layer))
    failed = 0

    def fail(message: object) -> None:
        nonlocal failed
        failed += 1
        say(f"error: {message}")

    folder = out if out is not None else None if as_json else Path("camlucida-out")
    explained = _explained(explainer, paths, folder, _classes(class_, versus, top), batch, fail)
    printer = Lines() if as_json else Table(explainer.model.note)
    with ExitStack() as stack:
        stack.enter_context(printer)
        stack.enter_context(closing(explained))
        if folder is None:
            results = records(explained, threshold)
        else:
            saver = Saver(folder, threshold=threshold, colormap=colormap, signed=signed)
            results = stack.enter_context(saver).records(explained)
        stack.enter_context(closing(results))
        for record in results:
            printer.add(record)
    printer.finish(folder, failed)
    if failed:
        raise typer.Exit(SOME_FAILED)


def _explained(
    explainer: Explainer,
    paths: list[str] | None,
    folder: Path | None,
    classes: Classes,
    batch: int,
    fail: Callable[[object], None],
) -> Generator[Explanation]:
    """Explanations of what the paths mean, or of the sample picture."""
    from camlucida.images.sample import sample

    if paths:
        yield from explainer.stream(_files(paths, folder, fail), classes, on_error=fail, batch=batch)
    else:
        yield explainer.explain_pictures([sample()], classes)


def _files(paths: list[str], folder: Path | None, fail: Callable[[object], None]) -> Iterator[Path]:
    """The picture files that the paths mean, without the results that lie below them."""
    from camlucida.images.finding import find
    from camlucida.images.picture import shown

    for given in paths:
        results = None if folder is None or _lies_in(Path(given), folder) else folder
        try:
            for path in find([given], lambda skipped, why: fail(f"{shown(skipped)}: {why}")):
                if results is None or not _lies_in(path.parent, results):
                    yield path
        except ImageError as error:
            fail(error)


@app.command()
def models() -> None:
    """List where models can come from."""
    from camlucida.cli.printing import two_columns
    from camlucida.models import SOURCES

    two_columns((source.pattern, source.summary) for source in SOURCES)


@app.command()
def methods() -> None:
    """List the methods with their formulas and papers."""
    from camlucida.cli.printing import two_columns
    from camlucida.methods.registry import all_methods

    two_columns((name, f"{one.summary}; {one.unit}; {one.paper}") for name, one in all_methods().items())


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="Which model; see: camlucida models.")] = "demo",
    layer: LayerOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    provider: ProviderOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Show what a model's features and head are, and how exact its maps are on the sample picture."""
    from camlucida.cli.printing import two_columns
    from camlucida.explainer import Explainer
    from camlucida.images.sample import sample
    from camlucida.models import open_model
    from camlucida.results.picture_record import number

    explainer = Explainer(open_model(model, providers=provider, threads=threads), layer=_layers(layer))
    picture = sample()
    found = explainer.explain_pictures([picture])
    facts = explainer.runner.facts(explainer.preprocess(picture.pixels)[0][None])
    size, view, labels = explainer.preprocess.size_hw, found.views[0], explainer.class_names
    rows = {
        "model": explainer.model.name,
        "input": f"{size[0]}×{size[1]} pixels, {explainer.preprocess.fit}",
        "features": facts.features,
        "grid": "×".join(map(str, facts.grid)),
        "classes": facts.classes,
        "labels": "unknown" if not labels else ", ".join(labels) if len(labels) <= 100 else f"{len(labels)} names",
        "head": facts.head,
        "residual": number(found.residual.max()),
        "sample": found.caption(0),
        "seen of the sample": f"{view.seen().mean():.0%}",
    }
    if as_json:
        print(json.dumps(rows))
    else:
        two_columns((key, f"{value:.1e}" if isinstance(value, float) else str(value)) for key, value in rows.items())


@app.command()
def compare(
    path: Annotated[Optional[Path], typer.Argument(help="A picture; none takes the sample picture.")] = None,  # noqa: UP045
    model: ModelOption = None,
    methods: Annotated[str, typer.Option(help="Names with commas between them, or all.")] = "all",
    class_: Annotated[
        Optional[str], typer.Option("--class", help="Explain this class; the likeliest if not given.")  # noqa: UP045
    ] = None,
    colormap: Annotated[Optional[Colormap], typer.Option(help="Of the overlays.")] = None,  # noqa: UP045
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the results.")] = Path("camlucida-out"),
    provider: ProviderOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Explain a picture by many methods: a contact sheet, and a table of cost, residual and agreement."""
    from camlucida.cli.printing import comparison
    from camlucida.images.picture import read
    from camlucida.images.sample import sample
    from camlucida.judging import compare as comparing
    from camlucida.models import open_model

    picture = sample() if path is None else read(path)
    classes = 1 if class_ is None else [_id_or_name(class_)]
    opened = open_model(model, providers=provider, threads=threads)
    rows = comparing.compare(picture, opened, [name.strip() for name in methods.split(",")], classes)
    comparing.save(rows, out, colormap)
    comparison(rows, out)
    if any(row.failure for row in rows):
        raise typer.Exit(SOME_FAILED)


def _classes(named: list[str] | None, versus: str | None, top: int) -> Classes:
    from camlucida.targets import Contrast

    asked = [_id_or_name(name) for name in named or ()]
    if versus is None:
        return asked or top
    if len(asked) != 1:
        raise typer.BadParameter("--versus needs exactly one --class to hold against")
    return Contrast(asked[0], _id_or_name(versus))


def _layers(named: list[str] | None) -> str | int | list[str | int] | None:
    """The layers asked for. Negative numbers are stages from the last; others may be names (of a Sequential)."""
    found: list[str | int] = [int(name) if re.fullmatch(r"-\d+", name) else name for name in named or ()]
    return found[0] if len(found) == 1 else found or None


def _lies_in(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # links in a circle, a zero byte: reading will say so
        return False


def _id_or_name(text: str) -> int | str:
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def say(message: str) -> None:
    """A line on standard error."""
    from camlucida.images.picture import shown

    print(shown(" ".join(message.splitlines())), file=sys.stderr)


def main() -> None:
    """Entry point: errors become one line and an exit code."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged EXIF and the like: the picture is read or refused
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal's encoding lacks
    try:
        app()
    except CamlucidaError as error:
        say(f"error: {error}")
        sys.exit(WRONG_USAGE)
