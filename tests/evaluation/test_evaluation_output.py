"""What is written and printed says the same: page, JSON, table and command."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from rich.console import Console
from squares import colours, scenes
from typer.testing import CliRunner

from camlucida.cli.evaluate import evaluate as command
from camlucida.errors import OutputError, TargetError
from camlucida.evaluation import evaluate
from camlucida.evaluation.page import curves_svg, page
from camlucida.evaluation.table import print_table


class Rows(HTMLParser):
    """The cells of rows that carry a key, and all tags that opened."""

    def __init__(self):
        super().__init__()
        self.rows, self.tags, self._row, self._cells = {}, [], None, None

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self._row = dict(attrs).get("data-key")
            self._cells = self.rows.setdefault(self._row, []) if self._row else None
        elif tag == "td" and self._cells is not None:
            self._cells.append("")

    def handle_data(self, data):
        if self._cells:
            self._cells[-1] += data


@pytest.fixture(scope="module")
def found():
    return evaluate(colours(shortcut=True), scenes(30, cue=True), bootstrap=100, mosaics=6)


def parsed(text):
    rows = Rows()
    rows.feed(text)
    return rows


def test_the_pages_numbers_are_the_jsons(found, tmp_path):
    found.save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evaluation.html", "evaluation.json"]
    values = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    text = (tmp_path / "out" / "evaluation.html").read_text()
    rows = parsed(text).rows
    assert len(rows) == len(values["figures"]) > 15
    for figure in values["figures"]:
        title, value, limits, pictures, beside = rows[figure["key"]]
        assert title.startswith(figure["title"])
        assert value == f"{figure['value']['value']:.3f}"
        assert limits == f"{figure['value']['low']:.3f}–{figure['value']['high']:.3f}"
        assert int(pictures) == figure["pictures"]
        for one in figure["baselines"]:
            assert f"{one['name']} {one['value']['value']:.3f}" in beside
    for warning in values["warnings"]:
        assert warning.replace("<", "&lt;").replace("'", "&#x27;") in text
    assert text.index('class="warnings"') < text.index("<h2>Numbers")
    assert text.count("<figure>") == len(values["cases"])


def test_the_page_is_whole_in_itself_and_trusts_no_name(found):
    evil = '<script>alert("1")</script>'
    cases = tuple(replace(case, id=evil, label=evil, predicted=evil) for case in found.cases)
    classes = tuple(replace(row, name=evil) for row in found.classes)
    text = page(replace(found, model=evil, dataset=evil, note=evil, cases=cases, classes=classes, skipped=(evil,)))
    assert "<script" not in text
    tags = parsed(text).tags
    assert {tag for tag, _ in tags} >= {"table", "svg", "figure", "image", "rect", "path"}
    for tag, attributes in tags:
        assert tag not in ("script", "link", "iframe", "img", "object"), tag
        for name in ("href", "src"):
            assert attributes.get(name, "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
    assert not re.search(r"https?://|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text


def test_boxes_lie_on_the_page_where_they_were_found(found):
    case = next(case for case in found.cases if case.boxes)
    x1, y1, x2, y2 = case.true_boxes[0]
    assert f'class="true" x="{x1:g}" y="{y1:g}" width="{x2 - x1:g}" height="{y2 - y1:g}"' in page(found)
    decoded = cv2.imdecode(np.frombuffer(case.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape[:2] == case.size_hw


def test_a_curves_line_goes_through_its_values():
    thresholds, curve = np.arange(4) / 4, np.array([1.0, 1.0, 0.5, 0.5])
    svg = curves_svg(thresholds, {"0.5": curve})
    (path,) = re.findall(r'<path[^>]* d="M ([^"]*)"', svg)
    points = [tuple(map(float, point.split(","))) for point in path.split(" L ")]
    assert len(points) == 4
    assert points[0][1] == points[1][1] < points[2][1] == points[3][1]
    assert "0.5: 1.000 at 0.000" in svg


def test_the_table_says_the_verdict_first_and_every_number(found):
    console = Console(width=80, record=True, highlight=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    print_table(found, Path("out"), console)
    text = console.export_text()
    assert text.startswith("! The maps point WORSE than the picture's centre (0.00 < ")
    for figure in found.figures:
        assert f"{figure.value.value:.3f}" in text
    assert "…" not in text.replace("… IoU", "")  # nothing is cut off at 80 columns
    assert "written to out/" in text
    console.file.close()


def test_json_has_no_number_that_is_none_of_jsons(found):
    spoilt = replace(found, settings={"seed": float("nan"), "steps": np.int64(3)})
    values = spoilt.to_dict()["settings"]
    assert values == {"seed": None, "steps": 3}
    json.dumps(spoilt.to_dict(), allow_nan=False)
    with pytest.raises(KeyError, match="recall: not measured here; there are top1, top5"):
        found["recall"]


def test_nothing_is_written_where_it_cannot_be(found, tmp_path):
    taken = tmp_path / "file"
    taken.write_text("mine")
    with pytest.raises(OutputError, match="a file, not a folder"):
        found.save(taken)
    assert taken.read_text() == "mine"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The scenes as files with an annotations.csv, and the network as a file."""
    place = tmp_path_factory.mktemp("squares")
    (place / "images").mkdir()
    with (place / "annotations.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split", "label", "x0", "y0", "x1", "y1"])
        data = scenes(24)
        for record in data.records:
            name = f"images/{record.example.id}.png"
            cv2.imwrite(str(place / name), record.example.read().pixels[..., ::-1])
            box = record.truth.boxes[0].tolist() if len(record.truth.boxes) else [""] * 4
            writer.writerow([name, record.split, data.classes[record.example.labels[0]], *box])
    code = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom squares import colours\n"
    (place / "net.py").write_text(code)
    return place


def run(*arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    return CliRunner().invoke(app, [str(one) for one in arguments])


QUICK = ("--workers", "0", "--bootstrap", "20", "--mosaics", "2")


def test_the_command_evaluates_calibrates_and_writes(folder, tmp_path):
    model = f"{folder / 'net.py'}:colours"
    done = run(model, folder, "--calibrate-on", "val", "-o", tmp_path / "out", "--json", *QUICK)
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert values == json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert values["dataset"].endswith(", split test")
    assert values["calibration"]["how"] == "boxes"
    figures = {one["key"]: one["value"]["value"] for one in values["figures"]}
    assert figures["gt_known"] == figures["top1"] == 1.0
    table = run(model, folder, "--threshold", "0.5", "--mode", "protocol", *QUICK)
    assert table.exit_code == 0, table.output
    assert "above 50 % of the maximum, largest part, as given" in table.stdout
    assert "protocol mode" in table.stdout


def test_the_command_names_what_failed_and_goes_on(folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in folder.rglob("*.*"):
        target = broken / path.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    (broken / "images" / "003.png").write_bytes(b"nothing")
    done = run(f"{folder / 'net.py'}:colours", broken, "--json", *QUICK)
    assert done.exit_code == 1
    assert "images/003.png" in done.stderr
    assert json.loads(done.stdout)["pictures"] == 11


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--threshold", "high"), "expected auto or a share of the maximum in [0, 1), got 'high'"),
        (("--threshold", "0.3", "--calibrate-on", "val"), "both choose the operating point"),
        (("--calibrate-on", "test"), "on the pictures that are evaluated"),
        (("--pseudo",), "--pseudo needs --calibrate-on"),
    ],
)
def test_wrong_usage_is_told(folder, options, message):
    done = run(f"{folder / 'net.py'}:colours", folder, *options, *QUICK)
    assert done.exit_code == 2
    told = " ".join(done.stderr.replace("│", " ").split())
    assert message in told


def test_classes_that_differ_are_told(folder):
    done = run("demo", folder, *QUICK)
    assert isinstance(done.exception, TargetError)
    assert "does not know the data's classes" in str(done.exception)
