"""Explaining many files: decoding and preprocessing ahead in threads, one batch at a time through the model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ImageError
from camlucida.explainer import Explainer
from camlucida.explanation import Explanation
from camlucida.images.ahead import HELD, ahead
from camlucida.images.picture import Picture, read
from camlucida.images.preprocess import Preprocess, View
from camlucida.targets import Classes

Prepared = tuple[Picture, tuple[NDArray[np.float32], View]]


def explain_files(
    explainer: Explainer,
    paths: Iterable[str | Path],
    classes: Classes = 1,
    *,
    on_error: Callable[[ImageError], None],
    batch: int = 16,
) -> Generator[Explanation]:
    """Explain picture files, a batch after the other; memory does not grow with their number.

    Args:
        explainer: the prepared model.
        paths: the files, read lazily.
        classes: see ``explain``.
        on_error: told of every file that is no readable picture; the others go on. Called in the caller's thread.
        batch: pictures that go through the model at once; fewer where they hold more than ``ahead.HELD`` bytes.

    Yields:
        Explanations of up to ``batch`` pictures, in the files' order.
    """
    ready: list[Prepared] = []
    for prepared in _prepared(explainer.preprocess, paths, on_error, batch):
        ready.append(prepared)
        if len(ready) == batch or sum(picture.pixels.nbytes for picture, _ in ready) >= HELD:
            yield _explained(explainer, ready, classes)
            ready = []
    if ready:
        yield _explained(explainer, ready, classes)


def _explained(explainer: Explainer, ready: list[Prepared], classes: Classes) -> Explanation:
    return explainer.explain_prepared([picture for picture, _ in ready], [values for _, values in ready], classes)


def _prepared(
    preprocess: Preprocess, paths: Iterable[str | Path], on_error: Callable[[ImageError], None], batch: int
) -> Iterator[Prepared]:
    """Pictures read and preprocessed, at most one batch ahead."""

    def prepare(path: str | Path) -> Prepared:
        picture = read(path)
        return picture, preprocess(picture.pixels)

    size = HELD  # bytes of the picture before: the next will be about as large; the first may be of any size

    def most() -> int:
        return min(batch + 1, 1 + HELD // size)

    for future in ahead(prepare, paths, most):
        try:
            prepared = future.result()
        except ImageError as error:
            on_error(error)
            continue
        size = prepared[0].pixels.nbytes
        yield prepared
