"""Thousands of pictures through `camlucida map`: does memory stay flat, and is it nearly as fast as the model alone?

    python benchmarks/folder.py                    10,000 pictures, overlays and numbers written
    python benchmarks/folder.py --json-only        lines of JSON only
    python benchmarks/folder.py --count 2000       fewer

Plain inference is the loop that one would write by hand: read, preprocess, and, for each batch, run the same ONNX file
with the same number of threads. It runs before and after, on up to 1,000 of the same pictures; its mean time counts.
Exit status 1: a limit is not kept.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from camlucida import Explainer, sample
from camlucida.images.finding import find
from camlucida.images.picture import read

BATCH = 16
EARLY = 1000
MEMORY, SPEED = 1.1, 0.8


def make_pictures(folder: Path, count: int) -> None:
    """JPEG files of 500×375 pixels: cut-outs of the sample picture, with a tint and grain of their own."""
    rng = np.random.default_rng(0)
    whole = Image.fromarray(sample().pixels)
    for number in range(count):
        height = int(rng.integers(120, whole.height))
        width = min(whole.width, height * 4 // 3)
        left, top = int(rng.integers(whole.width - width + 1)), int(rng.integers(whole.height - height + 1))
        cut = whole.crop((left, top, left + width, top + height)).resize((500, 375))
        grain = rng.integers(-8, 9, (375, 500, 1)) + rng.integers(-30, 31, 3)
        pixels = np.clip(np.asarray(cut).astype(np.int16) + grain, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=88)
        place = folder / f"{number // 1000:03d}"
        place.mkdir(exist_ok=True)
        (place / f"{number:06d}.jpg").write_bytes(buffer.getvalue())


def plain(folder: Path, count: int) -> float:
    """Seconds a picture of decoding, preprocessing and plain inference."""
    import onnxruntime

    from camlucida.models.onnx_file import DEMO

    explainer = Explainer()
    model = Path(sys.modules["camlucida"].__path__[0], "models", DEMO)
    session = onnxruntime.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    paths = [path for path, _ in zip(find(folder), range(count), strict=False)]
    start = time.perf_counter()
    for first in range(0, len(paths), BATCH):
        batch = [explainer.preprocess(read(path).pixels)[0] for path in paths[first : first + BATCH]]
        session.run(["logits"], {name: np.stack(batch)})
    return (time.perf_counter() - start) / len(paths)


def resident(process: int) -> float:
    """Resident memory of a process in MiB."""
    return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(process)])) / 1024


def mapped(folder: Path, out: Path | None) -> tuple[float, float, float]:
    """Seconds a picture of `camlucida map`, and its resident memory early and at the end, MiB."""
    command = [sys.executable, "-m", "camlucida", "map", str(folder), "--json", "--batch", str(BATCH)]
    start, early, late, count = time.perf_counter(), 0.0, 0.0, 0
    with subprocess.Popen([*command, *(["-o", str(out)] if out else [])], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for count, _ in enumerate(process.stdout, 1):
            if count % EARLY == 0:
                late = resident(process.pid)
                early = early or late
    if process.returncode:
        sys.exit(f"camlucida map ended with exit code {process.returncode}")
    return (time.perf_counter() - start) / count, early, late


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="pictures, at least 1")
    parser.add_argument("--json-only", action="store_true", help="write no files")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch, "pictures"), Path(scratch, "out")
        folder.mkdir()
        make_pictures(folder, asked.count)
        some = min(asked.count, EARLY)
        before = plain(folder, some)
        seconds, early, late = mapped(folder, None if asked.json_only else out)
        alone = (before + plain(folder, some)) / 2
    what = "lines of JSON" if asked.json_only else "overlays, npz, COCO"
    print(f"{asked.count} pictures of 500×375, batches of {BATCH}, {os.cpu_count()} processors; {what}")
    print(f"  plain inference   {1e3 * alone:8.2f} ms a picture")
    print(f"  camlucida map     {1e3 * seconds:8.2f} ms a picture, start included")
    fast = alone / seconds >= SPEED
    print(f"  throughput ratio  {alone / seconds:8.2f}    at least {SPEED}: {'OK' if fast else 'FAIL'}")
    flat = True
    if early:
        flat = late <= MEMORY * early
        print(f"  memory at {EARLY:<7,} {early:8.0f} MiB")
        print(f"  memory at the end {late:8.0f} MiB")
        print(f"  memory ratio      {late / early:8.2f}    at most {MEMORY}: {'OK' if flat else 'FAIL'}")
    return 0 if fast and flat else 1


if __name__ == "__main__":
    sys.exit(main())
