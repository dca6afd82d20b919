"""What several commands share: options, and the demand for PyTorch."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from camlucida.errors import MissingExtraError

ProviderOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--provider",
        help="What runs an ONNX model: cpu, cuda, coreml, directml; may be repeated, the first is preferred.",
    ),
]

ThreadsOption = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(min=1, help="Threads of an ONNX model on the CPU; all cores if not given."),
]

LabelOption = Annotated[str, typer.Option(help="The column of a CSV that names the class.")]


def need_torch() -> None:
    """Before what needs it is imported.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("PyTorch", "train") from error
