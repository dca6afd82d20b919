"""Resize, crop, normalize, and the way back: grid cell -> image pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camlucida.errors import CamlucidaError, ImageError, ModelError

Fit = Literal["crop", "stretch", "pad"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
ChannelOrder = Literal["rgb", "bgr"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_MAX_RESIZED = 64_000_000  # pixels; a longer picture is resized only where the crop sees it
_MAX_SIDE = 2**14  # pixels of a network's input


@dataclass(frozen=True)
class View:
    """What a network's input covers of a picture. Resizing, cropping and padding are all axis-aligned, so one rectangle
    says everything.

    Attributes:
        image_hw: height and width of the original picture, pixels.
        seen_xyxy: the rectangle that the network's input covers, in pixels of the original; pixel i spans [i, i+1).
            It is smaller than the picture after a crop and larger after padding.
    """

    image_hw: tuple[int, int]
    seen_xyxy: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.seen_xyxy
        if min(self.image_hw) < 1:
            raise CamlucidaError(f"view: expected a picture of at least 1×1 pixels, got image_hw={self.image_hw}")
        if not (x0 < x1 and y0 < y1 and all(map(math.isfinite, self.seen_xyxy))):
            raise CamlucidaError(f"view: expected x0 < x1 and y0 < y1, finite, got seen_xyxy={self.seen_xyxy}")

    @classmethod
    def whole(cls, image_hw: tuple[int, int]) -> View:
        """The network saw exactly the whole picture.

        >>> View.whole((2, 3)).seen_xyxy
        (0.0, 0.0, 3.0, 2.0)
        """
        return cls(image_hw, (0.0, 0.0, float(image_hw[1]), float(image_hw[0])))

    def cell_box(self, row: int, column: int, grid_hw: tuple[int, int]) -> tuple[float, float, float, float]:
        """The rectangle of one grid cell, clipped to the picture.

        Args:
            row: 0 to h-1, from the top.
            column: 0 to w-1, from the left.
            grid_hw: rows and columns of the grid that lies over the seen rectangle.

        Returns:
            xyxy in pixels of the original picture; of no area where the cell lies in the padding.

        Raises:
            CamlucidaError: there is no such cell.

        >>> View.whole((8, 8)).cell_box(0, 3, (4, 4))
        (6.0, 0.0, 8.0, 2.0)
        """
        (height, width), (rows, columns) = self.image_hw, grid_hw
        if not (0 <= row < rows and 0 <= column < columns):
            raise CamlucidaError(f"view: no cell ({row}, {column}) in a grid of {rows}×{columns}; count from 0")
        x0, y0, x1, y1 = self.seen_xyxy
        xs = [min(max(x0 + (x1 - x0) * i / columns, 0.0), float(width)) for i in (column, column + 1)]
        ys = [min(max(y0 + (y1 - y0) * i / rows, 0.0), float(height)) for i in (row, row + 1)]
        return xs[0], ys[0], xs[1], ys[1]

    def project(self, grid: NDArray[Any], size_hw: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """Lay maps over the picture: half-pixel bilinear, held at the edge cells' values, 0 where nothing was seen.

        Equals `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` where everything was seen. When
        the picture is smaller than the grid it is not smoothed.

        Args:
            grid: ..., h, w of any real dtype; at the network's own grid.
            size_hw: lay them over the picture scaled to this height and width; None: its original size.

        Returns:
            ..., H, W float32, in the grid's unit.

        Raises:
            CamlucidaError: `grid` has no rows and columns, or `size_hw` is empty.

        >>> View((2, 8), (4, 0, 8, 2)).project(np.array([[1.0, 3.0]])).tolist()
        [[0.0, 0.0, 0.0, 0.0, 1.0, 1.5, 2.5, 3.0], [0.0, 0.0, 0.0, 0.0, 1.0, 1.5, 2.5, 3.0]]
        """
        grid = np.asarray(grid)
        if grid.ndim < 2 or 0 in grid.shape[-2:]:
            raise CamlucidaError(f"view: expected maps of shape (..., h, w), got {grid.shape}")
        (height, y0, y1), (width, x0, x1) = self._spans(size_hw)
        rows = interpolation_matrix(height, grid.shape[-2], y0, y1)
        tall = (rows @ grid).astype(np.float32)
        # Across, two cells at a time: a matrix product would multiply with mostly zeros, in threads of its own.
        low, share = _two_cells(width, grid.shape[-1], x0, x1)
        high = np.minimum(low + 1, grid.shape[-1] - 1)
        inside = _inside(width, x0, x1).astype(np.float32)
        laid: NDArray[np.float32] = np.take(tall, low, -1) * ((1 - share) * inside).astype(np.float32)
        laid += np.take(tall, high, -1) * (share * inside).astype(np.float32)
        return laid

    def seen(self, size_hw: tuple[int, int] | None = None) -> NDArray[np.bool_]:
        """Which pixels the network saw: those whose centre lies in the seen rectangle.

        Args:
            size_hw: for the picture scaled to this height and width; None: its original size.

        Returns:
            H×W bool.

        Raises:
            CamlucidaError: `size_hw` is empty.

        >>> View((1, 4), (1, 0, 3, 1)).seen().tolist()
        [[False, True, True, False]]
        """
        rows, columns = (_inside(*span) for span in self._spans(size_hw))
        return rows[:, None] & columns[None, :]

    def _spans(self, size_hw: tuple[int, int] | None) -> tuple[tuple[int, float, float], tuple[int, float, float]]:
        """Pixels, and start and stop of the seen rectangle, down and across the picture at this size."""
        height, width = self.image_hw if size_hw is None else size_hw
        if height < 1 or width < 1:
            raise CamlucidaError(f"view: expected a size of at least 1×1 pixels, got size_hw={size_hw}")
        down, across = height / self.image_hw[0], width / self.image_hw[1]
        x0, y0, x1, y1 = self.seen_xyxy
        return (height, y0 * down, y1 * down), (width, x0 * across, x1 * across)


def interpolation_matrix(outputs: int, cells: int, start: float, stop: float) -> NDArray[np.float64]:
    """Weights of half-pixel bilinear interpolation along one axis: `values = matrix @ cell_values`.

    The cells cover [start, stop) in units of output pixels. Output pixel i has its centre at i + 0.5; between the
    centres of two cells it mixes them linearly, beyond the outermost centres it holds the outermost cell. Two of them
    resize a map: `rows @ map @ columns.T`. At an integer scale over the whole axis every column sums to that scale, so
    the mean stays.

    Args:
        outputs: number of output pixels, at least 1.
        cells: number of cells, at least 1.
        start: where the first cell begins.
        stop: where the last cell ends; more than `start`.

    Returns:
        outputs×cells float64; a row sums to 1, or is 0 where the pixel's centre lies outside [start, stop).

    Raises:
        CamlucidaError: a number is out of range.

    >>> interpolation_matrix(4, 2, 0, 4)
    array([[1.  , 0.  ], [0.75, 0.25], [0.25, 0.75], [0.  , 1.  ]])
    """
    if outputs < 1 or cells < 1 or not start < stop:
        got = f"{outputs}, {cells}, {start}, {stop}"
        raise CamlucidaError(f"interpolation: expected outputs >= 1, cells >= 1 and start < stop, got {got}")
    low, share = _two_cells(outputs, cells, start, stop)
    pixel = np.arange(outputs)
    matrix = np.zeros((outputs, cells))
    matrix[pixel, low] = 1 - share
    matrix[pixel, np.minimum(low + 1, cells - 1)] += share
    matrix[~_inside(outputs, start, stop)] = 0
    return matrix


def _two_cells(outputs: int, cells: int, start: float, stop: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """For each output pixel the first of the two cells that it lies between, and the second one's share."""
    centres = np.arange(outputs) + 0.5
    position = np.clip((centres - start) * (cells / (stop - start)) - 0.5, 0, cells - 1)
    low = np.floor(position).astype(np.intp)
    return low, position - low


def _inside(outputs: int, start: float, stop: float) -> NDArray[np.bool_]:
    centres = np.arange(outputs) + 0.5
    inside: NDArray[np.bool_] = (start <= centres) & (centres < stop)
    return inside


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes a network's input, as torchvision and timm do it for evaluation.

    First the target is enlarged by `1 / crop_fraction` (rounded down, as timm does); the picture is resized to it with
    Pillow's antialiased filters; then the middle of `size_hw` is cut out (or padded with the mean colour); then
    `(value * scale / 255 - mean) / std`. The fit says how the picture is resized to that target:

    - "crop": keeping its shape, so that it covers the target. For a square target its short side becomes that long;
    - "stretch": exactly to it, whatever its shape;
    - "pad": keeping its shape, so that it fits into the target.

    Attributes:
        size_hw: height and width of the network's input, pixels.
        fit: see above.
        crop_fraction: timm's `crop_pct`; torchvision's `crop_size / resize_size`.
        interpolation: the filter of Pillow's `resize`.
        mean: of each channel of the network's input, in its order, in units of `scale`. As many as it has channels: one
            takes a colour picture's luminance; other numbers than 1 and 3 take arrays of so many channels.
        std: as `mean`.
        scale: what white becomes before mean and std: 1 (values 0 to 1) or 255 (values 0 to 255, as OpenCV's).
        order: of the network's input, where it has three channels.

    Raises:
        ModelError: a field is out of range.

    >>> preprocess = Preprocess((224, 224), crop_fraction=224 / 256)
    >>> values, view = preprocess(np.zeros((512, 1024, 3), np.uint8))
    >>> values.shape, view.seen_xyxy
    ((3, 224, 224), (288.0, 32.0, 736.0, 480.0))
    >>> opencv = Preprocess((2, 2), mean=(104, 117, 123), std=(1, 1, 1), scale=255, order="bgr")
    >>> opencv(np.full((4, 4, 3), (255, 0, 0), np.uint8))[0][:, 0, 0].tolist()
    [-104.0, -117.0, 132.0]
    """

    size_hw: tuple[int, int]
    fit: Fit = "crop"
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    scale: float = 1.0
    order: ChannelOrder = "rgb"

    def __post_init__(self) -> None:
        sizes, scale = (int, np.integer), self.scale
        high = "" if scale == 255 else "; for values of 0 to 255 say scale=255"
        checks = {
            "size_hw": (
                len(self.size_hw) == 2 and all(isinstance(n, sizes) and 0 < n <= _MAX_SIDE for n in self.size_hw),
                f"two whole numbers above 0 (height, width), at most {_MAX_SIDE}",
            ),
            "fit": (self.fit in get_args(Fit), "one of " + ", ".join(get_args(Fit))),
            "crop_fraction": (0 < self.crop_fraction <= 1, "above 0, at most 1"),
            "interpolation": (self.interpolation in get_args(Interpolation), f"one of {get_args(Interpolation)}"),
            "scale": (0 < scale <= 65535, "above 0, at most 65535: what white becomes, mostly 1 or 255"),
            "mean": (
                len(self.mean) > 0 and all(-scale <= m <= scale for m in self.mean),
                f"a number for each channel, of -{scale:g} to {scale:g}{high}",
            ),
            "std": (
                len(self.std) == len(self.mean) and all(0 < s <= scale for s in self.std),
                f"as many numbers as means, above 0, at most {scale:g}{high}",
            ),
            "order": (self.order in get_args(ChannelOrder), "one of rgb, bgr"),
        }
        for field, (is_right, expected) in checks.items():
            if not is_right:
                raise ModelError(f"preprocess: expected {field} {expected}, got {getattr(self, field)!r}")

    @property
    def channels(self) -> int:
        """How many channels the network's input has."""
        return len(self.mean)

    @property
    def words(self) -> str:
        """Channels, range, mean and std in a line.

        >>> Preprocess((8, 8), mean=(0.5,), std=(0.5,)).words
        'grey, 0 to 1, mean 0.5, std 0.5'
        """
        kinds = {1: "grey", 3: self.order.upper()}
        numbers = [
            ", ".join(f"{number:g}" for number in (each if len(set(each)) > 1 else each[:1]))
            for each in (self.mean, self.std)
        ]
        if (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD):
            norm = "ImageNet's mean and std"
        else:
            norm = f"mean {numbers[0]}, std {numbers[1]}"
        return f"{kinds.get(self.channels, f'{self.channels} channels')}, 0 to {self.scale:g}, {norm}"

    def __call__(self, pixels: NDArray[Any]) -> tuple[NDArray[np.float32], View]:
        """Prepare one picture.

        Args:
            pixels: H×W×3 uint8, RGB; or H×W×channels uint8, or float32 in [0, 1]. Not modified.

        Returns:
            The network's input, channels×h×w float32, and what it covers of the picture.

        Raises:
            ImageError: `pixels` is of another shape or dtype.
        """
        own, count = pixels.shape[2] if pixels.ndim == 3 else 0, self.channels
        luminance = own == 3 and count == 1 and pixels.dtype == np.uint8
        if pixels.size == 0 or pixels.dtype not in (np.uint8, np.float32) or not (own == count or luminance):
            raise ImageError(
                f"array: expected uint8 of shape H×W×{count}, got {pixels.dtype} of shape {pixels.shape}; "
                "give as many channels as the preprocess has means"
            )
        image_hw = (pixels.shape[0], pixels.shape[1])
        resized_hw = self._resized_hw(image_hw)
        top, left = (_offset(*sides) for sides in zip(resized_hw, self.size_hw, strict=True))
        view = View(image_hw, _seen_xyxy(image_hw, resized_hw, (top, left), self.size_hw))
        planes = [
            plane
            for image, colour in self._images(pixels)
            for plane in _planes(self._resize(image, resized_hw, (top, left), view, colour))
        ]
        if self.order == "bgr" and count == 3:
            planes.reverse()
        mean, std = (np.array(numbers, np.float32)[:, None] for numbers in (self.mean, self.std))
        white = np.float32(255 / self.scale)
        if pixels.dtype == np.float32:
            values = np.stack(planes) * np.float32(self.scale)
            return ((values - mean[:, :, None]) / std[:, :, None]).astype(np.float32), view
        table = (np.arange(256, dtype=np.float32) / white - mean) / std  # of each channel's 256 levels
        return np.stack([levels[plane] for levels, plane in zip(table, planes, strict=True)]), view

    def _images(self, pixels: NDArray[Any]) -> list[tuple[Image.Image, tuple[float, ...]]]:
        """The picture as Pillow resizes it, at once or channel by channel, each with the colour of padding."""
        white = 1.0 if pixels.dtype == np.float32 else 255.0
        padding = [min(max(white * mean / self.scale, 0.0), white) for mean in self.mean]
        if self.order == "bgr" and self.channels == 3:
            padding.reverse()
        if pixels.dtype == np.uint8:
            padding = [round(level) for level in padding]
            if pixels.shape[2] == 3:
                image = Image.fromarray(pixels)
                return [(image if self.channels == 3 else image.convert("L"), tuple(padding))]
        return [
            (Image.fromarray(np.ascontiguousarray(pixels[:, :, channel])), (level,))
            for channel, level in enumerate(padding)
        ]

    def _resized_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Size of the whole picture after resizing, rounded as torchvision's `Resize` and timm's transforms round."""
        height, width = (_floor(side / self.crop_fraction) for side in self.size_hw)
        if self.fit == "stretch":
            return height, width
        if self.fit == "crop" and height == width:
            short, long = sorted(image_hw)
            resized = (height, int(height * long / short))
            return resized if image_hw[0] <= image_hw[1] else resized[::-1]
        ratios = (image_hw[0] / height, image_hw[1] / width)
        ratio = min(ratios) if self.fit == "crop" else max(ratios)
        return max(1, round(image_hw[0] / ratio)), max(1, round(image_hw[1] / ratio))

    def _resize(
        self,
        image: Image.Image,
        resized_hw: tuple[int, int],
        offset: tuple[int, int],
        view: View,
        padding: tuple[float, ...],
    ) -> Image.Image:
        """The network's input as a picture of `size_hw`."""
        (height, width), (top, left) = self.size_hw, offset
        resampling = Image.Resampling[self.interpolation.upper()]
        if self.fit == "crop" and resized_hw[0] * resized_hw[1] > _MAX_RESIZED:
            return image.resize((width, height), resampling, box=view.seen_xyxy)
        resized = image.resize((resized_hw[1], resized_hw[0]), resampling)
        canvas = Image.new(image.mode, (width, height), padding if len(padding) > 1 else padding[0])
        canvas.paste(resized, (-left, -top))
        return canvas


def _planes(image: Image.Image) -> list[NDArray[Any]]:
    """The channels of a picture, each H×W."""
    array = np.asarray(image)
    return [array] if array.ndim == 2 else list(array.transpose(2, 0, 1))


def _floor(side: float) -> int:
    """Round down, but take 231.99999999999997 (of 224 / (224 / 232)) for what was meant."""
    return math.floor(side + 1e-6)


def _offset(resized: int, size: int) -> int:
    """Where the middle `size` pixels begin, as torchvision's `CenterCrop` counts: negative where padding is needed."""
    return round((resized - size) / 2) if resized >= size else -((size - resized) // 2)


def _seen_xyxy(
    image_hw: tuple[int, int], resized_hw: tuple[int, int], offset: tuple[int, int], size_hw: tuple[int, int]
) -> tuple[float, float, float, float]:
    """The cut-out in pixels of the original; the scale differs a little between the axes, for sizes are whole."""
    down, across = image_hw[0] / resized_hw[0], image_hw[1] / resized_hw[1]
    (top, left), (height, width) = offset, size_hw
    return left * across, top * down, (left + width) * across, (top + height) * down
