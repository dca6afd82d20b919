"""An evaluation as one self-contained HTML page: verdict, numbers, curves, cases, classes; no script; light, dark."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from camlucida.evaluation.findings import CLASS_NUMBERS, Box, Case, Figure, limits, share, signed

if TYPE_CHECKING:
    from camlucida.evaluation.result import Evaluation  # whose save() writes this page

STYLE = "\n" + Path(__file__).with_name("page.css").read_text(encoding="utf-8")

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 300, 44, 36, 12, 110  # of the curves

_KINDS = {"best": "The best", "median": "Around the median", "worst": "The worst"}


def page(evaluation: Evaluation) -> str:
    """The page: nothing on it comes from elsewhere, and every name from data or model is escaped.

    Args:
        evaluation: what it shows; its numbers are those of ``Evaluation.to_dict``.
    """
    title = f"{evaluation.model} on {evaluation.dataset}"
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style><body><h1>{escape(title)}</h1>",
        f'<p class="soft">{evaluation.pictures} pictures · method {escape(evaluation.method)} · '
        f"{escape(evaluation.mode)} mode · operating point: {escape(str(evaluation.calibration))}</p>",
        f'<p class="soft">{escape(evaluation.note)}</p>' if evaluation.note else "",
        _warnings(evaluation.warnings),
        _figures(evaluation.figures),
    ]
    if evaluation.curves:
        parts += [
            "<h2>Box accuracy against the threshold</h2>",
            '<p class="soft">The share of pictures with a box of at least this overlap, any part, at one threshold for '
            "all; dots: each line's best threshold. Dashed: centred boxes of one size, IoU ≥ 0.5.</p>",
            curves_svg(evaluation.thresholds, evaluation.curves),
        ]
    parts += [_cases(evaluation.cases), _classes(evaluation), _ending(evaluation), "</body></html>\n"]
    return "".join(parts)


def _warnings(warnings: tuple[str, ...]) -> str:
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<ul class="warnings" role="alert">{items}</ul>' if items else ""


def _figures(figures: tuple[Figure, ...]) -> str:
    rows = ['<h2>Numbers</h2><div class="wide"><table><tr><th></th><th class="number">maps</th>'
            '<th class="number">95 %</th><th class="number">pictures</th>'
            "<th>beside it (what the maps gain, 95 %)</th></tr>"]  # fmt: skip
    group = ""
    for figure in figures:
        if figure.group != group:
            group = figure.group
            rows.append(f'<tr class="group"><th colspan="5">{escape(group)}</th></tr>')
        at = "" if figure.threshold is None else f' <span class="soft">at {figure.threshold:.3f}</span>'
        beside = []
        for one in figure.baselines:
            gain = signed(one.gain.value)
            if one.gain.low is not None and one.gain.high is not None:
                gain += f", {signed(one.gain.low)} to {signed(one.gain.high)}"
            kind = ' class="below"' if one.gain.value < 0 else ""
            beside.append(
                f'<span class="beside">{escape(one.name)} {share(one.value.value)} (<span{kind}>{gain}</span>)</span>'
            )
        rows.append(
            f'<tr data-key="{escape(figure.key)}"><td>{escape(figure.title)}{at}</td>'
            f'<td class="number value">{share(figure.value.value)}</td>'
            f'<td class="number">{limits(figure.value)}</td><td class="number">{figure.pictures}</td>'
            f"<td>{' '.join(beside)}</td></tr>"
        )
    return "".join([*rows, "</table></div>"])


def curves_svg(thresholds: NDArray[np.float64], curves: Mapping[str, NDArray[np.float64]]) -> str:
    """An SVG element of named curves (T,) over thresholds (T,), all in [0, 1]: one line a curve, a dot at each one's
    best threshold, its name at the right.

    >>> curves_svg(np.array([0.0, 0.5]), {"0.5": np.array([0.2, 1.0])}).count("<path")
    1
    """
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(value: float) -> float:
        return LEFT + across * value

    def y(value: float) -> float:
        return TOP + down * (1 - value)

    parts = [
        f'<svg class="curves" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="box accuracy against the threshold, one line for each overlap">'
    ]
    for tick in np.linspace(0, 1, 6).tolist():
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + across}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.1f}</text>')
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - 18}" text-anchor="middle">{tick:.1f}</text>')
    parts.append(f'<text x="{LEFT + across / 2}" y="{HEIGHT - 3}" text-anchor="middle">threshold</text>')
    names = []
    for place, (name, curve) in enumerate(curves.items()):
        kind = "curve baseline" if name.startswith("centre") else f"curve c{place}"
        kept = _corners(curve)
        points = " ".join(f"{x(thresholds[i]):.1f},{y(curve[i]):.1f}" for i in kept)
        parts.append(f'<path class="{kind}" d="M {points.replace(" ", " L ")}"/>')
        best = int(curve.argmax())
        at = f'cx="{x(thresholds[best]):.1f}" cy="{y(curve[best]):.1f}"'
        title = f"{escape(name)}: {curve[best]:.3f} at {thresholds[best]:.3f}"
        parts.append(f'<circle class="{kind}" {at} r="4"><title>{title}</title></circle>')
        names.append((float(y(curve[best])), kind, f"{_label(name)} {curve[best]:.3f}"))
    lowest = TOP + 4.0
    for wished, kind, text in sorted(names):
        lowest = max(lowest + 16, wished + 4)
        parts.append(f'<text class="name {kind}" x="{LEFT + across + 8}" y="{lowest:.1f}">{escape(text)}</text>')
    return "".join([*parts, "</svg>"])


def _label(name: str) -> str:
    return name if name.startswith("centre") else f"≥ {name}"


def _corners(curve: NDArray[np.float64]) -> list[int]:
    """The places that a line needs: both ends of every level stretch."""
    changes = np.flatnonzero(np.diff(curve))
    return sorted({0, curve.size - 1, *changes.tolist(), *(changes + 1).tolist()})


def _cases(cases: tuple[Case, ...]) -> str:
    if not cases:
        return ""
    parts = ['<h2>Cases</h2><p class="soft"><span class="key"></span> box of the map &nbsp; '
             '<span class="key true"></span> true box</p>']  # fmt: skip
    for kind, heading in _KINDS.items():
        shown = [case for case in cases if case.kind == kind]
        if shown:
            parts.append(f'<h2>{heading}</h2><div class="cases">{"".join(map(_case, shown))}</div>')
    return "".join(parts)


def _case(case: Case) -> str:
    height, width = case.size_hw
    picture = base64.b64encode(case.jpeg).decode()
    boxes = "".join(
        _rect(box, shape) for kind, some in (("true", case.true_boxes), ("guess", case.boxes))
        for box in some for shape in ("halo", kind)
    )  # fmt: skip
    wrong = "" if case.predicted.casefold() == case.label.casefold() else f", taken for {escape(case.predicted)}"
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(case.id)}">'
        f'<image width="{width}" height="{height}" href="data:image/jpeg;base64,{picture}"/>{boxes}</svg>'
        f"<figcaption><b>{case.overlap:.3f}</b> {escape(case.label)}{wrong}<br>"
        f'<span class="soft">{escape(case.id)}</span></figcaption></figure>'
    )


def _rect(box: Box, kind: str) -> str:
    x1, y1, x2, y2 = box
    return f'<rect class="{kind}" x="{x1:g}" y="{y1:g}" width="{x2 - x1:g}" height="{y2 - y1:g}"/>'


def _classes(evaluation: Evaluation) -> str:
    columns = {"pictures": "pictures", **CLASS_NUMBERS}
    rows = ['<h2>Classes</h2><div class="wide"><table><tr><th>class</th>'
            + "".join(f'<th class="number">{title}</th>' for title in columns.values()) + "</tr>"]  # fmt: skip
    for row in evaluation.classes:
        cells = []
        for name in columns:
            value = getattr(row, name)
            text = "–" if value is None else str(value) if isinstance(value, int) else share(value)
            cells.append(f'<td class="number">{text}</td>')
        rows.append(f"<tr><td>{escape(row.name)}</td>{''.join(cells)}</tr>")
    return "".join([*rows, "</table></div>"])


def _ending(evaluation: Evaluation) -> str:
    facts = evaluation.settings
    parts = []
    if facts.get("bootstrap"):
        parts.append(
            f"Intervals: {facts['interval']} % of {facts['bootstrap']} resamples of the pictures "
            f"(seed {facts['seed']}); gains are paired."
        )
    if evaluation.skipped:
        names = "".join(f"<li>{escape(one)}</li>" for one in evaluation.skipped[:50])
        parts.append(f"{len(evaluation.skipped)} could not be read: <ul>{names}</ul>")
    if evaluation.unlabelled:
        parts.append(f"{evaluation.unlabelled} records without a class were left out.")
    return f'<p class="soft">{" ".join(parts)}</p>' if parts else ""
