"""Files, bytes, PIL images and arrays -> upright RGB uint8; what is no picture is refused with an `ImageError`."""

from __future__ import annotations

import importlib
import io
import re
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camlucida.errors import ImageError

MAX_PIXELS = 89_478_485
"""Largest picture read; checked from the header, before decoding. As much as Pillow decodes without a warning."""

_TOO_MANY = f"more than the limit of {MAX_PIXELS // 10**6} million; scale it down or cut it first"

MAX_BYTES = 512 * 2**20
"""Largest file read, in bytes."""

# How a file of each format begins, and the Pillow plugin that reads it. The plugin is called directly, for `Image.open`
# warns of bombs through the process-wide warnings filter, which no thread can silence for itself.
_PLUGINS = (
    (re.compile(rb"\xff\xd8\xff"), "Jpeg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "Png"),
    (re.compile(rb"GIF8[79]a"), "Gif"),
    (re.compile(rb"BM"), "Bmp"),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "Tiff"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "WebP"),
    (re.compile(rb"P[1-6f]\s"), "Ppm"),
    (re.compile(rb".{4}ftypavi[fs]", re.DOTALL), "Avif"),
)

# EXIF orientation -> how to turn the stored pixels upright (EXIF 2.3, section 4.6.4, tag 0x0112).
_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda stored: np.rot90(stored, 1),
}


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture.

    Attributes:
        pixels: H×W×3 uint8, RGB, contiguous, and nobody else's memory.
        source: the name of the file, or what it came from, fit for one line of text.
        note: what the reader should know, e.g. "first frame of 12"; mostly empty.
        data: what was measured, where that is no RGB: H×W×C uint8, or float32 in [0, 1], for networks of C channels;
            ``pixels`` only show it.
    """

    pixels: NDArray[np.uint8]
    source: str
    note: str = ""
    data: NDArray[Any] | None = None

    def of_channels(self, channels: int) -> NDArray[Any]:
        """What a network of so many channels is given: ``data`` where it has as many, else ``pixels``.

        Raises:
            ImageError: the data have another number of channels, and are no grey or colour picture.
        """
        held = self.pixels if self.data is None else self.data
        own, is_byte = held.shape[2], held.dtype == np.uint8
        if own == channels:
            return held
        if channels not in (1, 3) or (own not in (1, 3) and not (own == 4 and is_byte)):
            raise ImageError(
                f"{self.source}: has {own} channels (H×W×C is {_sizes(held)}), and the model takes {channels}; "
                f"give an array H×W×{channels}"
            )
        return self.pixels


ImageSource = Picture | str | Path | bytes | Image.Image | NDArray[Any]
"""What one picture can be read from."""


def read(source: ImageSource) -> Picture:
    """Read one picture: EXIF orientation applied, transparency over white, first frame, 8 bits.

    16-bit grey is divided by 257 (never clipped). Float grey must lie in [0, 1]. Colour profiles are not applied.

    Args:
        source: a file's path, a file's bytes, a PIL image, or a uint8 array H×W, H×W×1, H×W×3 (RGB), H×W×4 (RGBA, or
            data of four channels) or H×W×C (data); for other dtypes see ``from_array``. A picture is returned as it is.

    Returns:
        The picture, H×W×3 uint8.

    Raises:
        ImageError: it is missing, no regular file, no picture of a known format, damaged, or past the limits.

    >>> read(np.full((2, 3), 7, np.uint8)).pixels[1, 2].tolist()
    [7, 7, 7]
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        return _from_bytes(source)
    if isinstance(source, Image.Image):
        name = shown(str(getattr(source, "filename", "") or "image"))
        return _from_pil(source, name)
    if isinstance(source, bytes):
        return _decode(source, "bytes")
    if isinstance(source, str | Path):
        return _decode(_file_bytes(Path(source), shown(source)), shown(source))
    raise ImageError(
        f"{type(source).__name__}: not a picture; expected a path, bytes, a PIL image or a uint8 array H×W×3"
    )


def shown(name: str | Path) -> str:
    r"""A file's name as one line of printable text: control characters, newlines and stray bytes are escaped.

    >>> print(shown("a\nb\u202e é.jpg"))
    a\nb\u202e é.jpg
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(name))


# --- one picture ------------------------------------------------------------------------------------------------------


def from_array(array: NDArray[Any], limits: tuple[float, float], source: str = "array") -> Picture:
    """A picture, or data of any number of channels, from an array of any real dtype whose range is stated.

    Args:
        array: H×W or H×W×C; not modified.
        limits: the values that are black and white: ``(0, 65535)`` for 16 bits, ``(0, 1)`` or ``(-1000, 3000)``.
        source: what it is called.

    Raises:
        ImageError: it has another shape, or values that are not finite or lie outside of the limits.

    >>> deep = from_array(np.array([[0, 65535]], np.uint16), (0, 65535))
    >>> deep.pixels[0, :, 0].tolist(), deep.of_channels(1).ravel().tolist()
    ([0, 255], [0.0, 1.0])
    """
    low, high = limits
    if array.ndim not in (2, 3) or array.size == 0 or array.dtype.kind not in "uif" or not low < high:
        raise ImageError(f"{source}: expected H×W or H×W×C numbers and limits (black, white), got {array.dtype} of "
                         f"shape {_sizes(array)} and {limits}")  # fmt: skip
    _check_size((array.shape[1], array.shape[0]), source)
    least, most = float(array.min()), float(array.max())
    if not low <= least <= most <= high:  # NaN too
        raise ImageError(f"{source}: values from {least:g} to {most:g}, outside of {low:g} to {high:g}; "
                         "give the limits that they have")  # fmt: skip
    cube = array.reshape(*array.shape[:2], -1)
    data = ((cube.astype(np.float64) - low) / (high - low)).astype(np.float32)
    return Picture(_displayed(np.rint(data * 255).astype(np.uint8)), source, data=data)


def _from_bytes(array: NDArray[Any]) -> Picture:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.size == 0:
        raise ImageError(
            f"array: expected uint8 of shape H×W, H×W×1, H×W×3 or H×W×4 with values 0 to 255, got {array.dtype} of "
            f"shape {_sizes(array)}; convert it first, or state its range: images.picture.from_array(array, (0, 65535))"
        )
    _check_size((array.shape[1], array.shape[0]), "array")
    channels = array.shape[2] if array.ndim == 3 else 1
    data = None if channels in (1, 3) else np.array(array, order="C")
    if channels == 4:
        return Picture(_over_white(Image.fromarray(np.ascontiguousarray(array))), "array", data=data)
    return Picture(_displayed(array.reshape(*array.shape[:2], channels)), "array", data=data)


def _displayed(cube: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """H×W×3 to show of H×W×C: the first three channels, or the first alone as grey."""
    shown_channels = cube[:, :, :3] if cube.shape[2] >= 3 else cube[:, :, :1]
    return np.array(np.broadcast_to(shown_channels, (*cube.shape[:2], 3)), order="C")


def _sizes(array: NDArray[Any]) -> str:
    return "×".join(map(str, array.shape)) or "()"


def _file_bytes(path: Path, name: str) -> bytes:
    try:
        status = path.stat()  # before opening: to open a FIFO would wait for ever
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{name}: a folder, not a picture; name the pictures in it")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{name}: not a regular file; give a picture file")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"{name}: {status.st_size} bytes, more than the limit of {MAX_BYTES}; scale it down first")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        what = "a link to nothing" if path.is_symlink() else "no such file"
        raise ImageError(f"{name}: {what}; check the path") from None
    except (OSError, ValueError, MemoryError) as error:
        why = reason_of(error)
        raise ImageError(f"{name}: cannot be opened ({why}); check the path and its permissions") from error


def _decode(data: bytes, name: str) -> Picture:
    plugin = next((plugin for start, plugin in _PLUGINS if start.match(data)), None)
    if plugin is None:
        if not data:
            raise ImageError(f"{name}: empty; fetch it again or leave it out")
        known = ", ".join(plugin.upper() for _, plugin in _PLUGINS)
        raise ImageError(f"{name}: not a picture in a known format ({known}); convert it to PNG or leave it out")
    try:
        opener = getattr(importlib.import_module(f"PIL.{plugin}ImagePlugin"), f"{plugin}ImageFile")
        if plugin == "Png":  # Pillow decodes whatever the checksums say
            with opener(io.BytesIO(data)) as image:
                _check_size(image.size, name)
                image.verify()
        with opener(io.BytesIO(data)) as image:
            return _from_pil(image, name)
    except ImageError:
        raise
    except ImportError as error:
        what = f"this Pillow cannot read {plugin.upper()}"
        raise ImageError(f"{name}: {what}; update it or convert the picture to PNG") from error
    except Exception as error:  # plugins raise nearly anything: SyntaxError, struct.error, OverflowError, zlib.error...
        raise _refused(name, error) from error


def _from_pil(image: Image.Image, name: str) -> Picture:
    _check_size(image.size, name)
    try:
        image.load()
        pixels = _to_rgb(image, name)
        turn = _UPRIGHT.get(_orientation(image))
        return Picture(np.ascontiguousarray(turn(pixels)) if turn else pixels, name, _frame_note(image))
    except ImageError:
        raise
    except Exception as error:
        raise _refused(name, error) from error


def _check_size(size_wh: tuple[int, int], name: str) -> None:
    width, height = size_wh
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width}×{height} pixels, nothing to see; leave it out")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width}×{height} pixels, {_TOO_MANY}")


def _to_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = _grey_8bit(image, name)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _over_white(image)
    return np.array(image.convert("RGB"))


def _over_white(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "La":
        image = image.convert("LA")
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return np.array(white)


def _grey_8bit(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Deep grey -> H×W uint8: 16 bits (also in an "I" image, as Pillow reads PGM) by 65535, floats by 1."""
    tags = cast("dict[int, Any]", getattr(image, "tag_v2", {}))  # of a TIFF
    values = np.asarray(image)
    white = 1.0 if image.mode == "F" else 4095.0 if tags.get(258) == (12,) else 65535.0
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= white) or (image.mode == "I" and tags.get(258) == (32,)):
        raise ImageError(
            f"{name}: {'float' if image.mode == 'F' else 'integer'} grey from {low:g} to {high:g}, expected "
            f"{'0 to 1' if image.mode == 'F' else '16 bits, 0 to 65535'}; convert it to 8 bits first"
        )
    grey = np.rint(values * np.float32(255 / white)).astype(np.uint8)
    if image.mode != "F" and "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return 255 - grey if image.mode == "I;16" and tags.get(262) == 0 else grey  # TIFF, "white is zero"


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def _frame_note(image: Image.Image) -> str:
    try:
        if not getattr(image, "is_animated", False):
            return ""
        which = f"frame {image.tell() + 1}" if image.tell() else "first frame"
        if image.format == "TIFF":  # Pillow counts pages in quadratic time
            return f"{which} of several"
        return f"{which} of {cast('Any', image).n_frames}"
    except Exception:  # damage behind the frame that was read
        return "first readable frame"


def _refused(name: str, error: Exception) -> ImageError:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return ImageError(f"{name}: its pixels are {_TOO_MANY}")
    return ImageError(f"{name}: damaged ({reason_of(error)}); fetch it again or leave it out")


def reason_of(error: Exception) -> str:
    """What an error says, in a few words on one line."""
    if isinstance(error.__cause__ or error, struct.error | LookupError | EOFError | TypeError):
        return "cut short or garbled"  # what they say is about the parser
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shown(said.strip().split("\n")[0])[:120] or type(error).__name__
