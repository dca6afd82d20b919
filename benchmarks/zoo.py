"""Measure, on one model of each family, whether the right grid is found and whether the maps are exact.

    python benchmarks/zoo.py                 # every model of zoo_models.csv (minutes)
    python benchmarks/zoo.py --short         # one model for each kind of head and layout (seconds)
    python benchmarks/zoo.py --only resnet18 swin_t
    python benchmarks/zoo.py --write         # also the table, to zoo.md

``zoo_models.csv`` lists the smallest classifier of every timm 1.0.31 family (a module of ``timm.models``) and of every
torchvision family, and more models whose heads differ. Its grids do not come from this library: they are the shapes of
timm's ``forward_features`` and ``forward_intermediates`` and the input size over the architecture's total stride; where
these disagree or are silent, the architecture's definition. ``exact`` says whether the logits are affine in the pooled
features, if need be with the normalization's statistics held.

Weights are random, and nothing is left at a trivial start value: BatchNorm statistics, LayerScale, zero-initialized
heads and gains. Every model gets two different inputs. Exit status 1: a grid wrong or not found, an inexact map behind
an affine or normalized head, logits unlike the plain forward pass's, or a model not left as it was.
"""

from __future__ import annotations

import argparse
import csv
import gc
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from camlucida import Explainer
from camlucida.errors import FeaturesNotFoundError
from camlucida.pytorch.head import DESCRIPTIONS

HERE = Path(__file__).parent
EXACT = 1e-4
KINDS = {words: kind for kind, words in DESCRIPTIONS.items()}
CAN_BE_EXACT = ("affine", "normalized")
SHORT = (
    "test_resnet", "test_convnext", "test_vit", "test_mambaout", "mobilenetv3_small_050", "squeezenet1_1", "swin_t",
    "efficientformerv2_s0", "gmlp_ti16_224", "levit_128s", "hiera_tiny_224", "crossvit_tiny_240", "efficientvim_m1",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A line of the list; ``grid`` is None for a model without a spatial axis before its head."""

    library: str
    family: str
    model: str
    input_chw: tuple[int, ...]
    grid: tuple[int, ...] | None
    exact: str


@dataclass(frozen=True)
class Outcome:
    """What was seen of one model; ``faults`` is empty if all is well."""

    entry: Entry
    grid: tuple[int, ...] | None
    layout: str
    kind: str
    residual: float
    seconds: float
    faults: tuple[str, ...]


def read_list() -> list[Entry]:
    """The models of ``zoo_models.csv``, in its order."""

    def sizes(text: str) -> tuple[int, ...]:
        return tuple(int(size) for size in text.split("x"))

    with (HERE / "zoo_models.csv").open(newline="") as file:
        return [
            Entry(
                row["library"], row["family"], row["model"], sizes(row["input_chw"]),
                None if row["grid"] == "none" else sizes(row["grid"]), row["exact"],
            )
            for row in csv.DictReader(file)
        ]  # fmt: skip


def build(entry: Entry) -> nn.Module:
    """The model with random weights, none of them at a trivial start value."""
    torch.manual_seed(0)
    if entry.library == "timm":
        headless = timm.get_pretrained_cfg(entry.model, allow_unregistered=False).num_classes == 0
        model: nn.Module = timm.create_model(entry.model, **({"num_classes": 1000} if headless else {}))
    else:
        without = {"init_weights": False} if entry.model in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(entry.model, weights=None, **without)
    return enliven(model)


@torch.no_grad()
def enliven(model: nn.Module) -> nn.Module:
    """Move what an initialization left constant (biases, norms, LayerScale, zero heads) and BatchNorm's statistics."""
    for parameter in model.parameters():
        if parameter.numel() and bool(parameter.min() == parameter.max()):
            matrix = parameter.numel() > max(parameter.shape, default=1)
            parameter.add_((0.02 if matrix else 0.1) * torch.randn(parameter.shape))
    for module in model.modules():
        if isinstance(getattr(module, "running_var", None), Tensor):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def inputs(chw: Sequence[int]) -> Tensor:
    """Two different inputs whose places differ: coarse blobs and fine noise."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(2, chw[0], 6, 6, generator=generator)
    fine = torch.randn(2, *chw, generator=generator)
    return nn.functional.interpolate(coarse, tuple(chw[1:]), mode="bilinear") + 0.5 * fine


def state(model: nn.Module) -> list[Any]:
    """All that explaining must leave as it was: modes, hooks, gradient flags, gradients, the saved values' versions."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        [(name, one.training, *(len(getattr(one, kind)) for kind in hooks)) for name, one in model.named_modules()],
        [(name, p.requires_grad, p.grad is None) for name, p in model.named_parameters()],
        [(name, value._version) for name, value in model.state_dict(keep_vars=True).items()],
    ]  # fmt: skip


def check(entry: Entry) -> Outcome:
    """Explain two inputs by one model, and compare with what is known of it."""
    model = build(entry)
    for number, module in enumerate(model.modules()):
        module.training = number % 2 == 0
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 3 > 0)
    batch = inputs(entry.input_chw)
    before = state(model)
    start = time.perf_counter()
    try:
        explainer = Explainer(model)
        explanation = explainer(batch, classes=5)
        if KINDS[explanation.origin.head] in CAN_BE_EXACT:
            explanation = explainer(batch, classes="all")
    except FeaturesNotFoundError as error:
        faults = () if entry.grid is None else (f"not found: {error}",)
        return Outcome(entry, None, "", "", float("nan"), time.perf_counter() - start, faults)
    seconds = time.perf_counter() - start
    faults = [] if state(model) == before else ["the model was not left as it was"]
    with torch.no_grad():
        plain = model.eval()(batch)
    logits = torch.tensor(explanation.logits)
    off = float((logits - plain).abs().max() / (plain.amax() - plain.amin()))
    if not off <= EXACT:
        faults.append(f"logits differ from the plain pass by {off:.1e}")
    kind, residual = KINDS[explanation.origin.head], float(explanation.residual.max())
    grid = tuple(explanation.maps.shape[2:])
    if grid != entry.grid:
        faults.append(f"wrong grid: expected {by(entry.grid)}")
    if (kind in CAN_BE_EXACT) != (entry.exact == "yes"):
        faults.append(f"head taken for {kind}, but exact is {entry.exact!r}")
    if kind in CAN_BE_EXACT and not residual <= EXACT:
        faults.append("inexact")
    layout = explanation.origin.features
    return Outcome(entry, grid, layout, kind, residual, seconds, tuple(faults))


def by(grid: tuple[int, ...] | None) -> str:
    """A grid as ``7x7``."""
    return "none" if grid is None else "x".join(map(str, grid))


def run(entries: Sequence[Entry]) -> Iterator[Outcome]:
    """The outcomes, one model in memory at a time."""
    for entry in entries:
        try:
            yield check(entry)
        except Exception as error:  # one broken model must not hide the others
            fault = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            yield Outcome(entry, None, "", "", float("nan"), 0.0, (fault,))
        gc.collect()


def cells(outcome: Outcome) -> list[str]:
    """One line of the table."""
    entry = outcome.entry
    residual = "" if outcome.residual != outcome.residual else f"{outcome.residual:.0e}"
    return [
        entry.library, entry.family, entry.model, by(entry.input_chw), by(entry.grid), by(outcome.grid), outcome.layout,
        outcome.kind, residual, f"{outcome.seconds:.1f}", "; ".join(outcome.faults) or "right",
    ]  # fmt: skip


TITLES = ("library", "family", "model", "input", "expected", "grid", "features", "head", "residual", "s", "verdict")
WIDTHS = (11, 25, 33, 9, 8, 5, 24, 10, 8, 6, 7)


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """What the table adds up to."""
    spatial = [one for one in outcomes if one.entry.grid is not None]
    found = [one for one in spatial if one.grid is not None]
    right = [one for one in found if one.grid == one.entry.grid]
    families = Counter(library for library, _ in {(one.entry.library, one.entry.family) for one in outcomes})
    possible = [one for one in spatial if one.entry.exact == "yes"]
    exact = [one for one in possible if one.kind in CAN_BE_EXACT and one.residual <= EXACT]
    kinds = Counter(one.kind for one in right)
    return [
        f"{len(outcomes)} models of {families['timm']} timm and {families['torchvision']} torchvision families, "
        f"{len(outcomes) - len(spatial)} of them without a spatial axis before the head",
        f"grids: {len(right)} right, {len(found) - len(right)} wrong, {len(spatial) - len(found)} not found",
        f"exact (residual <= {EXACT:g} in float32): {len(exact)} of the {len(possible)} that can be",
        "heads: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
        f"models with a fault: {sum(bool(one.faults) for one in outcomes)}",
    ]


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The table and its summary."""
    lines = [
        "# The zoo", "",
        f"Made by `benchmarks/zoo.py --write` with torch {torch.__version__}, timm {timm.__version__}, "
        f"torchvision {torchvision.__version__}. Random weights, two inputs, CPU, float32.", "",
        *(f"- {line}" for line in summary(outcomes)), "",
        "Residual: the largest |Σ map + bias − logit| over the spread of the logits, of all classes behind affine and "
        "normalized heads, of the five strongest behind others. Seconds: finding the split and explaining.", "",
        "| " + " | ".join(TITLES) + " |", "|" + " --- |" * len(TITLES),
        *("| " + " | ".join(cells(one)) + " |" for one in outcomes),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked; the exit status."""
    parser = argparse.ArgumentParser(description="Is the grid found, and is the map exact, on every model family?")
    parser.add_argument("--short", action="store_true", help="one model for each kind of head and layout")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models alone")
    parser.add_argument("--write", action="store_true", help="write the table to zoo.md")
    asked = parser.parse_args(arguments)
    names = asked.only or (SHORT if asked.short else None)
    entries = [entry for entry in read_list() if names is None or entry.model in names]
    unknown = set(names or ()) - {entry.model for entry in entries}
    if unknown:
        parser.error(f"not in zoo_models.csv: {', '.join(sorted(unknown))}")
    outcomes = []
    print("  ".join(title.ljust(width) for title, width in zip(TITLES, WIDTHS, strict=True)))
    for outcome in run(entries):
        outcomes.append(outcome)
        print("  ".join(c.ljust(w) for c, w in zip(cells(outcome), WIDTHS, strict=True)), flush=True)
    print("", *summary(outcomes), sep="\n")
    if asked.write:
        (HERE / "zoo.md").write_text(markdown(outcomes), encoding="utf-8")
    return int(any(one.faults for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
