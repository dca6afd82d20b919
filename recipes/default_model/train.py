"""Train the demonstration model with the library's own trainer: from scratch, on image labels alone.

    python recipes/default_model/train.py DATA RUN [--threads 2]

DATA holds ``imagenette128``, ``caltech128`` and ``pets_mini``. RUN becomes a run's folder as ``camlucida train`` leaves
one: ``camlucida map --model RUN``, ``camlucida evaluate RUN`` and ``camlucida export RUN`` read it. The same command
goes on where it was killed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from classes import LABELS
from pictures import examples

from camlucida.training.config import TrainConfig
from camlucida.training.fit import fit

CONFIG = TrainConfig(
    backbone="residual:32-64-128-256",
    head="gap",
    regularizers=("cutmix:rate=0.3",),
    size=160,
    sizes=((0.0, 96), (0.45, 112), (0.75, 128)),  # crops show things enlarged: 128 pixels of them suit 160 in use
    stride=16,
    epochs=32,
    batch=64,
    lr=0.1,
    weight_decay=5e-4,
    warmup=0.12,
    label_smoothing=0.1,
    ema=0.9985,
    augment="crops",
    precision="bf16-mixed",
    seed=20161,
)
"""What ``RUN/model.json`` records."""

WATCHED = 8  # one in so many of the pictures held out is looked at after each epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train, held_out = examples(arguments.data)
    print(f"{len(train)} training pictures, {len(held_out)} held out, {len(LABELS)} classes", flush=True)
    fit(CONFIG, train, held_out[::WATCHED], LABELS, arguments.run, on_epoch=lambda row: print(row, flush=True))


if __name__ == "__main__":
    main()
