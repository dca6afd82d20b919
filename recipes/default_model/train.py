"""Train the demonstration model from scratch on image labels alone.

    python recipes/default_model/train.py DATA RUN [--epochs 32]

DATA holds ``imagenette128``, ``caltech128`` and ``pets_mini``. RUN receives ``last.pt`` after every epoch (the same
command resumes from it), ``log.jsonl`` and, at the end, ``weights.safetensors``.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from classes import LABELS
from network import DemoNet
from pictures import Record, augment, load, records
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

SEED = 20161
BATCH = 64
PEAK_LR = 0.1
WEIGHT_DECAY = 5e-4
EMA = 0.9985
SIZES = ((0.0, 96), (0.45, 112), (0.75, 128))  # from this fraction of the epochs on: pictures of this many pixels
MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
STD = np.array([0.229, 0.224, 0.225], np.float32) * 255


def to_batch(pictures: list[np.ndarray]) -> Tensor:
    """Equally large uint8 RGB pictures to a normalized channels-last float batch."""
    stacked = (np.stack(pictures).astype(np.float32) - MEAN) / STD
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


def cutmix(images: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """Paste a rectangle of a shuffled batch (Yun et al., ICCV 2019); the order and the kept share."""
    height, width = images.shape[2:]
    order = torch.from_numpy(rng.permutation(len(images)))
    side = math.sqrt(1 - rng.beta(1, 1))
    h, w = int(height * side), int(width * side)
    y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
    mixed = images.clone()
    mixed[:, :, y : y + h, x : x + w] = images[order, :, y : y + h, x : x + w]
    return mixed, order, 1 - h * w / (height * width)


@torch.inference_mode()
def accuracy(net: nn.Module, items: list[Record], pictures: list[np.ndarray], size: int) -> dict[str, float]:
    """Top-1 accuracy of each source, every picture stretched to ``size`` x ``size``."""
    import cv2

    net.eval()
    right: dict[str, list[bool]] = {}
    for start in range(0, len(items), 128):
        part = slice(start, start + 128)
        batch = to_batch([cv2.resize(p, (size, size), interpolation=cv2.INTER_AREA) for p in pictures[part]])
        with torch.autocast("cpu", torch.bfloat16):
            guesses = net(batch).argmax(1).tolist()
        for item, guess in zip(items[part], guesses, strict=True):
            right.setdefault(item.source, []).append(guess == item.label)
    return {source: float(np.mean(hits)) for source, hits in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--epochs", type=int, default=32)
    arguments = parser.parse_args()
    arguments.run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)

    train, held_out = records(arguments.data)
    train_pictures, held_out_pictures = load(train), load(held_out)
    print(f"{len(train)} training pictures, {len(held_out)} held out, {len(LABELS)} classes", flush=True)

    net = DemoNet(len(LABELS)).to(memory_format=torch.channels_last)
    average = copy.deepcopy(net)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}],
        lr=PEAK_LR, momentum=0.9, nesterov=True,
    )  # fmt: skip
    steps = len(train) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LR, total_steps=arguments.epochs * steps, pct_start=0.12, cycle_momentum=False
    )
    first = 0
    checkpoint = arguments.run / "last.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"] + 1

    for epoch in range(first, arguments.epochs):
        size = [pixels for share, pixels in SIZES if epoch >= share * arguments.epochs][-1]
        rng = np.random.default_rng([SEED, epoch])
        order = rng.permutation(len(train))[: steps * BATCH].reshape(steps, BATCH)
        net.train()
        begun, total = time.time(), 0.0
        for indices in order:
            images = to_batch([augment(train_pictures[i], size, rng) for i in indices])
            labels = torch.tensor([train[i].label for i in indices])
            other, kept = labels, 1.0
            if rng.random() < 0.3 and epoch < 0.9 * arguments.epochs:
                images, shuffled, kept = cutmix(images, rng)
                other = labels[shuffled]
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(images)
            logits = logits.float()
            loss = kept * F.cross_entropy(logits, labels, label_smoothing=0.1)
            loss = loss + (1 - kept) * F.cross_entropy(logits, other, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
            with torch.no_grad():
                for mean, now in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
                    if mean.is_floating_point():
                        mean.lerp_(now, 1 - EMA)
                    else:
                        mean.copy_(now)
        entry = {"epoch": epoch, "size": size, "loss": total / steps, "seconds": round(time.time() - begun, 1)}
        if epoch % 4 == 3 or epoch >= arguments.epochs - 2:
            entry |= accuracy(average, held_out, held_out_pictures, 128)
        print(json.dumps(entry), flush=True)
        with (arguments.run / "log.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")
        fresh = checkpoint.with_suffix(".new")
        torch.save(
            {"net": net.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(),
             "schedule": schedule.state_dict(), "epoch": epoch}, fresh,
        )  # fmt: skip
        fresh.replace(checkpoint)
    weights = {name: value.contiguous() for name, value in average.state_dict().items()}
    save_file(weights, arguments.run / "weights.safetensors")
    for size in (128, 144, 160, 192):
        print(size, accuracy(average, held_out, held_out_pictures, size), flush=True)


if __name__ == "__main__":
    main()
