"""Lightning, made importable before any test here needs it."""

from importable import make_importable

make_importable()
