"""What keeps runs of seconds short: one thread, pictures packed lightly; and Lightning, made importable first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from importable import make_importable
from PIL import Image

torch.set_num_threads(1)  # tests/nets.py does it too, but is not imported where this folder is tested alone
make_importable()


@pytest.fixture(autouse=True, scope="module")
def light_png() -> Iterator[None]:
    """Save PNGs at the lowest compression: packing the log's sheet of maps takes longer than a small run's epoch."""
    Image.preinit()
    whole = Image.SAVE["PNG"]

    def save(image: Any, *file: Any, **options: Any) -> None:
        image.encoderinfo.setdefault("compress_level", 1)
        whole(image, *file, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Image.SAVE, "PNG", save)
        yield
