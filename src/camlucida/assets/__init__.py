"""What ships with the package: the demonstration model and a sample picture."""

from __future__ import annotations

from importlib import resources

from camlucida.images import Picture, read


def sample() -> Picture:
    """A cat: "Chelsea" by Stéfan van der Walt, CC0, from scikit-image's sample pictures.

    Example:
        >>> sample().pixels.shape
        (300, 451, 3)
    """
    data = (resources.files(__name__) / "chelsea.jpg").read_bytes()
    return Picture(read(data).pixels, "chelsea.jpg (sample)")
