"""How fast the package starts: importing it, against importing torch; and ``camlucida map`` on one picture, cold.

    python benchmarks/start.py

Each figure is the median of runs in new processes. Exit status 1: above a limit.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

import numpy as np

RUNS = 7
IMPORT_LIMIT, MAP_LIMIT = 0.15, 2.0


def seconds(*arguments: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    bare = [seconds("-c", "pass") for _ in range(RUNS)]
    pairs = [(seconds("-c", "import camlucida"), seconds("-c", "import torch")) for _ in range(RUNS)]
    ratio = float(np.median([ours / torchs for ours, torchs in pairs]))
    ours, torchs = np.median(pairs, axis=0)
    print(f"import camlucida {ours:.3f} s, import torch {torchs:.3f} s, python alone {np.median(bare):.3f} s")
    print(f"ratio {ratio:.3f}  {'ok' if ratio <= IMPORT_LIMIT else f'above {IMPORT_LIMIT}'}")
    with tempfile.TemporaryDirectory() as folder:
        mapped = float(np.median([seconds("-m", "camlucida", "map", "-o", folder) for _ in range(RUNS)]))
    print(f"camlucida map, one picture: {mapped:.2f} s  {'ok' if mapped <= MAP_LIMIT else f'above {MAP_LIMIT} s'}")
    sys.exit(int(ratio > IMPORT_LIMIT or mapped > MAP_LIMIT))


if __name__ == "__main__":
    main()
