"""The judge judged: one who knows the truth passes every entry, and liars are caught."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import verdicts
from composed_nets import ENTRIES
from random_nets import draw
from tapped import truth_of
from torch import Tensor, nn
from verdicts import Entry, fitted, verdict

EXPLAINED = [entry for entry in ENTRIES if entry.output != "none"]


def oracle(entry: Entry, x: Tensor, extra: tuple[Any, ...], lie: str = "", mode: str = "nearest") -> list[Any]:
    """What a perfect library would answer; ``lie`` makes it answer wrongly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = entry.network()
    twin = net if entry.twin is None else entry.twin(net)
    answers = []
    for call in verdicts._calls(entry, x, extra):
        truth = truth_of(twin, call)
        output = truth.logits
        if entry.output == "probability":
            with torch.no_grad():
                output = verdicts._tensor(net(*call))
        grid = tuple(max(one.shape[axis] for one in truth.maps) for axis in range(2, truth.maps[0].ndim))
        parts = [fitted(one, grid, mode) for one in truth.maps]
        maps = sum(parts[:1] if lie == "one branch" else parts)
        bias = truth.bias.clone()
        if lie == "mirrored":
            maps = maps.flip(-1)
        if lie == "elsewhere":
            maps = maps.roll(maps.shape[-1] // 2, -1)
        if lie in ("absorbed", "one branch"):
            bias = truth.logits - maps.flatten(2).sum(2)
        if lie == "zeros":
            maps = torch.zeros_like(maps)
        if lie == "shrunk":
            maps, bias = maps / 2, bias + maps.flatten(2).sum(2) / 2
        logits = truth.logits.numpy()
        spread = (logits.max(1) - logits.min(1) if logits.shape[1] > 1 else abs(logits[:, 0]))[:, None]
        residual = abs(maps.flatten(2).sum(2) + bias - truth.logits).numpy() / spread
        residual = residual * 0.2 if lie == "understated" else residual
        answers.append(SimpleNamespace(
            logits=logits, scores=logits, maps=maps.numpy(), bias=bias.numpy(), residual=residual, grid=grid,
            probabilities=output.double().reshape(len(output), -1).numpy() * (0.5 if lie == "probability" else 1),
        ))  # fmt: skip
    return answers


def answer(monkeypatch: pytest.MonkeyPatch, entry: Entry, lie: str = "", mode: str = "nearest") -> verdicts.Verdict:
    def explained(one: Entry, net: nn.Module, x: Tensor, extra: tuple[Any, ...], classes: Any) -> list[Any]:
        return oracle(one, x, extra, lie, mode)

    monkeypatch.setattr(verdicts, "_explained", explained)
    return verdict(entry)


@pytest.mark.parametrize("mode", ["nearest", "smooth"])
@pytest.mark.parametrize("entry", EXPLAINED, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_who_knows_the_truth_passes(monkeypatch: pytest.MonkeyPatch, entry: Entry, mode: str) -> None:
    """Every entry can be passed, by maps brought to the finest grid in steps or smoothly."""
    got = answer(monkeypatch, entry, mode=mode)
    assert got.outcome in entry.wanted | {"exact", "honest"}, got
    if entry.wanted == {"exact"}:
        assert got.outcome == "exact", got


@pytest.mark.parametrize("seed", range(150))
def test_random_networks_can_be_passed(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """And every draw."""
    got = answer(monkeypatch, draw(seed))
    assert got.outcome in {"exact", "honest"}, got


@pytest.mark.parametrize("lie", ["mirrored", "elsewhere", "absorbed", "zeros", "shrunk", "understated", "one branch"])
def test_liars_are_caught(monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
    """Of the entries that a lie changes, none passes as exact, and none as honest where the lie is not told."""
    found = []
    for entry in EXPLAINED:
        if entry.kind not in ("A1", "A2", "A4") or entry.output != "logits":
            continue
        got = answer(monkeypatch, entry, lie)
        changes = {
            "one branch": entry.name.startswith(("two_backbones", "pyramid", "three", "flip_averaged")),
            "absorbed": entry.name in ("class_token_beside_pooled", "image_statistics_beside", "spectrum_beside"),
            "understated": entry.name in ("class_token_beside_pooled", "image_statistics_beside"),
            "zeros": True, "shrunk": True, "mirrored": True, "elsewhere": True,
        }[lie]  # fmt: skip
        if changes:
            found.append((entry.name, got.outcome))
    assert found
    assert {outcome for _, outcome in found} <= {"SILENT", "EMPTY"}, [
        one for one in found if one[1] not in ("SILENT", "EMPTY")
    ]


def test_wrong_probabilities_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An activation applied twice, say."""
    entry = next(entry for entry in EXPLAINED if entry.name == "sigmoid_squeezed")
    assert answer(monkeypatch, entry, "probability").outcome == "SILENT"
