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

from camlucida.drawing import overlay as draw
from camlucida.errors import CamlucidaError, MethodError
from camlucida.explainer import Explainer
from camlucida.explanation import Explanation
from camlucida.images.batches import PreparedImage
from camlucida.images.picture import Picture
from camlucida.results.picture_record import number
from camlucida.targets import Classes

if TYPE_CHECKING:
    from camlucida.explainer import ModelLike

SIDE = 64
"""Maps are compared at this many pixels a side, laid over the picture, whatever their own grids."""


@dataclass(frozen=True, eq=False)
class Row:
    """One method on one picture.

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


def compare(picture: Picture, model: ModelLike, methods: Sequence[str], classes: Classes = 1) -> list[Row]:
    """Explain one picture by many methods.

    Args:
        picture: the picture.
        model: see ``explain``; a torch model, for other engines have no choice of methods.
        methods: names; "all" is every one.
        classes: one class (or score) to explain; of several the first is compared.

    Returns:
        A row for each method, in the given order. Methods that cannot explain this model say why in ``failure``.

    Raises:
        MethodError: a name is unknown.
    """
    from camlucida.methods.registry import all_methods, find_method
    from camlucida.models import open_model

    opened = open_model(model)
    names = sorted(all_methods()) if list(methods) == ["all"] else [find_method(name).name for name in methods]
    plain: float | None = None
    rows = []
    for name in names:
        try:
            explainer = Explainer(opened, method=name)
            if plain is None:
                plain = _seconds_of_plain_pass(explainer, picture)
            prepared = [PreparedImage(None, picture, *explainer.preprocess(picture.pixels))]
            explainer.explain_prepared(prepared, classes)  # finds the split, warms up
            begun = time.perf_counter()
            made = explainer.explain_prepared(prepared, classes)
            rows.append(Row(name, made, (time.perf_counter() - begun) / plain))
        except CamlucidaError as error:
            rows.append(Row(name, None, np.nan, str(error)))
    return rows


def agreement(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Spearman's rank correlation between every two methods' maps laid over the picture, (M, M); NaN for failed rows.

    Constant maps have no ranks: their correlation is NaN.
    """
    laid: list[NDArray[np.float64] | None] = []
    for row in rows:
        if row.explanation is None:
            laid.append(None)
            continue
        values = row.explanation.heatmap(0, size=(SIDE, SIDE))[row.explanation.seen(0, size=(SIDE, SIDE))]
        laid.append(None if float(np.ptp(values)) == 0 else ranks(values))
    table = np.full((len(rows), len(rows)), np.nan)
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
    shared: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return shared


def sheet(rows: Sequence[Row], colormap: str | None = None) -> Image.Image:
    """A contact sheet of the overlays of all methods that worked.

    Drawn as ``Explanation.evidence`` says.

    Raises:
        MethodError: none did.
    """
    worked = [(row, row.explanation) for row in rows if row.explanation is not None]
    if not worked:
        raise MethodError("no method could explain this model: " + (rows[0].failure if rows else "none was asked"))
    tiles = [_tile(made, colormap) for _, made in worked]
    captions = [f"{row.method}\n{row.cost:.2g} passes" for row, _ in worked]
    return Image.fromarray(draw.contact_sheet(tiles, captions))


def _tile(made: Explanation, colormap: str | None) -> draw.Picture:
    seen = made.seen(0)
    return draw.overlay(made.pictures[0].pixels, made.evidence(), colormap=colormap, seen=None if seen.all() else seen)


def reference(rows: Sequence[Row]) -> int | None:
    """The row that the others are held against: cam's, or else the first that worked; None if none did."""
    worked = [i for i, row in enumerate(rows) if row.explanation is not None]
    return next((i for i in worked if rows[i].method == "cam"), worked[0] if worked else None)


def save(rows: Sequence[Row], folder: Path, colormap: str | None = None) -> None:
    """Write ``compare.png`` (the sheet) and ``compare.json`` (costs, residuals, agreement between all methods).

    Raises:
        MethodError: no method worked.
        OutputError: the folder cannot be written.
    """
    from camlucida.results.saving import made_folder, png, write_whole

    pictured = png(np.asarray(sheet(rows, colormap)))
    agreed = agreement(rows)
    table = [
        {
            "method": row.method,
            "passes": number(row.cost),
            "residual": None if row.explanation is None else number(row.explanation.residual[0, 0]),
            "unit": None if row.explanation is None else row.explanation.origin.unit,
            "failure": row.failure,
            "agreement": {other.method: number(value) for other, value in zip(rows, agreed[i], strict=True)},
        }
        for i, row in enumerate(rows)
    ]
    made_folder(folder)
    write_whole(folder / "compare.png", pictured)
    write_whole(folder / "compare.json", json.dumps(table, indent=2).encode())


def _seconds_of_plain_pass(explainer: Explainer, picture: Picture) -> float:
    """The median of a few plain forward passes; preprocessing is in neither side's time."""
    batch = explainer.preprocess(picture.pixels)[0][None]
    explainer.runner.predict(batch)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        explainer.runner.predict(batch)
        times.append(time.perf_counter() - begun)
    return float(np.median(times))
