"""Batches of prepared images, read ahead: decoded and preprocessed in threads while a model runs on the last batch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ImageError
from camlucida.images.ahead import HELD, ahead
from camlucida.images.picture import Picture
from camlucida.images.preprocess import Preprocess, View

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class PreparedImage(Generic[Item]):
    """One image, ready for a network.

    Attributes:
        item: what it was read from.
        picture: the image itself.
        values: float32 (C, H, W), the network's input.
        view: what the input covers of the image.
    """

    item: Item
    picture: Picture
    values: NDArray[np.float32]
    view: View


def prepared_batches(
    items: Iterable[Item],
    read: Callable[[Item], Picture],
    preprocess: Preprocess,
    *,
    batch: int,
    on_error: Callable[[Item, ImageError], None],
) -> Generator[list[PreparedImage[Item]]]:
    """Read and preprocess items in threads, at most one batch ahead of the caller; memory does not grow with them.

    Args:
        items: read lazily, in the caller's thread.
        read: from an item to its image; called in other threads.
        preprocess: how images become inputs.
        batch: images in a batch; fewer where they hold more than ``ahead.HELD`` bytes.
        on_error: called, in the caller's thread, with every item that is no readable image; the others go on.

    Yields:
        Batches in the items' order.
    """

    def prepare(item: Item) -> PreparedImage[Item] | tuple[Item, ImageError]:
        try:
            picture = read(item)
            values, view = preprocess(picture.of_channels(preprocess.channels))
        except ImageError as error:
            return item, error
        return PreparedImage(item, picture, values, view)

    size = HELD  # bytes of the image before: the next will be about as large; the first may be of any size

    def most() -> int:
        return min(batch + 1, 1 + HELD // size)

    ready: list[PreparedImage[Item]] = []
    for future in ahead(prepare, items, most):
        prepared = future.result()
        if not isinstance(prepared, PreparedImage):
            on_error(*prepared)
            continue
        size = prepared.picture.pixels.nbytes
        ready.append(prepared)
        if len(ready) == batch or sum(each.picture.pixels.nbytes for each in ready) >= HELD:
            yield ready
            ready = []
    if ready:
        yield ready
