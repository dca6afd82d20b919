"""One picture's answer: from the model's arrays to JSON."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.images.preprocess import View
from camlucida.results.picture_record import number
from camlucida.serve.ask import Ask
from camlucida.serve.largest_boxes import largest_boxes
from camlucida.serve.problems import ProblemError
from camlucida.targets import Activation, probabilities

GREY_ZERO, GREY_STEPS = 128, 127
"""A PNG's grey value of a map's zero, and the steps from there to ``scale``."""


@dataclass(frozen=True, eq=False)
class Row:
    """What the model says of one picture.

    Attributes:
        logits: (K,) float32.
        ids: (T,) the explained classes.
        names: T names.
        scores: (T,) their logits.
        maps: (T, h, w) float32, signed.
        bias: (T,) what no cell carries; NaN where the maps are no decomposition.
        residual: (T,) as in ``Explanation``.
    """

    logits: NDArray[np.float32]
    ids: NDArray[np.int64]
    names: tuple[str, ...]
    scores: NDArray[np.float32]
    maps: NDArray[np.float32]
    bias: NDArray[np.float32]
    residual: NDArray[np.float32]


def answer(row: Row, view: View, ask: Ask, *, model: str, activation: Activation, note: str) -> bytes:
    """The JSON of one answer (see ``schema`` for its fields).

    Raises:
        ProblemError: 500, a map or logit is not finite.
    """
    if not (np.isfinite(row.maps).all() and np.isfinite(row.logits).all()):
        raise ProblemError(500, "the model's map of this picture is not finite; look for an overflow in the model")
    chances = probabilities(row.logits[None], activation)[0]
    boxes = largest_boxes(row.maps, view, ask.threshold)
    classes = [
        {
            "id": int(class_id),
            "name": row.names[t],
            "logit": float(row.scores[t]),
            "probability": number(chances[class_id]),
            "bias": number(row.bias[t]),
            "residual": number(row.residual[t]),
            "box": boxes[t],
        }
        for t, class_id in enumerate(row.ids)
    ]
    seen = {"image_hw": view.image_hw, "seen_xyxy": view.seen_xyxy}
    return json.dumps(
        {"model": model, "classes": classes, "maps": encoded(row.maps, ask.maps), "view": seen, "note": note,
         "activation": activation},
        allow_nan=False, separators=(",", ":"),
    ).encode()  # fmt: skip


def encoded(maps: NDArray[np.float32], how: str) -> dict[str, Any] | None:
    """Maps as text, at the network's own grid.

    Args:
        maps: (T, h, w), finite.
        how: "float16": base64 of little-endian values in rows, each divided by ``scale`` (the largest magnitude, 1 if
            all are 0); "png": a grey picture of h×w a class, with the value (grey - 128) / 127 × scale; "none".

    Example:
        >>> encoded(np.array([[[2.0, -1.0]]], np.float32), "float16")
        {'encoding': 'float16', 'shape': (1, 1, 2), 'data': 'ADwAuA==', 'scale': 2.0}
    """
    if how == "none":
        return None
    scale = float(np.abs(maps).max()) or 1.0
    data: str | list[str]
    if how == "float16":
        data = base64.b64encode((maps / np.float32(scale)).astype("<f2").tobytes()).decode()
    else:
        grey = np.rint(GREY_ZERO + GREY_STEPS * (maps / np.float32(scale))).astype(np.uint8)
        data = [base64.b64encode(cv2.imencode(".png", one)[1].tobytes()).decode() for one in grey]
    return {"encoding": how, "shape": maps.shape, "data": data, "scale": scale}
