"""The sample picture that ships with the package."""

from __future__ import annotations

from importlib import resources

from camlucida.images.picture import Picture, read


def sample() -> Picture:
    """A cat: "Chelsea" by Stéfan van der Walt, CC0, from scikit-image's sample pictures.

    Example:
        >>> sample().pixels.shape
        (300, 451, 3)
    """
    data = (resources.files("camlucida.images") / "chelsea.jpg").read_bytes()
    return Picture(read(data).pixels, "chelsea.jpg (sample)")
