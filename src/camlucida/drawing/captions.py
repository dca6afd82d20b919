"""Bars of text that go below a picture: captions and legends. Light paper, dark ink, Pillow's built-in font."""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from unicodedata import combining, normalize

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from camlucida.drawing.colormaps import table

PAPER, INK = (246, 246, 246), (34, 34, 34)

# What stands in for signs that the font lacks and Unicode does not take apart.
STAND_INS = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "×": "x", "→": "->", "←": "<-", "≤": "<=", "≥": ">=", "≈": "~", "•": "·"}
    | {"⁄": "/", "ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}
    | {"đ": "d", "Đ": "D", "ı": "i"}
)


def caption_bar(text: str, width: int, size: int = 14, *, rows: int = 3) -> NDArray[np.uint8]:
    """Set text on a bar: wrapped at words, and ended by "…" where it does not fit.

    Pillow's built-in font has few glyphs: accents it lacks are dropped ("é" → "e"), other signs become "?".

    Args:
        text: line breaks are kept.
        width: of the bar, pixels.
        size: of the font, pixels.
        rows: of text at most.

    Returns:
        uint8 h×width×3.
    """
    font, margin, pitch = _font(size), size // 2, round(1.3 * size)
    lines = _wrap(_printable(text), font, width - 2 * margin, rows)
    bar = Image.new("RGB", (width, 2 * margin + len(lines) * pitch), PAPER)
    pen = ImageDraw.Draw(bar)
    for row, line in enumerate(lines):
        pen.text((margin, margin + row * pitch), line, INK, font)
    return np.array(bar)


def colorbar(
    colormap: str, low: float, high: float, *, unit: str = "logits per cell", width: int = 320, size: int = 14
) -> NDArray[np.uint8]:
    """Draw the legend of a colormap: its colours, the values at both ends, the unit between them.

    Args:
        colormap: one of `COLORMAPS`.
        low: value of the table's first colour.
        high: value of the table's last colour.
        unit: what the values are.
        width: of the bar, pixels.
        size: of the font, pixels.

    Returns:
        uint8 h×width×3. If 0 lies in the exact middle, a tick marks it.
    """
    colours = table(colormap)
    font, margin, strip = _font(size), size // 2, max(4, size * 2 // 3)
    length, text_top = max(1, width - 2 * margin), margin + strip + size // 4
    pixels = np.full((text_top + round(1.3 * size) + margin // 2, width, 3), PAPER, np.uint8)
    pixels[margin : margin + strip, margin : margin + length] = colours[
        np.rint(np.linspace(0, 255, length)).astype(int)
    ]
    bar = Image.fromarray(pixels)
    pen = ImageDraw.Draw(bar)
    if low == -high != 0:
        pen.line([(width // 2, margin), (width // 2, margin + strip - 1)], INK, max(1, size // 14))
    first, last = f"{low + 0.0:.3g}", f"{high:{'+' if low < 0 else ''}.3g}"
    side = max(font.getlength(first), font.getlength(last)) + margin  # the unit stays clear of both numbers
    pen.text((margin, text_top), first, INK, font)
    pen.text((width - margin, text_top), last, INK, font, anchor="ra")
    pen.text((width / 2, text_top), _shorten(_printable(unit), font, length - 2 * side), INK, font, anchor="ma")
    return np.array(bar)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@cache
def _has_glyph(sign: str) -> bool:
    """Whether the font draws this sign as something other than its box for missing ones."""
    drawn, missing = (_font(20).getmask(each) for each in (sign, "\uffff"))
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


def _printable(text: str) -> str:
    """Replace what the font lacks: a stand-in, the letter without its accent, or "?"."""
    pieces = []
    for sign in text if len(text) <= 1000 else text[:1000] + "…":
        if sign.isspace() or _has_glyph(sign):
            pieces.append(sign)
            continue
        parts = [part for part in normalize("NFKD", sign) if not combining(part)]
        plain = "".join(parts).translate(STAND_INS)
        pieces.append("".join(part if part == " " or _has_glyph(part) else "?" for part in plain))
    return "".join(pieces)


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Cut a line that is too long and end it with "…"; nothing is left where not even that fits."""
    if font.getlength(text) <= width:
        return text
    kept = bisect_right(range(1, len(text)), width, key=lambda count: font.getlength(text[:count] + "…"))
    return text[:kept].rstrip() + "…" if kept else ""


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float, rows: int) -> list[str]:
    """Break text at spaces into at most `rows` lines."""
    lines = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    lines = [*lines[: rows - 1], " ".join(lines[rows - 1 :])] if len(lines) > rows else lines
    return [_shorten(line, font, width) for line in lines]
