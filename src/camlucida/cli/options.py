"""Options and arguments that several commands share, and the demand for PyTorch.

Choices are spelled out here, so that ``--help`` need not load the library; a test holds them to the library's own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from camlucida.errors import MissingExtraError

if TYPE_CHECKING:
    from camlucida.models import Model as OpenedModel

Colormap = Literal["inferno", "magma", "plasma", "viridis", "cividis", "turbo", "jet", "coolwarm"]
"""The names of ``drawing.colormaps.COLORMAPS``."""

WHICH_MODEL = "Which model; see: camlucida models."

ModelArgument = Annotated[str, typer.Argument(help=WHICH_MODEL)]
Model = Annotated[str | None, typer.Option("-m", "--model", help=WHICH_MODEL)]
Data = Annotated[str, typer.Argument(help="Labelled pictures: a folder, or KIND:PLACE.")]
Label = Annotated[str, typer.Option(help="The column of a CSV that names the class.")]
Layer = Annotated[
    list[str] | None,
    typer.Option(help="A layer by name, last, stages, or a stage from the last: -2. Several are fused."),
]
Threshold = Annotated[float, typer.Option(min=0, max=1, help="Of the box, a share of the map's maximum.")]
Batch = Annotated[int, typer.Option(min=1, help="Pictures that go through the model at once.")]
Provider = Annotated[
    list[str] | None,
    typer.Option(help="What runs an ONNX model: cpu, cuda, coreml, directml; may be repeated, the first is preferred."),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads of an ONNX model on the CPU; all cores if not given.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Backbone = Annotated[
    str, typer.Argument(help="A run's folder, or a backbone with its published weights: timm:NAME, torchvision:NAME.")
]
Classifier = Annotated[str, typer.Option(help="svm or logistic.")]
Size = Annotated[int, typer.Option(help="Pixels of a backbone's input; a run knows its own.")]
Stride = Annotated[int, typer.Option(help="Pixels between a backbone's cells; a run knows its own.")]
Mean = Annotated[
    tuple[float, float, float] | None,
    typer.Option(help="How pictures are prepared: the mean of each channel, or of all, in units of --scale."),
]
Std = Annotated[
    tuple[float, float, float] | None, typer.Option(help="The deviations that go with --mean; 1 if not given.")
]
Scale = Annotated[
    float | None, typer.Option(help="What white becomes before mean and std: 1 (values 0 to 1) or 255 (0 to 255).")
]
Bgr = Annotated[bool, typer.Option("--bgr", help="The model takes blue, green, red.")]
PictureSize = Annotated[
    str | None, typer.Option("--size", metavar="HxW", help="The pictures' size, where the model leaves it open.")
]
Output = Annotated[
    str | None,
    typer.Option(help="Which of several outputs of the model scores the classes: a name, number or path (0.logits)."),
]
FitSplit = Annotated[str, typer.Option(help="The split to fit on.")]


NUMBERS = ("--mean", "--std")
"""Options that take a number for each channel."""


def three_numbers(arguments: list[str]) -> list[str]:
    """Arguments in which a number alone behind ``--mean`` or ``--std`` is there for each of three channels, and numbers
    with commas are apart.

    >>> three_numbers(["a.png", "--mean", "0.5", "--std", "1,2,3", "--bgr"])
    ['a.png', '--mean', '0.5', '0.5', '0.5', '--std', '1', '2', '3', '--bgr']
    """
    spread: list[str] = []
    for place, argument in enumerate(arguments):
        if place and arguments[place - 1] in NUMBERS:
            parts = argument.split(",")
            following = arguments[place + 1] if place + 1 < len(arguments) else ""
            spread += parts * 3 if len(parts) == 1 and not _NUMBER.fullmatch(following) else parts
        else:
            spread.append(argument)
    return spread


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def preprocess_fields(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None, scale: float | None, bgr: bool, size: str | None
) -> dict[str, Any]:
    """The fields of a ``Preprocess`` that were given."""
    given = {"mean": mean, "std": std, "scale": scale, "size_hw": height_width(size, "--size")}
    fields: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
    return {**fields, "order": "bgr"} if bgr else fields


def height_width(text: str | None, option: str, other: str = "") -> tuple[int, int] | None:
    """A height and width, written ``224x224``."""
    if text is None:
        return None
    sides = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text)
    if not sides:
        raise typer.BadParameter(f"{option}: expected HEIGHTxWIDTH{other}, such as 224x224; got {text!r}")
    return int(sides[1]), int(sides[2])


def opened(
    model: str | None,
    fields: dict[str, Any],
    *,
    providers: list[str] | None = None,
    threads: int | None = None,
    output: str | None = None,
) -> OpenedModel:
    """A model, its pictures prepared as the options say."""
    from camlucida.models import open_model
    from camlucida.models.model import with_fields

    made = open_model(model, providers=providers, threads=threads, output=output)
    return with_fields(made, fields) if fields else made


def layers(names: list[str] | None) -> str | int | list[str | int] | None:
    """The layers of ``--layer``: a negative number is a stage from the last; others may be names (of a Sequential)."""
    chosen: list[str | int] = [int(name) if re.fullmatch(r"-\d+", name) else name for name in names or ()]
    return chosen[0] if len(chosen) == 1 else chosen or None


def id_or_name(text: str) -> int | str:
    """A class as typed: its id where it is a whole number, else its name."""
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def need_torch() -> None:
    """Check that PyTorch is installed, before what needs it is imported.

    Raises:
        MissingExtraError: it is not.
    """
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("PyTorch", "train") from error
