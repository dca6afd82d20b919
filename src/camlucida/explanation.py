"""The one result type: maps at the network's own grid, in logits, with what is needed to lay them over the pictures."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camlucida.boxes import localize
from camlucida.drawing.overlay import contact_sheet
from camlucida.errors import CamlucidaError
from camlucida.images.picture import Picture
from camlucida.images.preprocess import View
from camlucida.results import overlays, saving, words
from camlucida.targets import Activation, probabilities

Normalize = Literal["none", "max", "minmax"]


@dataclass(frozen=True)
class Origin:
    """Where an explanation comes from; written into the manifest.

    Attributes:
        model: the model's name.
        method: the method's name.
        unit: of the map's values.
        head: what stands between features and logits, in words; empty where the model's file does not say.
        features: layout and shape of the features, ``NCHW 512x7x7``.
        activation: how logits become probabilities.
        note: what the reader should know, such as that this is the demonstration model.
        output: which of several outputs of the model is explained, ``logits`` or ``0.logits``; empty if it has one.
        preprocess: who says how its pictures are prepared: "stated" by the model, "given" by the user, or "assumed";
            empty for inputs that were prepared elsewhere.
    """

    model: str
    method: str = "cam"
    unit: str = "logits per cell"
    head: str = ""
    features: str = ""
    activation: Activation = "softmax"
    note: str = ""
    output: str = ""
    preprocess: str = ""


@dataclass(frozen=True, eq=False)
class Explanation:
    """Maps of N inputs for T scores each, with ``maps.sum() + bias == score`` up to the residual.

    Indexing with an integer or slice gives the explanation of those inputs alone.

    Attributes:
        logits: (N, K) float32, as the model gave them.
        classes: (N, T) int64 ids; -1 where a score is not one class's (a contrast, a callable).
        scores: (N, T) float32: the explained scores, the logits of ``classes``.
        maps: (N, T, *grid) float32, signed, in ``origin.unit``, at the network's own grid; grid is (h, w) for pictures.
        bias: (N, T) float32: the part of the score that no cell carries; NaN where the map is no decomposition.
        residual: (N, T) float32: |Σ map + bias - score| over the spread (maximum - minimum) of the input's logits, over
            |logit| for a single logit. At most about 1e-5 for exact maps; NaN where the map is no decomposition.
        names: N tuples of T names.
        views: N views, the networks' way of looking at each picture; empty for inputs that are no pictures (1-D, 3-D).
        pictures: the N pictures; empty where the input was a tensor.
        origin: model, method and unit.

    Raises:
        CamlucidaError: shapes do not fit together, or a map is not finite.

    Example:
        >>> ex = Explanation(np.array([[2.0, 0.0]]), np.array([[0]]), np.array([[2.0]]), np.array([[[[0.5, 1.0]]]]),
        ...                  np.array([[0.5]]), np.array([[0.0]]), (("cat",),), (View.whole((2, 4)),))
        >>> ex.heatmap(0)
        array([[0.5 , 0.625, 0.875, 1. ],
               [0.5 , 0.625, 0.875, 1. ]], dtype=float32)
    """

    logits: NDArray[np.float32]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    maps: NDArray[np.float32]
    bias: NDArray[np.float32]
    residual: NDArray[np.float32]
    names: tuple[tuple[str, ...], ...]
    views: tuple[View, ...] = ()
    pictures: tuple[Picture, ...] = ()
    origin: Origin = field(default_factory=lambda: Origin("unnamed"))

    def __post_init__(self) -> None:
        n, t = self.classes.shape if self.classes.ndim == 2 else (-1, -1)
        expected: Mapping[str, bool] = {
            "logits (N, K)": self.logits.ndim == 2 and len(self.logits) == n,
            "classes (N, T)": n >= 0,
            "scores (N, T)": self.scores.shape == (n, t),
            "maps (N, T, *grid)": self.maps.ndim >= 3 and self.maps.shape[:2] == (n, t),
            "bias (N, T)": self.bias.shape == (n, t),
            "residual (N, T)": self.residual.shape == (n, t),
            "names N x T": len(self.names) == n and all(len(row) == t for row in self.names),
            "views N or none": len(self.views) in (0, n),
            "pictures N or none": len(self.pictures) in (0, n),
        }
        for what, fits in expected.items():
            if not fits:
                name = what.partition(" ")[0]
                got = getattr(self, name)
                raise CamlucidaError(
                    f"explanation: expected {what}, got {getattr(got, 'shape', None) or f'{len(got)} {name}'}"
                )
        if not np.isfinite(self.maps).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(self.maps))[0])
            raise CamlucidaError(
                f"explanation: the map of input {index[0]} for {self.names[index[0]][index[1]]!r} is not finite; "
                "look for an overflow in the model (float16?) or NaN in its input"
            )
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, np.ndarray):
                dtype = np.int64 if each.name == "classes" else np.float32
                kept = np.array(value, dtype)
                kept.setflags(write=False)
                object.__setattr__(self, each.name, kept)

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int | slice) -> Explanation:
        if isinstance(index, slice):
            part = index
        else:
            at = operator.index(index)  # NumPy's integers too
            if not -len(self) <= at < len(self):
                raise IndexError(f"explanation: no input {at} among {len(self)}")
            part = slice(at, at + 1 or None)
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        cut = {name: value[part] for name, value in values.items() if name != "origin"}
        return Explanation(**cut, origin=self.origin)

    @property
    def grid(self) -> tuple[int, ...]:
        """The maps' own grid, (h, w) for pictures."""
        return self.maps.shape[2:]

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(N, T) probabilities of the explained classes; NaN for scores that are not one class's."""
        every = probabilities(self.logits, self.origin.activation)
        return np.where(self.classes < 0, np.nan, np.take_along_axis(every, np.maximum(self.classes, 0), 1)).astype(
            np.float32
        )

    def heatmap(
        self,
        index: int = 0,
        target: int = 0,
        *,
        size: tuple[int, int] | None = None,
        normalize: Normalize = "none",
    ) -> NDArray[np.float32]:
        """The map laid over its picture: half-pixel bilinear, 0 where the network saw nothing (see ``seen``).

        Args:
            index: which input.
            target: which of its T scores.
            size: (H, W) of the picture to lay it over; None: the original's.
            normalize: "none" keeps the map's unit and sign; "max" clips at 0 and divides by the maximum, "minmax"
                shifts and scales what was seen to [0, 1]. Constant maps become 0 under "minmax", and all-negative ones
                under "max".

        Returns:
            float32 H×W.
        """
        laid = self._view(index).project(self.maps[index, target], size)
        if normalize == "max":
            top = float(laid.max())
            return np.clip(laid, 0, None) / np.float32(top) if top > 0 else np.zeros_like(laid)
        if normalize == "minmax":
            seen = self._view(index).seen(size)
            low, high = (float(laid[seen].min()), float(laid[seen].max())) if seen.any() else (0.0, 0.0)
            shifted = (laid - np.float32(low)) / np.float32(high - low) if high > low else np.zeros_like(laid)
            return np.where(seen, shifted, np.float32(0))
        if normalize != "none":
            raise CamlucidaError(f"normalize: expected none, max or minmax, got {normalize!r}")
        return laid

    def seen(self, index: int = 0, *, size: tuple[int, int] | None = None) -> NDArray[np.bool_]:
        """Which pixels of the picture the network saw, bool H×W; a centre crop hides the rest."""
        return self._view(index).seen(size)

    def evidence(self, index: int = 0, target: int = 0) -> NDArray[np.float32]:
        """The heatmap that masks, boxes and overlays are made of: float32 H×W, as ``heatmap`` gives it by default.

        Only maps that are no decomposition of the score and lie above 0 everywhere (RISE's means of scores) are taken
        from their minimum: their zero means nothing, and 20 % of their maximum would be the whole picture.
        """
        heatmap = self.heatmap(index, target)
        if np.isfinite(self.residual[index, target]):
            return heatmap
        seen = self.seen(index)
        if not seen.any():
            return heatmap
        return np.where(seen, heatmap - max(heatmap[seen].min(), np.float32(0)), np.float32(0))

    def masks(self, threshold: float = 0.2, *, percentile: float | None = None) -> list[list[NDArray[np.bool_]]]:
        """For each input a list of T masks, bool H×W: ``evidence`` above ``threshold`` of its maximum."""
        return [
            [localize.mask(self.evidence(i, t), threshold, percentile=percentile) for t in range(self.maps.shape[1])]
            for i in range(len(self))
        ]

    def boxes(
        self,
        threshold: float = 0.2,
        *,
        percentile: float | None = None,
        largest: bool = True,
        minimum_area: int = 1,
    ) -> list[list[NDArray[np.int64]]]:
        """For each input a list of T arrays (M, 4): half-open xyxy boxes in pixels of the original picture.

        The paper's rule by default: ``evidence`` above 20 % of its maximum, the box of the largest connected part (M is
        0 where it is nowhere positive). See ``localize.boxes``.
        """
        return [
            [
                localize.boxes(
                    self.evidence(i, t), threshold, percentile=percentile, largest=largest, minimum_area=minimum_area
                )
                for t in range(self.maps.shape[1])
            ]
            for i in range(len(self))
        ]

    def caption(self, index: int = 0, target: int = 0) -> str:
        """Class, probability and residual in a line, as it stands under an overlay."""
        return words.caption(self, index, target)

    def overlay(
        self,
        index: int = 0,
        target: int = 0,
        *,
        colormap: str | None = None,
        signed: bool = False,
        opacity: float = 0.7,
        threshold: float | None = 0.2,
        caption: bool = True,
    ) -> Image.Image:
        """The picture with its heatmap, box and caption.

        Args:
            index: which input.
            target: which of its T scores.
            colormap: a name from ``colormaps.COLORMAPS``; None: inferno, or coolwarm if signed.
            signed: show negative evidence too, around zero, with a colour bar.
            opacity: of the strongest evidence, in [0, 1].
            threshold: of the box; None draws none.
            caption: class, probability and residual below the picture.

        Raises:
            CamlucidaError: the input was a tensor, so there is no picture to draw on.
        """
        if not self.pictures:
            raise CamlucidaError("overlay: the input was a tensor, not a picture; use heatmap() and draw.overlay()")
        evidence = self.evidence(index, target)
        boxes = None if threshold is None else localize.boxes(evidence, threshold)
        return Image.fromarray(
            overlays.drawn(
                self, index, target, evidence, boxes, colormap=colormap, signed=signed, opacity=opacity, caption=caption
            )
        )

    def sheet(self, *, colormap: str | None = None, signed: bool = False) -> Image.Image:
        """All overlays on one contact sheet, a row for each input with its T scores."""
        places = [(i, t) for i in range(len(self)) for t in range(self.maps.shape[1])]
        tiles = [np.asarray(self.overlay(i, t, colormap=colormap, signed=signed, caption=False)) for i, t in places]
        columns = self.maps.shape[1] if self.maps.shape[1] > 1 else None
        return Image.fromarray(contact_sheet(tiles, [self.caption(i, t) for i, t in places], columns))

    def save(self, folder: str | Path, *, threshold: float = 0.2, colormap: str | None = None) -> Path:
        """Write each picture's overlays (``NAME.CLASS.png``) and numbers (``NAME.npz``), and for all their boxes
        (``boxes.coco.json``) and ``manifest.json``.

        Everything is written beside its place first and moved in whole: an interrupted save leaves nothing half-done.

        Args:
            folder: made if missing; files of the same names are replaced.
            threshold: of the boxes, a share of each map's maximum.
            colormap: of the overlays.

        Returns:
            The folder.

        Raises:
            OutputError: the folder cannot be written.
        """
        return saving.save(self, Path(folder), threshold=threshold, colormap=colormap)

    def _view(self, index: int) -> View:
        if not self.views:
            raise CamlucidaError(
                f"maps over a grid {self.grid} of an input that is no picture have no heatmap; use maps"
            )
        return self.views[index]

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows: the contact sheet (of the first 16 inputs)."""
        import io

        if not self.pictures or not len(self):
            return None
        buffer = io.BytesIO()
        self[:16].sheet().save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        """A line for each of the first inputs."""
        return words.description(self)
