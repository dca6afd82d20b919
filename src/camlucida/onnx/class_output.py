"""Which of a graph's outputs says something of the classes: chosen by evidence, asked for where there is none."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ModelError
from camlucida.onnx.foreign_metadata import NAME_KEYS, names_in
from camlucida.onnx.session import OnnxSession

_CLASSES = re.compile(r"logit|prob|score|class|pred|softmax|label|save_infer_model|fetch_name", re.IGNORECASE)
_OTHERS = re.compile(r"embed|feat|hidden|pool|token|aux|dist|box|offset", re.IGNORECASE)
_SAME = 1e-3


@dataclass(frozen=True)
class ChosenOutput:
    """Which output is explained.

    Attributes:
        name: its own.
        others: outputs that say something else.
    """

    name: str
    others: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """What a user should be told: which one was taken of several; else empty."""
        return f"explained is {self.name!r} of its outputs; others: {', '.join(self.others)}" if self.others else ""


def choose_output(
    name: str,
    rows: Mapping[str, int],
    values: Callable[[], Mapping[str, NDArray[Any]]],
    *,
    asked: str | None = None,
    named: Collection[int] = (),
) -> ChosenOutput:
    """The output of a classifier that scores its classes.

    Args:
        name: what messages call the model.
        rows: outputs of one row of numbers a picture, and how many numbers that are; in the graph's order, not empty.
        values: some pictures' outputs (N, K) by name; called where there are several.
        asked: the one that the user named, or its number from 0.
        named: how many class names the file brings, one number for each list.

    Raises:
        ModelError: there is none as asked, or several may be meant.
    """
    if asked is not None:
        known = dict(enumerate(rows))
        wanted = known.get(int(asked)) if re.fullmatch(r"\d{1,4}", asked) and asked not in rows else asked
        if wanted is None or wanted not in rows:
            raise ModelError(f"{name}: has no output {asked!r} of one row a picture, but {_listed(rows)}")
        return ChosenOutput(wanted, tuple(one for one in rows if one != wanted))
    if len(rows) == 1:
        return ChosenOutput(next(iter(rows)))
    families = _families(rows, values())
    evidence: tuple[Callable[[tuple[str, ...]], bool], ...] = (
        lambda family: "logits" in family,
        lambda family: rows[family[0]] in named,
        lambda family: any(_CLASSES.search(one) for one in family),
        lambda family: not any(_OTHERS.search(one) for one in family),
    )
    kept = families
    for speaks_for in evidence:
        kept = [family for family in kept if speaks_for(family)] or kept
    if len(kept) > 1:
        raise ModelError(
            f"{name}: several of its outputs may be scores of classes: {_listed(rows)}; say which one: --output NAME "
            "(output= in Python)"
        )
    family = kept[0]
    return ChosenOutput(
        "logits" if "logits" in family else family[0],
        tuple(one for other in families if other is not family for one in other),
    )


def class_rows(session: OnnxSession) -> dict[str, int | None]:
    """Outputs that may be one row of numbers a picture, by their declared shapes; and how many numbers, if that is
    declared.
    """
    rows: dict[str, int | None] = {}
    for output, shape in session.outputs.items():
        fits = len(shape) in (0, 2) or (len(shape) == 4 and (shape[2:] == [1, 1] or shape[1:3] == [1, 1]))
        if len(shape) == 1 == len(session.outputs):  # a single logit, whose axis was squeezed away
            fits = shape[0] == session.batch if session.batch else not isinstance(shape[0], int)
        if fits and session.types[output] in ("tensor(float)", "tensor(float16)", "tensor(double)"):
            wide = [size for size in shape[1:] if size != 1]
            rows[output] = (wide[0] if isinstance(wide[0], int) else None) if wide else 1 if len(shape) == 1 else None
    return rows


def session_output(session: OnnxSession, asked: str | None = None) -> ChosenOutput:
    """Which output of a classifier scores its classes.

    Raises:
        ModelError: none does, or several may.
    """
    rows = class_rows(session)
    if not rows:
        outputs = ", ".join(f"{output} {session.types[output]} {shape}" for output, shape in session.outputs.items())
        raise ModelError(f"{session.name}: none of its outputs is of shape (pictures, classes): {outputs}; maps are "
                         "made of classifiers of pictures")  # fmt: skip
    if len(rows) == 1 and asked is None:
        return ChosenOutput(next(iter(rows)))
    blank = session.blank()
    noise = np.random.default_rng(0).normal(size=blank.shape) * (60 if session.takes.whole_numbers else 1)
    found = [session.run(list(rows), batch) for batch in (blank, (noise + 128 * session.takes.whole_numbers))]
    values = {
        output: np.concatenate([np.asarray(part, np.float64).reshape(len(blank), -1) for part in parts])
        for output, *parts in zip(rows, *found, strict=True)
    }
    named = [len(names) for key in NAME_KEYS if (names := names_in(session.metadata.get(key, "")))]
    widths = {output: value.shape[1] for output, value in values.items()}
    return choose_output(session.name, widths, lambda: values, asked=asked, named=named)


def count_classes(session: OnnxSession, output: str) -> int:
    """How many classes an output has, by its shape, or else by what it gives for black pictures."""
    width = class_rows(session).get(output)
    if width is not None:
        return width
    (scores,) = session.run([output], session.blank())
    if scores.ndim == 0 or len(scores) != len(session.blank()):
        raise ModelError(f"{session.name}: its output {output} is of shape {scores.shape}, not (pictures, classes)")
    return int(scores[0].size)  # one, where there is but the pictures' axis


def _families(rows: Mapping[str, int], values: Mapping[str, NDArray[Any]]) -> list[tuple[str, ...]]:
    """Outputs that say the same, as they are or after a softmax or sigmoid; the plainest of each first."""
    families: list[list[str]] = []
    for one in rows:
        for family in families:
            first = family[0]
            if rows[one] != rows[first]:
                continue
            if _follows(values[one], values[first]):
                family.append(one)
                break
            if _follows(values[first], values[one]):
                family.insert(0, one)
                break
        else:
            families.append([one])
    return [tuple(family) for family in families]


def _follows(found: NDArray[Any], logits: NDArray[Any]) -> bool:
    """Whether an output is another one as it is, or its probabilities."""
    x = logits.astype(np.float64)
    with np.errstate(over="ignore"):
        raised = np.exp(x - x.max(1, keepdims=True))
        sigmoid = 1 / (1 + np.exp(-x))
    softmax = raised / raised.sum(1, keepdims=True)
    return any(np.abs(found - same).max() <= _SAME * max(np.abs(same).max(), 1e-30) for same in (x, softmax, sigmoid))


def sums_to_one(rows: NDArray[Any]) -> bool:
    """Whether each row is a distribution over two or more classes.

    >>> sums_to_one(np.array([[0.25, 0.75]])), sums_to_one(np.array([[0.25, 0.7]])), sums_to_one(np.array([[1.0]]))
    (True, False, False)
    """
    values = np.asarray(rows, np.float64)
    return values.shape[1] > 1 and bool((values >= -1e-6).all() and (np.abs(values.sum(1) - 1) <= 1e-3).all())


def _listed(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{one} ({width})" for one, width in rows.items())
