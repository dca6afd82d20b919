"""The command line as users meet it: what it prints, where it writes, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

import camlucida as cl
from bad_inputs import write_corpus
from camlucida.boxes.overlaps import Mode
from camlucida.cli import evaluate, options
from camlucida.drawing.colormaps import COLORMAPS
from camlucida.images.picture import read, shown
from camlucida.methods.registry import METHODS
from camlucida.models import SOURCES
from camlucida.runners.tta import TTA
from commands import Ended, Run, caller


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Call ``main()`` in an empty folder, on a terminal of 80 columns; no run may show a traceback or leave a part."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")

    plain = caller(monkeypatch, capsys)

    def call(*arguments: object) -> Ended:
        ended = plain(*arguments)
        assert not list(tmp_path.rglob("*.part"))
        return ended

    return call


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cut-outs of the sample picture: five in a folder, one below it."""
    folder = tmp_path_factory.mktemp("photos")
    whole = Image.fromarray(cl.sample().pixels)
    (folder / "sub").mkdir()
    for number, name in enumerate(["a.jpg", "b.png", "c.jpg", "d.jpg", "e.jpg", "sub/a.jpg"]):
        whole.crop((10 * number, 5 * number, 300 + 10 * number, 200 + 5 * number)).resize((90, 60)).save(folder / name)
    return folder


def lines(ended: Ended) -> list[dict]:
    return [json.loads(line) for line in ended.out.splitlines()]


# --- map --------------------------------------------------------------------------------------------------------------


def test_without_a_path_the_sample_is_explained(run: Run) -> None:
    ended = run("map")
    assert (ended.code, ended.err) == (0, "")
    head, row, *rest = ended.out.splitlines()
    assert head.split() == ["picture", "class", "probability", "box", "x0", "y0", "x1", "y1", "residual"]
    assert re.fullmatch(r"chelsea\.jpg \(sample\)  cat +\d+\.\d %  \d+ \d+ \d+ \d+ +\de-\d\d exact *", row)
    assert rest[-1] == "written to camlucida-out/"
    written = sorted(path.name for path in Path("camlucida-out").iterdir())
    assert written == ["boxes.coco.json", "chelsea.cat.png", "chelsea.npz", "manifest.json"]


def test_the_table_fits_eighty_columns_and_loses_nothing(run: Run, tmp_path: Path) -> None:
    name = "a-rather-long-name-[bold]of-a-picture-" * 3 + ".gif"
    frames = [Image.fromarray(cl.sample().pixels[:200, :300]), Image.new("RGB", (300, 200))]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    ended = run("map", tmp_path / name, "--class", "water lily", "--class", "cassette player", "-o", "out")
    assert all(len(line) <= 80 for line in ended.out.splitlines())
    whole = "".join(ended.out.split())
    assert "…" not in whole
    assert whole.count("exact") == 2
    for text in ("cassetteplayer", "waterlily", ":firstframeof2", "camlucidainfodemo", "-mtimm:resnet50.a1_in1k"):
        assert text in whole
    in_column = "".join(line[:30].split("  ")[0].strip() for line in ended.out.splitlines() if line[:1].strip())
    assert "[bold]of-a-picture-" in in_column


def test_more_than_twenty_pictures_are_counted(run: Run, photos: Path) -> None:
    ended = run("map", *[photos / "a.jpg"] * 23, "-o", "out")
    assert ended.code == 0
    assert ended.out.count("a.jpg") == 20
    assert "… 23 pictures in all" in ended.out


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["c.jpg"], ["c.jpg"]),
        ([""], ["a.jpg", "b.png", "c.jpg", "d.jpg", "e.jpg", "sub/a.jpg"]),
        (["*.png"], ["b.png"]),
        (["**/a.*"], ["a.jpg", "sub/a.jpg"]),
        (["e.jpg", "sub", "[ab].*"], ["e.jpg", "sub/a.jpg", "a.jpg", "b.png"]),
    ],
)
def test_files_folders_and_patterns(run: Run, photos: Path, given: list[str], expected: list[str]) -> None:
    ended = run("map", "--json", "--batch", 2, *(photos / one for one in given))
    assert (ended.code, ended.err) == (0, "")
    found = [str(Path(line["picture"]).relative_to(photos)) for line in lines(ended)]
    assert sorted(found) == sorted(expected)
    assert not Path("camlucida-out").exists()


def test_a_line_of_json_says_what_python_says(run: Run, photos: Path) -> None:
    (line,) = lines(run("map", "--json", "--top", 3, "--threshold", 0.5, photos / "a.jpg"))
    ex = cl.explain(photos / "a.jpg", classes=3)
    assert list(line) == [
        "picture", "note", "model", "method", "grid", "image_hw", "seen_xyxy", "classes",
    ]  # fmt: skip
    assert line["picture"] == str(photos / "a.jpg")
    assert (line["note"], line["model"], line["method"], line["grid"]) == ("", "demo", "cam", [10, 10])
    assert (line["image_hw"], line["seen_xyxy"]) == ([60, 90], [0, 0, 90, 60])
    assert [one["name"] for one in line["classes"]] == list(ex.names[0])
    assert [one["id"] for one in line["classes"]] == ex.classes[0].tolist()
    for key, values in {
        "probability": ex.probabilities, "score": ex.scores, "bias": ex.bias, "residual": ex.residual,
    }.items():  # fmt: skip
        assert np.allclose([one[key] for one in line["classes"]], values[0], rtol=1e-4, atol=1e-6), key
    assert [one["box"] for one in line["classes"]] == [
        boxes[0].tolist() if len(boxes) else None for boxes in ex.boxes(0.5)[0]
    ]
    for one, masks in zip(line["classes"], ex.masks(0.5)[0], strict=True):
        assert 0 < one["area"] <= masks.sum()


def test_classes_by_name_and_id(run: Run, photos: Path) -> None:
    dog = cl.Explainer().class_names.index("dog")  # type: ignore[union-attr]
    (line,) = lines(run("map", "--json", "--class", "CAT", "--class", dog, photos / "a.jpg"))
    assert [one["name"] for one in line["classes"]] == ["cat", "dog"]
    (line,) = lines(run("map", "--json", "--class", "cat", "--versus", dog, photos / "a.jpg"))
    (difference,) = line["classes"]
    both = cl.explain(photos / "a.jpg", classes=["cat", "dog"]).scores[0]
    assert (difference["name"], difference["id"], difference["probability"]) == ("cat - dog", -1, None)
    assert difference["score"] == pytest.approx(both[0] - both[1], abs=1e-4)
    assert "cat - dog" in run("map", "--class", "cat", "--versus", "dog", photos / "a.jpg").out
    assert Path("camlucida-out/a.cat_-_dog.png").is_file()


def test_options_of_the_overlay(run: Run, photos: Path) -> None:
    drawn = {}
    for name, extra in {
        "plain": [], "viridis": ["--colormap", "viridis"], "signed": ["--signed"], "half": ["--threshold", "0.9"],
    }.items():  # fmt: skip
        ended = run("map", photos / "a.jpg", "--class", "cat", *extra, "-o", name)
        assert (ended.code, ended.err) == (0, "")
        assert f"written to {name}/" in ended.out
        drawn[name] = read(f"{name}/a.cat.png").pixels
        if name != "signed":
            ex = cl.explain(photos / "a.jpg", classes=["cat"])
            threshold = 0.9 if name == "half" else 0.2
            colormap = "viridis" if name == "viridis" else None
            assert np.array_equal(drawn[name], ex.overlay(0, threshold=threshold, colormap=colormap))
    assert drawn["signed"].shape[0] > drawn["plain"].shape[0]  # the colour bar
    assert np.abs(drawn["viridis"].astype(float) - drawn["plain"]).mean() > 3
    assert np.abs(drawn["half"].astype(float) - drawn["plain"]).max() > 100  # another box
    assert json.loads(Path("half/manifest.json").read_text())["threshold"] == 0.9


def test_results_of_an_earlier_run_are_not_explained(run: Run, photos: Path) -> None:
    for name in ("one.jpg", "camlucida-out"):
        Path(name).mkdir() if name == "camlucida-out" else Path(name).write_bytes((photos / "a.jpg").read_bytes())
    for _ in range(2):
        assert run("map", ".").code == 0
        assert len(json.loads(Path("camlucida-out/boxes.coco.json").read_text())["images"]) == 1
    assert len(lines(run("map", "--json", "camlucida-out"))) == 1  # asked for by name
    assert len(lines(run("map", "--json", "-o", "camlucida-out", "**/*.jpg"))) == 1


def test_json_and_coco_agree(run: Run, photos: Path) -> None:
    found = lines(run("map", photos, "--json", "-o", "out", "--top", 2))
    coco = json.loads(Path("out/boxes.coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [line["picture"] for line in found]
    boxes = [
        (line["picture"], one["name"], one["box"], one["area"], one["probability"])
        for line in found for one in line["classes"] if one["box"]
    ]  # fmt: skip
    files = {image["id"]: image["file_name"] for image in coco["images"]}
    names = {category["id"]: category["name"] for category in coco["categories"]}
    again = [
        (files[one["image_id"]], names[one["category_id"]], [x, y, x + w, y + h], one["area"], one["score"])
        for one in coco["annotations"]
        for x, y, w, h in [one["bbox"]]
    ]
    assert again == boxes


# --- bad inputs -------------------------------------------------------------------------------------------------------


def test_a_folder_of_bad_pictures_is_named_one_by_one_and_the_good_are_done(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    corpus = write_corpus(folder)
    good = ["!.jpg", "good.JPEG", "m.jpg", "zz.jpg", "ünï.jpg"]
    for name in good:
        (folder / name).write_bytes((photos / "c.jpg").read_bytes())
    ended = run("map", folder, "-o", "out", "--batch", 2)
    assert ended.code == 1
    errors = ended.err.splitlines()
    assert all(line.startswith("error: ") and line.isprintable() for line in errors)
    for name in corpus:
        start = f"error: {shown(folder / name)}: "
        assert sum(line.startswith(start) for line in errors) == 1, name
    assert len(errors) == len(corpus) >= 72
    assert f"{len(corpus)} could not be explained; each is named above" in " ".join(ended.out.split())
    coco = json.loads(Path("out/boxes.coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [str(folder / name) for name in sorted(good)]
    assert len(list(Path("out").glob("*.npz"))) == len(list(Path("out").glob("*.png"))) == 5


def test_bad_inputs_given_by_name(run: Run, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    corpus = write_corpus(folder)
    (folder / "empty").mkdir()
    asked = ["pipe.png", "device.png", "loop.png", "dangling.png", "folder.jpg", "empty", "nowhere.jpg", "*.xyz"]
    ended = run("map", "--json", *(folder / name for name in asked), photos / "a.jpg", "a" * 300, "b\nc\x1b[31m")
    assert ended.code == 1
    errors = ended.err.splitlines()
    assert len(errors) == len(asked) + 2
    assert all(line.startswith("error: ") and line.isprintable() for line in errors)
    assert [Path(line["picture"]).name for line in lines(ended)] == ["a.jpg"]
    assert set(asked[:5]) <= set(corpus)


def test_when_nothing_could_be_explained(run: Run) -> None:
    ended = run("map", "nowhere.jpg")
    assert ended.err == "error: nowhere.jpg: no such file or folder; check the path\n"
    assert (ended.code, ended.out) == (1, "1 could not be explained; each is named above\n")
    assert not list(Path("camlucida-out").iterdir())


# --- wrong usage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["map", "-m", "nonsense"], "nonsense: no such kind of model; expected one of demo, timm:NAME"),
        (["map", "-m", "gone.onnx"], "gone.onnx: no such file"),
        (["map", "-m", "broken.onnx"], "broken.onnx: not a readable ONNX model"),
        (["map", "-m", "folder.onnx"], "folder.onnx: no such file"),
        (["map", "-m", "gone.py:net"], "gone.py: no such file; expected file.py:function"),
        (["map", "-m", "net.py:gone"], "net.py: has no function 'gone'"),
        (["map", "-m", "net.py:broken"], "net.py:broken: failed with ZeroDivisionError"),
        (["map", "-m", "x\ny"], "x y: no such kind of model"),
        (["info", "gone.onnx"], "gone.onnx: no such file"),
        (["map", "--method", "gradcm"], "gradcm"),
        (["map", "--layer", "layer4"], "an ONNX model has no layers to choose"),
        (["map", "--class", "unicorn"], "the model has no class 'unicorn' among its 73"),
        (["map", "--class", "73"], "class 73 does not exist; the model has classes 0 to 72"),
        (["map", "--class", "-1"], "class -1 does not exist"),
        (["map", "--class", "--5"], "the model has no class '--5'"),
        (["map", "--class", "²"], "the model has no class '²'"),
        (["map", "--class", "cat", "--versus", "wolpertinger"], "the model has no class 'wolpertinger'"),
        (["map", "--top", "0"], "classes=0 asks for the top 0, but the model has 73 classes"),
        (["map", "--top", "74"], "classes=74 asks for the top 74"),
        (["map", "-o", "a-file"], "a-file: a file, not a folder; choose another"),
        (["map", "-o", "a-file/below"], "a-file/below: cannot be written (Not a directory); choose another folder"),
        (["map", "-o", "x" * 300], "cannot be written (File name too long)"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_two(run: Run, arguments: list[str], says: str) -> None:
    Path("broken.onnx").write_bytes(b"no model")
    Path("folder.onnx").mkdir()
    Path("a-file").touch()
    Path("net.py").write_text("def broken():\n    1 / 0\n")
    ended = run(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert says in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["map", "--threshold", "1.5"], "Invalid value for '--threshold'"),
        (["map", "--threshold", "nan"], "threshold"),
        (["map", "--batch", "0"], "Invalid value for '--batch'"),
        (["map", "--colormap", "beige"], "'beige' is not one of"),
        (["map", "--versus", "dog"], "--versus needs exactly one --class"),
        (["map", "--class", "cat", "--class", "dog", "--versus", "tree"], "--versus needs exactly one --class"),
        (["map", "--percentile", "3"], "No such option"),
        (["mop"], "No such command"),
    ],
)
def test_what_the_parser_refuses(run: Run, arguments: list[str], says: str) -> None:
    ended = run(*arguments)
    assert ended.code == 2
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", ended.err).split())
    assert says in text
    assert not Path("camlucida-out").exists()


def test_a_missing_extra_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("timm", "torchvision.models", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    for model, package in {"timm:x": "timm", "torchvision:x": "torchvision", "hf:x": "transformers"}.items():
        ended = run("map", "-m", model)
        assert ended == Ended(2, "", f"error: this needs {package}: pip install 'camlucida[zoo]'\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(run: Run) -> None:
    Path("locked").mkdir(mode=0o500)
    assert run("map", "-o", "locked") == Ended(
        2, "", "error: locked: cannot be written (Permission denied); choose another folder\n"
    )


# --- the other commands -----------------------------------------------------------------------------------------------


def test_models_names_every_source_and_its_extra(run: Run) -> None:
    ended = run("models")
    assert (ended.code, ended.err) == (0, "")
    said = " ".join(ended.out.split())
    assert all(f"{source.pattern} {source.summary}" in said for source in SOURCES)
    assert said.count("[zoo]") == 3


def test_methods_names_formula_unit_and_paper(run: Run) -> None:
    ended = run("methods")
    assert all(len(line) <= 80 for line in ended.out.splitlines())
    said = " ".join(ended.out.split())
    for name, method in METHODS.items():
        assert f"{name} " in said
        for text in (method.summary, method.unit, method.paper):
            assert " ".join(text.split()) in said


def test_info(run: Run) -> None:
    ended = run("info")
    assert (ended.code, ended.err) == (0, "")
    assert all(len(line) <= 80 for line in ended.out.splitlines())
    facts = json.loads(run("info", "--json").out)
    assert (facts["model"], facts["grid"], facts["classes"]) == ("demo", "10×10", 73)
    assert facts["labels"].count(", ") == 72
    assert facts["residual"] < 1e-5
    assert facts["sample"].startswith("cat ")
    assert facts["seen of the sample"] == "100%"
    for key, value in facts.items():
        assert key in ended.out
        assert (f"{value:.1e}" if key == "residual" else " ".join(str(value).split())) in " ".join(ended.out.split())


def test_no_command_shows_the_help(run: Run) -> None:
    said = unicodedata.normalize("NFC", run().out + run("--help").out)
    for name in ("map", "models", "methods", "info"):
        assert re.search(rf"\b{name}\b", said)
    assert run("map", "--help").code == 0


def test_several_layers_may_be_named() -> None:
    assert [options.layers(names) for names in (None, [], ["stages"], ["-2"], ["4"], ["a", "-1"])] == [
        None, None, "stages", -2, "4", ["a", -1],
    ]  # fmt: skip


def test_choices_of_the_options_are_those_of_the_library() -> None:
    assert get_args(options.Colormap) == tuple(COLORMAPS)
    assert get_args(evaluate.TTAChoice) == get_args(TTA)
    assert set(get_args(evaluate.ModeChoice)) == set(get_args(Mode))


# --- as a process -----------------------------------------------------------------------------------------------------


def start(*arguments: object, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Begin with a command, which Ctrl-C ends even where it does not end the tests (in a shell's background)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored stays so in a new process
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "camlucida", *map(str, arguments)], cwd=cwd, env=os.environ | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_installed_command_and_a_plain_terminal(photos: Path, tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("camlucida")
    if not command.is_file():
        pytest.skip("the package is not installed")
    done = subprocess.run(
        [command, "map", photos, "nowhere.jpg", "-m", "demo"], cwd=tmp_path, capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "error"}, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == ["error: nowhere.jpg: no such file or folder; check the path"]
    assert b"sub/a.jpg" in b"".join(done.stdout.split())
    assert (tmp_path / "camlucida-out/manifest.json").is_file()


def test_a_reader_that_goes_away_gets_no_traceback(photos: Path, tmp_path: Path) -> None:
    with start("map", "--json", "--batch", 1, *[photos] * 10, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["model"] == "demo"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_whole_files_only(photos: Path, tmp_path: Path, how: signal.Signals) -> None:
    with start("map", "--json", "-o", "out", "--batch", 2, *[photos] * 50, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(how)
        process.stdout.read()
        said = process.stderr.read()
    files = list((tmp_path / "out").iterdir())
    for path in files:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as saved:
                assert saved["maps"].shape == (1, 10, 10)
        elif path.suffix == ".png":
            assert read(path).pixels.shape[2] == 3
    kinds = {path.suffix for path in files}
    if how == signal.SIGINT:
        assert process.returncode in (1, 130)  # 1 with Typer before 0.16
        assert kinds == {".npz", ".png"}
        assert said.strip() in ("", "Aborted.", "Aborted!")
    else:
        assert {".npz", ".png"} <= kinds <= {".npz", ".png", ".part"}
