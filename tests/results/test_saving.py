"""Files of results: whole or not there, under names that fit any file system, in formats that others read."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import camlucida as cl
from camlucida.boxes import localize
from camlucida.errors import OutputError
from camlucida.explanation import Explanation, Origin
from camlucida.images.picture import Picture
from camlucida.images.preprocess import View
from camlucida.results import files as result_files
from camlucida.results.files import safe_name, unused_name, whole, write_whole
from camlucida.results.picture_record import record_of, records
from camlucida.results.saving import Saver, save
from camlucida.results.versions import versions


def made(
    names: list[list[str]],
    sources: list[str] | None = None,
    ids: list[list[int]] | None = None,
    size_hw: tuple[int, int] = (30, 40),
) -> Explanation:
    """An explanation of small random pictures with the given class names; its maps and biases sum to the scores."""
    rng = np.random.default_rng(5)
    n, t = len(names), len(names[0])
    maps, bias = rng.normal(size=(n, t, 3, 4)).astype(np.float32), rng.normal(size=(n, t)).astype(np.float32)
    classes = np.array(ids or [list(range(t))] * n)
    scores = maps.sum((2, 3)) + bias
    logits = np.zeros((n, max(8, int(classes.max()) + 1)), np.float32)
    np.put_along_axis(logits, np.maximum(classes, 0), scores, 1)
    pictures = tuple(
        Picture(rng.integers(0, 256, (*size_hw, 3), np.uint8), source)
        for source in sources or [f"p{i}.jpg" for i in range(n)]
    )
    return Explanation(
        logits, classes, scores, maps, bias, np.zeros((n, t)), tuple(map(tuple, names)),
        (View(size_hw, (2, 1, size_hw[1], size_hw[0])),) * n, pictures, Origin("net", note="ünd"),
    )  # fmt: skip


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def coco_of(folder: Path) -> dict:
    """``boxes.coco.json``, held against the format's definition (cocodataset.org, "Data format", object detection)."""
    coco = json.loads((folder / "boxes.coco.json").read_text("utf-8"))
    images = {image["id"]: image for image in coco["images"]}
    categories = {category["id"]: category for category in coco["categories"]}
    assert isinstance(coco["info"]["description"], str)
    for kind in ("images", "annotations", "categories"):
        ids = [one["id"] for one in coco[kind]]
        assert len(set(ids)) == len(ids)
        assert all(isinstance(number, int) and number >= 1 for number in ids)
    for image in images.values():
        assert isinstance(image["file_name"], str)
        assert image["width"] >= 1
        assert image["height"] >= 1
    assert all(isinstance(category["name"], str) for category in categories.values())
    for one in coco["annotations"]:
        x, y, width, height = one["bbox"]
        image = images[one["image_id"]]
        assert one["category_id"] in categories
        assert 0 <= x < x + width <= image["width"]
        assert 0 <= y < y + height <= image["height"]
        assert 0 < one["area"] <= width * height
        assert one["iscrowd"] == 0
        assert np.isfinite(one["score"])
    return coco


# --- what is written --------------------------------------------------------------------------------------------------


def test_the_numbers_are_whole_and_sum_to_the_scores(tmp_path: Path) -> None:
    ex = made([["cat", "dog"], ["dog", "cat"]], ids=[[3, 5], [5, 3]])
    assert ex.save(tmp_path / "new" / "out") == tmp_path / "new" / "out"
    assert files(tmp_path / "new" / "out") == [
        "boxes.coco.json", "manifest.json", "p0.cat.png", "p0.dog.png", "p0.npz", "p1.cat.png", "p1.dog.png", "p1.npz",
    ]  # fmt: skip
    for i in range(2):
        with np.load(tmp_path / "new" / "out" / f"p{i}.npz", allow_pickle=False) as saved:
            for name in ("logits", "classes", "scores", "maps", "bias", "residual"):
                assert np.array_equal(saved[name], getattr(ex, name)[i]), name
                assert saved[name].dtype == getattr(ex, name).dtype
            assert saved["names"].tolist() == list(ex.names[i])
            assert saved["image_hw"].tolist() == [30, 40]
            assert saved["seen_xyxy"].tolist() == [2, 1, 40, 30]
            assert np.allclose(saved["maps"].sum((1, 2)) + saved["bias"], saved["scores"], atol=1e-5)
            assert np.allclose(saved["logits"][saved["classes"]], saved["scores"])


def test_overlays_are_those_of_the_explanation(tmp_path: Path) -> None:
    ex = made([["cat"]])
    save(ex, tmp_path, threshold=0.6, colormap="viridis")
    with Image.open(tmp_path / "p0.cat.png") as drawn:
        assert np.array_equal(np.asarray(drawn), ex.overlay(0, threshold=0.6, colormap="viridis"))


def test_boxes_in_coco_are_those_of_the_explanation(tmp_path: Path) -> None:
    ex = made([["cat", "dog"]] * 3, ids=[[3, 5]] * 3)
    save(ex, tmp_path, threshold=0.3)
    coco = coco_of(tmp_path)
    expected = []
    for i in range(3):
        for t in range(2):
            parts = localize.components(ex.heatmap(i, t), localize.mask(ex.heatmap(i, t), 0.3))
            x0, y0, x1, y1 = parts.boxes[0].tolist()
            expected.append((i + 1, ex.classes[i, t] + 1, [x0, y0, x1 - x0, y1 - y0], parts.areas[0]))
    assert [(a["image_id"], a["category_id"], a["bbox"], a["area"]) for a in coco["annotations"]] == expected
    assert [a["score"] for a in coco["annotations"]] == pytest.approx(ex.probabilities.ravel())
    assert coco["categories"] == [{"id": 4, "name": "cat"}, {"id": 6, "name": "dog"}]
    assert [image["file_name"] for image in coco["images"]] == ["p0.jpg", "p1.jpg", "p2.jpg"]


def test_a_map_without_evidence_has_no_box(tmp_path: Path) -> None:
    ex = made([["cat"]])
    negative = Explanation(
        ex.logits, ex.classes, ex.scores, -np.abs(ex.maps), ex.bias, ex.residual, ex.names, ex.views, ex.pictures
    )
    save(negative, tmp_path)
    coco = coco_of(tmp_path)
    assert (len(coco["images"]), coco["annotations"]) == (1, [])
    record = record_of(negative, 0, 0.2)
    assert (record["classes"][0]["box"], record["classes"][0]["area"]) == (None, 0)


def test_classes_of_the_same_name_stay_apart(tmp_path: Path) -> None:
    save(made([["crane", "crane", "a - b", "b - a"]], ids=[[134, 517, -1, -1]]), tmp_path)
    coco = coco_of(tmp_path)
    names = {category["id"]: category["name"] for category in coco["categories"]}
    assert [names[one["category_id"]] for one in coco["annotations"]] == ["crane", "crane", "a - b", "b - a"]
    assert {135, 518} < set(names)
    assert min(set(names) - {135, 518}) > 1_000_000
    assert "p0.crane.png" in files(tmp_path)
    assert "p0.crane-2.png" in files(tmp_path)


def test_the_manifest_says_what_made_it(tmp_path: Path) -> None:
    save(made([["cat"]] * 2), tmp_path, threshold=0.25)
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    assert manifest == {
        "pictures": 2, "model": "net", "method": "cam", "unit": "logits per cell", "head": "", "features": "",
        "activation": "softmax", "note": "ünd", "output": "", "preprocess": "", "threshold": 0.25,
        "versions": versions(),
    }  # fmt: skip
    assert manifest["versions"]["camlucida"] == cl.__version__
    assert manifest["versions"]["numpy"] == np.__version__


def test_inputs_that_are_no_pictures(tmp_path: Path) -> None:
    ex = made([["cat"]])
    tensor = Explanation(ex.logits, ex.classes, ex.scores, ex.maps, ex.bias, ex.residual, ex.names, ex.views)
    save(tensor, tmp_path / "tensor")
    assert files(tmp_path / "tensor") == ["boxes.coco.json", "manifest.json", "picture-1.npz"]
    assert len(coco_of(tmp_path / "tensor")["annotations"]) == 1
    maps = np.full((1, 1, 2, 3, 4), ex.scores[0, 0] / 24)
    volume = Explanation(ex.logits, ex.classes, ex.scores, maps, 0 * ex.bias, ex.residual, ex.names)
    save(volume, tmp_path / "volume")
    assert "picture-1.npz" in files(tmp_path / "volume")
    assert record_of(volume, 0, 0.2)["image_hw"] is None


def test_records_are_the_same_with_and_without_files_and_in_order(tmp_path: Path) -> None:
    batches = [made([["cat", "dog"]] * n, [f"{n}-{i}.jpg" for i in range(n)]) for n in (3, 1, 40)]
    with Saver(tmp_path, threshold=0.4) as saver:
        written = list(saver.records(iter(batches)))
    expected = [record_of(batch, i, 0.4) for batch in batches for i in range(len(batch))]
    assert written == expected == list(records(iter(batches), 0.4))
    assert [image["file_name"] for image in coco_of(tmp_path)["images"]] == [one["picture"] for one in expected]
    assert json.loads(json.dumps(expected)) == expected


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", "cat"),
        ("../../etc/passwd", "etc_passwd"),
        ("..", ""),
        ('a\\b:c*d?e"f<g>h|i', "a_b_c_d_e_f_g_h_i"),
        ("\x00\n\x1b[31m", "31m"),
        (".hidden", "hidden"),
        ("-o", "-o"),
        ("ünï 猫", "ünï_猫"),
        ("x" * 500, "x" * 80),
        ("猫" * 500, "猫" * 26),
        ("\udce9", ""),
    ],
)
def test_safe_names(name: str, expected: str) -> None:
    assert safe_name(name) == expected
    assert len(safe_name(name).encode()) <= 80


def test_names_that_meet_and_names_that_are_odd(tmp_path: Path) -> None:
    sources = ["a/x.jpg", "b/x.jpg", "x.png", "X.jpg", "x-2.jpg", "...", ".x", "new\\nline", "猫" * 90, "x" * 300]
    classes = [["a/b"], ["a_b"], ["../up"], ["???"], ["."], ["St. Bernard"], ["猫" * 90], ["c"], ["c"], ["c"]]
    save(made(classes, sources, [[i] for i in range(10)]), tmp_path / "out")
    found = files(tmp_path / "out")
    assert {len(name.encode()) <= 255 for name in found} == {True}
    assert len([name for name in found if name.endswith(".npz")]) == 10
    assert len([name for name in found if name.endswith(".png")]) == 10
    assert len({name.casefold() for name in found}) == len(found) == 22
    for name in (
        "x.a_b.png",
        "x-2.a_b.png",
        "x-3.up.png",
        "X-4.class.png",
        "x-2-2.class.png",
        "picture-6.St__Bernard.png",
    ):
        assert name in found
    assert files(tmp_path) == ["out"]
    assert [image["file_name"] for image in coco_of(tmp_path / "out")["images"]] == sources


def test_many_pictures_of_one_name_take_no_longer_each(tmp_path: Path) -> None:
    used: dict[int, int] = {}
    names = {unused_name("img", used) for _ in range(100_000)}  # quadratic time would take minutes
    assert len(names) == 100_000


# --- whole or not at all ----------------------------------------------------------------------------------------------


def test_a_file_is_there_only_when_it_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "a.bin"
    write_whole(place, b"old")
    with pytest.raises(TypeError, match="bytes-like"), whole(place) as file:
        file.writelines([b"half", "no bytes"])  # type: ignore[list-item]
    assert files(tmp_path) == ["a.bin"]
    assert place.read_bytes() == b"old"
    with whole(place) as file:
        file.write(b"new")
        assert place.read_bytes() == b"old"
    assert place.read_bytes() == b"new"


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save(made([["cat"]]), tmp_path / "out")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()} == {0o640}


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "precious.txt"
    outside.write_text("mine")
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("p0.npz", "p0.cat.png", "boxes.coco.json", "manifest.json"):
        (folder / name).symlink_to(outside)
    save(made([["cat"]]), folder)
    assert outside.read_text() == "mine"
    assert not any(path.is_symlink() for path in folder.iterdir())
    coco_of(folder)


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "p0.npz").mkdir()
    with pytest.raises(OutputError, match=r"p0\.npz: cannot be written \(Is a directory\); choose another folder"):
        save(made([["cat"]]), tmp_path)
    assert not list(tmp_path.glob("*.json"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("at", [1, 2, 7, 41, 42])
def test_a_disk_that_fills_up_when_files_are_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    move, count = Path.replace, [0]

    def replace(self: Path, target: Path) -> Path:
        count[0] += 1
        if count[0] >= at:
            raise OSError(28, "No space left on device")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", replace)  # 20 pictures of two files each, then boxes and manifest
    with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\); choose another folder"):
        save(made([["cat"]] * 20), tmp_path)
    assert not list(tmp_path.glob("*.part"))
    assert not (tmp_path / "manifest.json").exists()
    assert (tmp_path / "boxes.coco.json").exists() == (at == 42)
    for path in tmp_path.glob("*.npz"):
        with np.load(path, allow_pickle=False) as saved:
            assert saved["maps"].shape == (1, 3, 4)
    assert len(list(tmp_path.glob("p*"))) == min(at - 1, 40)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("after", [0, 2, 3, 30])
def test_a_disk_that_is_full_when_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    scratch, opened = result_files.scratch_file, []

    def full(folder: Path) -> object:
        file = scratch(folder)
        opened.append(file)
        if len(opened) <= after:
            return file
        file.close()
        Path(file.name).unlink()
        Path(file.name).symlink_to("/dev/full")
        return Path(file.name).open("r+b")

    monkeypatch.setattr(result_files, "scratch_file", full)
    with pytest.raises(OutputError, match=r"\(No space left on device\); choose another folder"):
        save(made([["cat"]] * 20, size_hw=(120, 160)), tmp_path)
    assert not list(tmp_path.glob("*.json"))
    assert not list(tmp_path.glob(".*"))


def test_a_failure_around_it_leaves_no_boxes(tmp_path: Path) -> None:
    def explained() -> Iterator[Explanation]:
        yield made([["cat"]] * 9)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Saver(tmp_path) as saver:
        list(saver.records(explained()))
    assert not list(tmp_path.glob("*.json"))
    assert not list(tmp_path.glob(".*"))
    assert len(list(tmp_path.glob("*.npz"))) == len(list(tmp_path.glob("*.png"))) <= 9


def test_without_a_picture_nothing_is_written(tmp_path: Path) -> None:
    save(made([["cat"]])[:0], tmp_path / "out")
    assert files(tmp_path / "out") == []


def test_two_savers_in_one_folder_and_threads(tmp_path: Path) -> None:
    """Files of the same names are written at once by two savers: the last to come stays, whole."""
    both = [made([["cat"]] * 30) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: save(one, tmp_path), both))
    assert len(files(tmp_path)) == 62
    coco = coco_of(tmp_path)
    assert [image["file_name"] for image in coco["images"]] == [f"p{i}.jpg" for i in range(30)]
    for i in range(30):
        with np.load(tmp_path / f"p{i}.npz", allow_pickle=False) as saved:
            assert np.array_equal(saved["maps"], both[0].maps[i])
