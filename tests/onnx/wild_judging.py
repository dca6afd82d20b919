"""What info, map and export make of an ONNX file, beside what plain ONNX Runtime and the textbook say."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

onnx = pytest.importorskip("onnx")
import onnxruntime  # noqa: E402
from wild_networks import BIAS, COLOUR, WEIGHT, Built, Entry  # noqa: E402
from wild_pictures import ASKS, ASSUMES  # noqa: E402

from camlucida import cli  # noqa: E402


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


@dataclass
class Seen:
    """What one file came to.

    Attributes:
        kinds: which of "exact", "known", "stated", "asked", "noted", "refused" hold.
        why: what is wrong with it, where none of the wanted holds.
        first: the first lines of what was said.
    """

    kinds: set[str]
    why: list[str]
    first: str


def command(*arguments: Any) -> Ended:
    """``main()`` in this process; a traceback or any other exception is code 99."""
    out, err = io.StringIO(), io.StringIO()
    before, code = sys.argv, 0
    sys.argv = ["camlucida", *map(str, arguments)]
    os.environ["COLUMNS"] = "1000"
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except Exception as error:
        code = 99
        err.write(f"{type(error).__name__}: {error}")
    finally:
        sys.argv = before
    return Ended(code, out.getvalue(), err.getvalue())


def session(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    content = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(model: Any, built: Built, batch: np.ndarray, names: list[str] | None = None) -> dict[str, np.ndarray]:
    """Plain ONNX Runtime on (N, C, H, W); other outputs by name, where they are given."""
    if names is not None:
        model = onnx.ModelProto.FromString(model.SerializeToString())
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    opened = session(model)
    given = opened.get_inputs()[0]
    if given.shape and isinstance(given.shape[0], int) and given.shape[0] > 0 and given.shape[0] != len(batch):
        batch = np.resize(batch, (given.shape[0], *batch.shape[1:]))
    kinds = {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32, "tensor(float16)": np.float16}
    batch = np.moveaxis(batch, 1, -1) if built.nhwc else batch
    fed = {given.name: np.ascontiguousarray(batch).astype(kinds.get(given.type, np.float32))}
    return {output.name: value for output, value in zip(opened.get_outputs(), opened.run(None, fed), strict=True)}


def textbook(built: Built, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(logits, maps) by definition, float64."""
    found = run(built.reference, built, batch, [str(built.features), built.scores])
    features = found[str(built.features)].astype(np.float64)
    maps = np.einsum("kc,nchw->nkhw", WEIGHT.astype(np.float64), features) / np.prod(features.shape[2:])
    return maps.sum((2, 3)) + BIAS, maps


def off(new: np.ndarray, old: np.ndarray) -> float:
    if new.shape != old.shape:
        return float("inf")
    return float(np.abs(np.asarray(new, np.float64) - old).max() / (np.ptp(old) or 1.0))


def softmax(row: np.ndarray) -> np.ndarray:
    shifted = np.exp(row - row.max())
    return shifted / shifted.sum()


def observe(entry: Entry, folder: Path, cwd: str | None = None) -> Seen:
    """Build the file and go through info, map and export, from ``cwd`` or the folder that the entry names."""
    built = entry.build(folder)
    target = folder / built.place
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(built.model.SerializeToString())
    path = folder / "downloads" / "model.onnx" if (folder / "downloads" / "model.onnx").exists() else target
    where = folder / ((built.cwd or "") if cwd is None else cwd)
    where.mkdir(parents=True, exist_ok=True)
    picture = folder / "colour.png"
    Image.new("RGB", (224, 224), COLOUR).save(picture)
    before = Path.cwd()
    os.chdir(where)
    try:
        return judged(entry, built, path, picture, folder)
    finally:
        os.chdir(before)


def judged(entry: Entry, built: Built, path: Path, picture: Path, folder: Path) -> Seen:
    kinds, why = set(), []
    told = command("info", path, "--json")
    map_ = command("map", picture, "-m", path, "--json")
    plain = map_
    if map_.code:  # files without maps: by a method that needs none
        plain = command("map", picture, "-m", path, "--json", "--method", "reciprocam")
        if plain.code and "channels" not in plain.err:
            plain = command("map", picture, "-m", path, "--json", "--method", "occlusion")
    exported = command("export", path, "-o", folder / "cam.onnx")
    spoken = told.said + map_.said + plain.said
    for name, ended in (("info", told), ("map", map_), ("map by another method", plain), ("export", exported)):
        if ended.code == 99:
            why.append(f"{name} crashes: {ended.err[:150]}")
    crashed = bool(why)
    if told.code and plain.code and exported.code and not crashed:
        matching = [bool(re.search(entry.words, " ".join(one.err.split()))) for one in (told, plain, exported)]
        if all(matching):
            kinds.add("refused")
        else:
            names = [name for name, hit in zip(("info", "map", "export"), matching, strict=True) if not hit]
            why.append(f"{' and '.join(names)} refuse, but not with /{entry.words}/")
    elif exported.code == 0 and plain.code and told.code:
        why.append("export takes it, info and map refuse")
    elif exported.code and plain.code == 0:
        why.append("map takes it, export refuses")
    if exported.code == 0 and built.features:
        why += compared(built, folder / "cam.onnx", folder)
    own = command("map", picture, "-m", folder / "cam.onnx", "--json") if exported.code == 0 else exported
    if exported.code == 0 and own.code and built.shape[0] == 3:
        why.append(f"its own export cannot be read: {own.err[:120]}")
    if told.code and exported.code == 0:
        why.append("info tells nothing of it")
    if plain.code == 0 and built.features and exported.code == 0:
        why += wrong_grid(built, plain)
    advised = command("map", picture, "-m", path, "--json", "--method", "occlusion") if exported.code == 2 else exported
    if exported.code == 2 and told.code == advised.code == 0 and re.search(entry.words, " ".join(exported.err.split())):
        kinds.add("advised")
        why = [one for one in why if one != "map takes it, export refuses"]
    others = re.escape(f"has 3 channels (H×W×C is 224×224×3), and the model takes {built.shape[0]}")
    if built.shape[0] not in (1, 3) and exported.code == told.code == 0 and plain.code and re.search(others, plain.err):
        kinds.add("data")
    exact = exported.code == 0 and plain.code == 0 and told.code == 0 and not why
    if exact or (exported.code == 0 and why == ["info tells nothing of it"]):
        kinds |= {"exact"} if exact else set()
        if entry.words and re.search(entry.words, spoken) and exact:
            kinds.add("noted")
    right = probabilities_right(built, plain)
    if plain.code == 0 and right and not crashed:
        kinds.add("known")
    if plain.code == 0 and re.search(ASSUMES, map_.said + plain.said):
        kinds.add("stated")
    if plain.code and re.search(ASKS, plain.err) and not crashed:
        kinds.add("asked")
    if built.options and not crashed:
        asked = command("map", picture, "-m", path, "--json", "--method", "occlusion", *built.options)
        if asked.code or not probabilities_right(built, asked):
            kinds -= {"stated", "asked"}
            why.append(f"cannot be told with {' '.join(built.options)}")
    if plain.code == 0 and not right and "stated" not in kinds and built.prepare:
        why.append(f"silently wrong probabilities ({silent(built, plain)})")
    if (
        built.labels
        and plain.code == 0
        and json.loads(plain.out.splitlines()[0])["classes"][0]["name"] not in built.labels
    ):
        kinds -= {"known", "exact"}
        why.append("does not read its names of classes")
    if entry.item == "E15" and kinds == {"known"}:
        kinds.clear()
    serious = [one for one in why if re.match(r"export's|map's|map takes|its own|.*crashes", one)]
    kinds -= {"known", "stated", "data"} if serious else set()
    first = next((" ".join(one.err.split())[:200] for one in (map_, told, exported) if one.code), "")
    return Seen(kinds, why, first.replace(str(folder), ""))


def compared(built: Built, new: Path, folder: Path) -> list[str]:
    """The exported file beside the reference: outputs, and maps beside the textbook's."""
    rng = np.random.default_rng(3)
    shape = (2, *built.shape)
    batch = rng.integers(0, 256, shape).astype(np.float32) if built.integers else rng.normal(size=shape)
    after = run(str(new), built, batch.astype(np.float32))
    logits, maps = textbook(built, batch.astype(np.float32))
    why = []
    if not off(after["logits"], logits[: len(after["logits"])]) <= built.tolerance:
        shown = (
            "of another shape" if after["logits"].shape != logits.shape else f"{off(after['logits'], logits):.0e} off"
        )
        why.append(f"export's logits are {shown}")
    elif after["maps"].shape != maps.shape:
        why.append(f"export's grid is {after['maps'].shape[2:]}, not {maps.shape[2:]}")
    elif not off(after["maps"], maps) <= built.tolerance:
        why.append(f"export's maps are {off(after['maps'], maps):.0e} off")
    return why


def wrong_grid(built: Built, ended: Ended) -> list[str]:
    """Whether the grid that map tells is the features' at the size it ran (224 pixels where sizes are free)."""
    told = tuple(json.loads(ended.out.splitlines()[0])["grid"])
    sizes = {built.shape[1:], (224, 224)}
    grids = []
    for size in sizes:
        with contextlib.suppress(Exception):
            found = run(built.reference, built, np.zeros((1, built.shape[0], *size), np.float32), [str(built.features)])
            grids.append(found[str(built.features)].shape[2:])
    return [] if told in grids or built.features is None else [f"map's grid is {told}, not {grids[0]}"]


def truth_of(built: Built) -> np.ndarray | None:
    if built.prepare is None:
        return None
    pixels = np.full((*built.shape[1:], 3), COLOUR, np.uint8)
    return softmax(
        run(built.reference, built, built.prepare(pixels), [built.scores])[built.scores][0].astype(np.float64)
    )


def probabilities_right(built: Built, ended: Ended) -> bool:
    """Whether the likeliest class and its probability are those of the true preparation."""
    truth = truth_of(built)
    if truth is None or ended.code:
        return False
    first = json.loads(ended.out.splitlines()[0])["classes"][0]
    return first["id"] == int(truth.argmax()) and abs(first["probability"] - truth.max()) < max(1e-3, built.tolerance)


def silent(built: Built, ended: Ended) -> str:
    truth = truth_of(built)
    assert truth is not None
    first = json.loads(ended.out.splitlines()[0])["classes"][0]
    return f"class {first['id']} at {first['probability']:.2f}; true: {int(truth.argmax())} at {truth.max():.2f}"
