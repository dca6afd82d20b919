"""Pictures for people: a heatmap over its picture, boxes, contact sheets.

Pictures are uint8 H×W×3, RGB. Heatmaps are signed float H×W at the picture's size, in any unit. Every function
returns a new picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isqrt
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from camlucida.boxes.localize import as_boxes, as_heatmap
from camlucida.drawing.captions import PAPER, caption_bar, colorbar
from camlucida.drawing.colormaps import table
from camlucida.errors import CamlucidaError

Pixels = NDArray[np.uint8]
Pixel = TypeVar("Pixel", bound=np.generic)

LINE, HALO = (255, 255, 255), (16, 16, 16)
LEVELS = 1023  # steps of colour and opacity between a map's limits; odd, so that 0 has its own in a signed map
READABLE = 224  # pixels: captioned pictures narrower than this are enlarged
CELL = 320  # pixels: the longest side of a picture on a contact sheet


def overlay(
    pixels: Pixels,
    heatmap: ArrayLike,
    *,
    colormap: str | None = None,
    signed: bool = False,
    limit: float | None = None,
    opacity: float = 0.7,
    seen: NDArray[np.bool_] | None = None,
    boxes: ArrayLike | None = None,
    caption: str | None = None,
    unit: str | None = None,
) -> Pixels:
    """Lay a heatmap over its picture, and whatever else helps to read it.

    Args:
        pixels: uint8 H×W×3.
        heatmap: float H×W. Colour and opacity both grow in proportion to the value, from clear at 0.
        colormap: one of `COLORMAPS`; inferno, or coolwarm if `signed`, where not given.
        signed: show negative values too, in the colours below the table's middle; otherwise they are clear.
        limit: the value drawn at full strength, to compare pictures; the map's own maximum (of |map| if `signed`) where
            not given. A map with nothing above 0 leaves the picture as it is.
        opacity: at full strength, in [0, 1].
        seen: bool H×W, False where the network never looked (cropped away): drawn grey and hatched, without heat.
        boxes: (M, 4), half-open xyxy pixels.
        caption: text for a bar below the picture.
        unit: if given, a colour bar with this unit goes below, e.g. "logits per cell".

    Returns:
        uint8 H×W×3; with caption or unit, bars are added below, and a picture narrower than 224 pixels is enlarged a
        whole number of times first.

    Raises:
        CamlucidaError: a bad picture, heatmap, mask or box, shapes that differ, an unknown colormap.

    >>> grey = np.full((2, 2, 3), 100, np.uint8)
    >>> overlay(grey, [[0.0, -1.0], [0.0, 2.0]], colormap="viridis", opacity=0.5)[:, :, 2]
    array([[100, 100],
           [100,  69]], dtype=uint8)
    """
    check_picture(pixels)
    values = as_heatmap(heatmap)
    if values.shape != pixels.shape[:2]:
        raise CamlucidaError(f"heatmap: {values.shape} does not fit the picture {pixels.shape[:2]}; resize it first")
    seen = None if seen is None else np.asarray(seen)
    if seen is not None and (seen.dtype != np.bool_ or seen.shape != values.shape):
        raise CamlucidaError(f"seen: expected a bool array {values.shape}, got {seen.dtype} {seen.shape}")
    if not 0 <= opacity <= 1:
        raise CamlucidaError(f"opacity: expected a number in [0, 1], got {opacity}")
    if limit is not None and not 0 < limit < np.inf:
        raise CamlucidaError(f"limit: expected a positive number, got {limit}")
    if seen is not None:
        values = np.where(seen, values, 0)  # what the network never saw sets no limit either
    colormap = colormap or ("coolwarm" if signed else "inferno")
    if limit is None:
        limit = max(float(values.max()), -float(values.min()) if signed else 0.0)

    height, width = values.shape
    # A captioned picture becomes READABLE pixels wide, but never very tall.
    times = max(1, min(ceil(READABLE / width), 2048 // height)) if caption or unit else 1
    drawn = _blend(pixels, values, table(colormap), signed=signed, limit=limit, opacity=opacity)
    drawn = _enlarge(drawn, times)
    if seen is not None:
        drawn = _hatch(drawn, _enlarge(pixels, times), _enlarge(seen, times))
    if boxes is not None:
        drawn = draw_boxes(drawn, as_boxes(boxes) * times)
    height, width = drawn.shape[:2]
    # The font grows with the picture, but not with a panorama's long side alone.
    size = min(max(13, round(min(width, 2 * height) / 28)), 160)
    width = max(width, READABLE)
    bars = [caption_bar(caption, width, size)] if caption else []
    if unit:
        bars.append(colorbar(colormap, -limit if signed else 0.0, limit, unit=unit, width=width, size=size))
    return _stack([drawn, *bars]) if bars else drawn


def draw_boxes(pixels: Pixels, boxes: ArrayLike) -> Pixels:
    """Draw boxes: a white line on the pixels just inside, between dark lines that keep it visible on any picture.

    Args:
        pixels: uint8 H×W×3.
        boxes: (M, 4), half-open xyxy pixels, rounded to whole ones; what lies outside of the picture is not drawn.

    Returns:
        uint8 H×W×3. The line's thickness is about 1/150 of the picture's shorter side.

    Raises:
        CamlucidaError: a bad picture or box.
    """
    check_picture(pixels)
    corners = np.rint(as_boxes(boxes))
    height, width = pixels.shape[:2]
    line = max(1, round(min(height, width) / 150))
    halo = max(1, line // 2)
    drawn = pixels.copy()
    for grow, depth, colour in ((halo, line + 2 * halo, HALO), (0, line, LINE)):
        for x1, y1, x2, y2 in corners + np.array([-grow, -grow, grow, grow]):
            inner_x, inner_y = min(x1 + depth, x2), min(y1 + depth, y2)
            sides = (
                (x1, y1, x2, inner_y),
                (x1, max(y2 - depth, y1), x2, y2),
                (x1, y1, inner_x, y2),
                (max(x2 - depth, x1), y1, x2, y2),
            )
            for side in sides:
                left, top, right, bottom = np.clip(side, 0, [width, height, width, height]).astype(int)
                drawn[top:bottom, left:right] = colour
    return drawn


def contact_sheet(
    pictures: Sequence[Pixels], captions: Sequence[str] | None = None, columns: int | None = None
) -> Pixels:
    """Lay pictures out in a grid of equal cells; they keep their proportions.

    Args:
        pictures: uint8 H×W×3, of any sizes; each is scaled to a longest side of 320 pixels.
        captions: a text below each picture, two rows at most.
        columns: of the grid; about as many as rows where not given.

    Returns:
        uint8 H×W×3.

    Raises:
        CamlucidaError: no picture, a bad one, a number of captions that differs, or columns below 1.
    """
    if len(pictures) == 0:
        raise CamlucidaError("pictures: expected at least one, got none")
    if captions is not None and len(captions) != len(pictures):
        raise CamlucidaError(f"captions: expected one a picture ({len(pictures)}), got {len(captions)}")
    columns = 1 + isqrt(len(pictures) - 1) if columns is None else columns
    if columns < 1:
        raise CamlucidaError(f"columns: expected at least 1, got {columns}")
    fitted = [_fit(picture) for picture in pictures]
    width = max(CELL // 2, *(picture.shape[1] for picture in fitted))
    height = max(picture.shape[0] for picture in fitted)
    bars = [caption_bar(text, width, rows=2) for text in captions or ()]
    below = max((bar.shape[0] for bar in bars), default=0)
    gap, rows = 8, ceil(len(fitted) / columns)
    columns = min(columns, len(fitted))
    sheet = np.full((gap + rows * (height + below + gap), gap + columns * (width + gap), 3), PAPER, np.uint8)
    for index, picture in enumerate(fitted):
        y, x = gap + index // columns * (height + below + gap), gap + index % columns * (width + gap)
        h, w = picture.shape[:2]
        top, left = y + (height - h) // 2, x + (width - w) // 2
        sheet[top : top + h, left : left + w] = picture
        if bars:
            sheet[y + height : y + height + bars[index].shape[0], x : x + width] = bars[index]
    return sheet


def check_picture(pixels: Pixels) -> None:
    """Raise CamlucidaError unless this is a picture: uint8 H×W×3 with H, W >= 1."""
    if not isinstance(pixels, np.ndarray):
        raise CamlucidaError(f"picture: expected a uint8 array H×W×3, got {type(pixels).__name__}")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise CamlucidaError(f"picture: expected a uint8 array H×W×3, got {pixels.dtype} {pixels.shape}")


def _blend(
    pixels: Pixels,
    values: NDArray[np.floating],
    colours: NDArray[np.uint8],
    *,
    signed: bool,
    limit: float,
    opacity: float,
) -> Pixels:
    """Mix each pixel with its value's colour, in float32, a strip of rows at a time."""
    drawn = pixels.copy()
    if limit <= 0:
        return drawn
    fine = np.linspace(-1 if signed else 0, 1, LEVELS)
    weight = opacity * np.abs(fine)
    between = [np.interp(np.linspace(0, 255, LEVELS), np.arange(256), channel) for channel in colours.T]
    tint = (np.stack(between, axis=1) * weight[:, None] + 0.5).astype(np.float32)  # + 0.5, then cut: rounded
    kept = (1 - weight).astype(np.float32)[:, None]
    rows = max(1, 2**18 // pixels.shape[1])
    for top in range(0, pixels.shape[0], rows):
        share = np.clip(values[top : top + rows] / np.float64(limit), -1 if signed else 0, 1)
        index = np.rint(((share + 1) / 2 if signed else share) * (LEVELS - 1)).astype(np.int16)
        # np.take gathers rows three times as fast as indexing does
        drawn[top : top + rows] = pixels[top : top + rows] * np.take(kept, index, 0) + np.take(tint, index, 0)
    return drawn


def _hatch(drawn: Pixels, pixels: Pixels, seen: NDArray[np.bool_]) -> Pixels:
    """Put a dim grey version of the picture, under diagonal lines, where `seen` is False."""
    height, width = seen.shape
    period = max(6, round(min(height, width) / 32))
    one_period = (np.arange(period)[:, None] + np.arange(width)) % period < max(1, period // 6)
    lines = 44 * one_period.astype(np.uint8)[np.arange(height) % period]
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    dim = np.rint(48 + 0.4 * np.arange(256)).astype(np.uint8)  # 48 … 150: lines 44 lighter show on all of it
    return np.where(seen[..., None], drawn, (dim[grey] + lines)[..., None])


def _fit(picture: Pixels) -> Pixels:
    """Scale a picture to a longest side of CELL pixels."""
    check_picture(picture)
    height, width = picture.shape[:2]
    scale = CELL / max(height, width)
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    fitted: Pixels = cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return fitted


def _enlarge(array: NDArray[Pixel], times: int) -> NDArray[Pixel]:
    """Repeat rows and columns."""
    return array if times == 1 else array.repeat(times, axis=0).repeat(times, axis=1)


def _stack(parts: Sequence[Pixels]) -> Pixels:
    """Put pictures below each other, centred."""
    width = max(part.shape[1] for part in parts)
    margins = [width - part.shape[1] for part in parts]
    bordered = [
        cv2.copyMakeBorder(part, 0, 0, margin // 2, margin - margin // 2, cv2.BORDER_CONSTANT, value=PAPER)
        for part, margin in zip(parts, margins, strict=True)
    ]
    return np.concatenate(bordered)
