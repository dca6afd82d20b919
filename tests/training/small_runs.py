"""A training run of seconds: twenty pixels, two shapes, three classes of noise. Also a script, for runs to be killed.

python small_runs.py OUT '{"epochs": 2}' [STEP at which it is killed]
"""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from camlucida.data.record import Example
from camlucida.training.config import TrainConfig

SIZE = 20
CLASSES = ("square", "bar", "cross")


def picture(number: int) -> NDArray[np.uint8]:
    """Noise with one bright shape whose kind is ``number % 3``."""
    rng = np.random.default_rng([1, number])
    pixels = rng.integers(0, 90, (SIZE, SIZE, 3), np.uint8)
    y, x = rng.integers(1, SIZE - 8, 2)
    kind = number % 3
    if kind == 0:
        pixels[y : y + 6, x : x + 6] = 220
    else:
        pixels[y + 2 : y + 4, x : x + 7] = 220
        if kind == 2:
            pixels[y : y + 7, x + 2 : x + 4] = 220
    return pixels


def examples(count: int, first: int = 0) -> list[Example]:
    """Pictures made on the fly, with one label each."""
    return [
        Example(f"{n}", Path(), (n % 3,), made=partial(picture, n)) for n in range(first, first + count)
    ]  # fmt: skip


def config(**changes: Any) -> TrainConfig:
    """A network of some thousand weights, on 4×4 cells or 5×5."""
    usual: dict[str, Any] = {"backbone": "small:6-8", "size": SIZE, "stride": 4, "epochs": 2, "batch": 8, "seed": 3}
    return TrainConfig(**(usual | changes))


def train(out: Path, train_count: int = 36, **changes: Any) -> Path:
    """Fit; 12 pictures to validate on."""
    from camlucida.training.fit import fit

    return fit(config(**changes), examples(train_count), examples(12, 1000), CLASSES, out)


if __name__ == "__main__":
    from importable import make_importable

    make_importable()
    torch.set_num_threads(1)
    from camlucida.training import classifier_training as module
    from camlucida.training.fit import fit

    whole = module.ClassifierTraining.training_step

    def training_step(self: Any, batch: Any, index: int) -> Any:
        """Kill this process when the step that was asked for begins."""
        if self.global_step == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, batch, index)

    if len(sys.argv) > 3:
        module.ClassifierTraining.training_step = training_step
    fit(
        config(**json.loads(sys.argv[2])), examples(36), examples(12, 1000), CLASSES, Path(sys.argv[1]),
        on_epoch=lambda row: print(row["epoch"], flush=True),
    )  # fmt: skip
