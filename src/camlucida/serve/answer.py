"""One picture's explanation as the JSON that a client gets."""

from __future__ import annotations

import base64
import json
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.explanation import Explanation
from camlucida.results.picture_record import number
from camlucida.serve.explain_request import ExplainRequest
from camlucida.serve.largest_boxes import largest_boxes

GREY_ZERO, GREY_STEPS = 128, 127
"""A PNG's grey value of a map's zero, and the steps from there to ``scale``."""


def answer_json(explanation: Explanation, request: ExplainRequest) -> bytes:
    """The JSON of one picture's explanation for the classes that were asked for; ``openapi.json`` has its fields."""
    view, origin = explanation.views[0], explanation.origin
    boxes = largest_boxes(explanation.maps[0], view, request.threshold)
    probabilities = explanation.probabilities
    classes = [
        {
            "id": int(explanation.classes[0, t]),
            "name": explanation.names[0][t],
            "logit": float(explanation.scores[0, t]),
            "probability": number(probabilities[0, t]),
            "bias": number(explanation.bias[0, t]),
            "residual": number(explanation.residual[0, t]),
            "box": box,
        }
        for t, box in enumerate(boxes)
    ]
    return json.dumps(
        {"model": origin.model, "classes": classes, "maps": encoded_maps(explanation.maps[0], request.maps),
         "view": {"image_hw": view.image_hw, "seen_xyxy": view.seen_xyxy}, "note": origin.note,
         "activation": origin.activation},
        allow_nan=False, separators=(",", ":"),
    ).encode()  # fmt: skip


def encoded_maps(maps: NDArray[np.float32], encoding: str) -> dict[str, Any] | None:
    """Maps as text, at the network's own grid.

    Args:
        maps: (T, h, w), finite.
        encoding: "float16": base64 of little-endian values in rows, each divided by ``scale`` (the largest magnitude, 1
            if all are 0); "png": a grey picture of h×w a class, with the value (grey - 128) / 127 × scale; "none".

    Example:
        >>> encoded_maps(np.array([[[2.0, -1.0]]], np.float32), "float16")
        {'encoding': 'float16', 'shape': (1, 1, 2), 'data': 'ADwAuA==', 'scale': 2.0}
    """
    if encoding == "none":
        return None
    scale = float(np.abs(maps).max()) or 1.0
    data: str | list[str]
    if encoding == "float16":
        data = base64.b64encode((maps / np.float32(scale)).astype("<f2").tobytes()).decode()
    else:
        grey = np.rint(GREY_ZERO + GREY_STEPS * (maps / np.float32(scale))).astype(np.uint8)
        data = [base64.b64encode(cv2.imencode(".png", image)[1].tobytes()).decode() for image in grey]
    return {"encoding": encoding, "shape": maps.shape, "data": data, "scale": scale}
