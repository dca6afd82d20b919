"""Options and arguments that several commands share, and the demand for PyTorch.

Choices are spelled out here, so that ``--help`` need not load the library; a test holds them to the library's own.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import typer

from camlucida.errors import MissingExtraError

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
FitSplit = Annotated[str, typer.Option(help="The split to fit on.")]


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
