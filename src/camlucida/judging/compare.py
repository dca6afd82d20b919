"""Many methods on one picture: their maps side by side, what each costs, how exact it is, and how far they agree."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camlucida.drawing.overlay import contact_sheet
from camlucida.errors import CamlucidaError, MethodError
from camlucida.explainer import Explainer
from camlucida.explanation import Explanation
from camlucida.images.batches import PreparedImage
from camlucida.images.picture import Picture, read
from camlucida.methods.registry import METHODS, find_method
from camlucida.models import open_model
from camlucida.results.files import make_folder, write_whole
from camlucida.results.picture_record import number
from camlucida.results.saving import png
from camlucida.targets import Classes

if TYPE_CHECKING:
    from camlucida.images.picture import ImageSource
    from camlucida.models.model import ModelLike

SIDE = 64
"""Maps are compared at this many pixels a side, laid over the picture, whatever their own grids."""


@dataclass(frozen=True, eq=False)
class MethodResult:
    """What one method gave for one picture.

    Attributes:
        method: its name.
        explanation: its result; None if it cannot explain this model.
        cost: wall time in units of one plain forward pass of the same input.
        failure: why there is no result; empty if there is one.
    """

    method: str
    explanation: Explanation | None
    cost: float
    failure: str = ""


def compare(
    picture: ImageSource, model: ModelLike = None, methods: str | Sequence[str] = "all", classes: Classes = 1
) -> list[MethodResult]:
    """Explain one picture by many methods.

    Args:
        picture: a path, bytes, PIL image, uint8 H×W×3 array, or a picture that was read.
        model: see ``explain``. What runs it decides which methods there are: PyTorch all of them.
        methods: names, or one; "all" is every one.
        classes: one class (or score) to explain; of several the first is compared.

    Returns:
        A result for each method, in the given order. Methods that cannot explain this model say why in ``failure``.

    Raises:
        ImageError: the picture cannot be read.
        MethodError: a name is unknown.

    Example:
        >>> import camlucida as cl
        >>> [(result.method, result.failure) for result in cl.compare(cl.sample(), methods="cam")]
        [('cam', '')]
    """
    picture = read(picture)
    opened = open_model(model)
    names = [methods] if isinstance(methods, str) else list(methods)
    names = sorted(METHODS) if names == ["all"] else [find_method(name).name for name in names]
    plain: float | None = None
    results = []
    for name in names:
        try:
            explainer = Explainer(opened, method=name)
            if plain is None:
                plain = _seconds_of_plain_pass(explainer, picture)
            prepared = [
                PreparedImage(None, picture, *explainer.preprocess(picture.of_channels(explainer.preprocess.channels)))
            ]
            explainer.explain_prepared(prepared, classes)  # finds the split, warms up
            begun = time.perf_counter()
            explanation = explainer.explain_prepared(prepared, classes)
            results.append(MethodResult(name, explanation, (time.perf_counter() - begun) / plain))
        except CamlucidaError as error:
            results.append(MethodResult(name, None, np.nan, str(error)))
    return results


def agreement(results: Sequence[MethodResult]) -> NDArray[np.float64]:
    """Spearman's rank correlation between every two methods' maps laid over the picture, (M, M).

    It is NaN for methods that failed, and for constant maps, which have no ranks.
    """
    laid: list[NDArray[np.float64] | None] = []
    for result in results:
        if result.explanation is None:
            laid.append(None)
            continue
        values = result.explanation.heatmap(0, size=(SIDE, SIDE))[result.explanation.seen(0, size=(SIDE, SIDE))]
        laid.append(None if float(np.ptp(values)) == 0 else ranks(values))
    table = np.full((len(results), len(results)), np.nan)
    for i, a in enumerate(laid):
        for j, b in enumerate(laid):
            if a is not None and b is not None:
                table[i, j] = np.corrcoef(a, b)[0, 1]
    return table


def ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks from 1, equal values sharing the mean of theirs.

    Example:
        >>> ranks(np.array([10.0, 20.0, 10.0]))
        array([1.5, 3. , 1.5])
    """
    _, inverse, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def sheet(results: Sequence[MethodResult], colormap: str | None = None) -> Image.Image:
    """A contact sheet of the overlays of all methods that worked.

    Drawn as ``Explanation.evidence`` says.

    Raises:
        MethodError: none did.
    """
    worked = [(result, result.explanation) for result in results if result.explanation is not None]
    if not worked:
        raise MethodError(
            "no method could explain this model: " + (results[0].failure if results else "none was asked")
        )
    tiles = [
        np.asarray(explanation.overlay(threshold=None, colormap=colormap, caption=False)) for _, explanation in worked
    ]
    captions = [f"{result.method}\n{result.cost:.2g} passes" for result, _ in worked]
    return Image.fromarray(contact_sheet(tiles, captions))


def reference(results: Sequence[MethodResult]) -> int | None:
    """The row that the others are held against: cam's, or else the first that worked; None if none did."""
    worked = [i for i, result in enumerate(results) if result.explanation is not None]
    return next((i for i in worked if results[i].method == "cam"), worked[0] if worked else None)


def save(results: Sequence[MethodResult], folder: Path, colormap: str | None = None) -> None:
    """Write ``compare.png`` (the sheet) and ``compare.json`` (costs, residuals, agreement between all methods).

    Raises:
        MethodError: no method worked.
        OutputError: the folder cannot be written.
    """
    encoded = png(np.asarray(sheet(results, colormap)))
    agreed = agreement(results)
    table = [
        {
            "method": result.method,
            "passes": number(result.cost),
            "residual": None if result.explanation is None else number(result.explanation.residual[0, 0]),
            "unit": None if result.explanation is None else result.explanation.origin.unit,
            "failure": result.failure,
            "agreement": {other.method: number(value) for other, value in zip(results, agreed[i], strict=True)},
        }
        for i, result in enumerate(results)
    ]
    make_folder(folder)
    write_whole(folder / "compare.png", encoded)
    write_whole(folder / "compare.json", json.dumps(table, indent=2).encode())


def _seconds_of_plain_pass(explainer: Explainer, picture: Picture) -> float:
    """The median of a few plain forward passes; preprocessing is in neither side's time."""
    batch = explainer.preprocess(picture.of_channels(explainer.preprocess.channels))[0][None]
    explainer.runner.predict(batch)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        explainer.runner.predict(batch)
        times.append(time.perf_counter() - begun)
    return float(np.median(times))
