"""What the API says of itself: its bodies as OpenAPI describes them."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from camlucida import __version__
from camlucida.serve.ask import Names
from camlucida.serve.problems import MEDIA_TYPE

ActivationName = Literal["softmax", "sigmoid", "none"]


class ClassRow(BaseModel):
    """An explained class."""

    id: int
    name: str
    logit: float
    probability: float | None = Field(description="null where the model's logits are no probabilities")
    bias: float | None = Field(description="the part of the logit that no cell carries")
    residual: float | None = Field(description="|sum of the map + bias - logit| over the spread of the logits")
    box: tuple[int, int, int, int] | None = Field(
        description="x0, y0, x1, y1 in pixels of the picture, half-open: around the largest part of the map above the "
        "threshold; null where the map is nowhere positive"
    )


class EncodedMaps(BaseModel):
    """The maps at the network's own grid, in the order of the classes, signed, in logits per cell."""

    encoding: Literal["float16", "png"]
    shape: tuple[int, int, int] = Field(description="classes, rows, columns")
    data: str | list[str] = Field(
        description="float16: base64 of little-endian values in rows; a value is data × scale. png: a base64 grey "
        "picture for each class; a value is (grey - 128) / 127 × scale"
    )
    scale: float


class View(BaseModel):
    """What the network saw of the picture."""

    image_hw: tuple[int, int]
    seen_xyxy: tuple[float, float, float, float] = Field(description="the rectangle that the grid covers, in pixels")


class Answer(BaseModel):
    """A picture explained."""

    model: str
    classes: list[ClassRow]
    maps: EncodedMaps | None = Field(description="null if none were asked for")
    view: View
    note: str
    activation: ActivationName


class ModelRow(BaseModel):
    """A model."""

    name: str
    classes: list[str]
    input_hw: tuple[int, int]
    grid_hw: tuple[int, int]
    preprocess: dict[str, Any]
    activation: ActivationName
    note: str


class Models(BaseModel):
    """The models there are."""

    models: list[ModelRow]


class Health(BaseModel):
    """The server is there."""

    status: Literal["ok"]


class ProblemDetails(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


GREY_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
"""The smallest PNG, in base64."""

EXAMPLE = {
    "model": "demo",
    "classes": [
        {"id": 12, "name": "cat", "logit": 7.1, "probability": 0.92, "bias": 0.03, "residual": 7e-08,
         "box": [12, 0, 430, 296]}
    ],
    "maps": {"encoding": "float16", "shape": [1, 1, 2], "data": "ADwAuA==", "scale": 0.31},
    "view": {"image_hw": [300, 451], "seen_xyxy": [0.0, 0.0, 451.0, 300.0]},
    "note": "",
    "activation": "softmax",
}  # fmt: skip

_PROBLEMS = {
    400: "The body cannot be read as what Content-Type says.",
    401: "The token is missing or wrong.",
    408: "The body came too slowly.",
    413: "The body or the picture is too large.",
    415: "The body is neither multipart/form-data nor JSON.",
    422: "The picture, the classes, the maps' encoding or the threshold cannot be used.",
    429: "This client has too many requests under way.",
    500: "The server failed.",
    503: "The server is busy or shutting down.",
    504: "The answer took too long.",
}


def responses(*codes: int, secured: bool) -> dict[int | str, dict[str, Any]]:
    """Problems as a route's ``responses``."""
    return {
        code: {
            "description": _PROBLEMS[code],
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/ProblemDetails"},
                    "example": {"type": "about:blank", "title": "…", "status": code, "detail": _PROBLEMS[code]},
                }
            },
        }
        for code in (*codes, *((401,) if secured else ()))
    }


def request_body(names: Names) -> dict[str, Any]:
    """What ``/v1/explain`` takes, for a model of these classes."""
    count = {"type": "integer", "minimum": 1, "maximum": names.count}
    known = {"type": "string", "enum": list(dict.fromkeys(names.all()))}
    by_id = {"type": "integer", "minimum": 0, "maximum": names.count - 1}
    several = {"type": "array", "minItems": 1, "maxItems": names.count}
    asked = "How many of the likeliest classes, all, or which ones"
    shared = {
        "maps": {"type": "string", "enum": ["float16", "png", "none"], "default": "float16"},
        "threshold": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.2,
                      "description": "of the boxes, a share of each map's maximum"},
    }  # fmt: skip
    form_classes = {"anyOf": [count, {"type": "string", "enum": ["all"]}, known], "default": names.usual,
                    "description": f"{asked}; several names with commas between, or the field repeated"}  # fmt: skip
    json_classes = {
        "anyOf": [count, {"type": "string", "enum": ["all"]}, {**several, "items": {"anyOf": [known, by_id]}}],
        "default": names.usual,
        "description": f"{asked}, by name or id",
    }

    def body(image: dict[str, Any], classes: dict[str, Any]) -> dict[str, Any]:
        return {"type": "object", "required": ["image"], "additionalProperties": False,
                "properties": {"image": image, "classes": classes, **shared}}  # fmt: skip

    description = "a picture's file: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or PPM"
    binary = {"type": "string", "format": "binary", "description": description}
    text = {"type": "string", "format": "byte", "minLength": 1, "description": f"base64 of {description}"}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": body(binary, form_classes)},
            "application/json": {
                "schema": body(text, json_classes),
                "example": {"image": GREY_PIXEL, "classes": names.usual, "maps": "float16", "threshold": 0.2},
            },
        },
    }


def describe(app: FastAPI, *, secured: bool) -> dict[str, Any]:
    """The whole OpenAPI document."""
    described = get_openapi(
        title="Camlucida",
        version=__version__,
        summary="Class activation maps with every prediction.",
        routes=app.routes,
    )
    schemas = described.setdefault("components", {}).setdefault("schemas", {})
    schemas["ProblemDetails"] = ProblemDetails.model_json_schema()
    if secured:
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, operations in described["paths"].items():
            for operation in operations.values():
                operation["security"] = [] if path == "/healthz" else [{"token": []}]
    return described
