"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

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
