"""What exact maps cost on top of a plain forward pass: ResNet-50, 224 pixels, CPU.

    python benchmarks/speed.py                  # batches of 8 and 32
    python benchmarks/speed.py --pairs 15

Each figure is the median over pairs of (maps, plain pass) run in turn, in processor time of one thread, so that a
machine whose speed drifts, or that does other work too, does both alike. The plain pass is ``net(batch)`` under
``torch.inference_mode()``. Exit status 1: above the limit.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from resnet import resnet50

import camlucida as cl

LIMIT = 1.05


def seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def ratios(work: Callable[[], object], plain: Callable[[], object], pairs: int) -> list[float]:
    """Time of ``work`` over that of ``plain``, pair by pair, each pair in the other order."""
    work(), plain()
    found = []
    for pair in range(pairs):
        first, second = (work, plain) if pair % 2 else (plain, work)
        times = {first: seconds(first), second: seconds(second)}
        found.append(times[work] / times[plain])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # processor time of one thread: what else runs on the machine does not count
    net = resnet50().eval()
    explainer, both = cl.Explainer(net), cl.with_maps(net)
    failed = False
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; ratio to a plain pass: median (min to max)")
    for size in (8, 32):
        batch = torch.randn(size, 3, 224, 224)

        def plain(batch: torch.Tensor = batch) -> object:
            with torch.inference_mode():
                return net(batch)

        def module(batch: torch.Tensor = batch) -> object:
            with torch.inference_mode():
                return both(batch)

        works: dict[str, Callable[[], object]] = {
            "Explainer, exact maps of all 1000 classes": lambda batch=batch: explainer(batch, "all"),
            "Explainer, exact maps of the top 5": lambda batch=batch: explainer(batch, 5),
            "with_maps, logits and maps of all 1000": module,
        }
        for name, work in works.items():
            found = ratios(work, plain, arguments.pairs)
            middle = float(np.median(found))
            failed |= middle > LIMIT
            verdict = "ok" if middle <= LIMIT else f"above {LIMIT}"
            print(
                f"batch {size:2d}  {name:42s} {middle:.3f} ({min(found):.3f} to {max(found):.3f})  {verdict}",
                flush=True,
            )
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
