"""What a model returns: which tensor is its logits, and which activation they went through.

Truths are textbook maps of the network below, computed here: logits are affine in the mean of the features.
"""

from __future__ import annotations

import json
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import camlucida as cl  # noqa: E402
from camlucida.errors import ModelError, TargetError  # noqa: E402
from camlucida.explainer import Explainer, explain  # noqa: E402
from camlucida.pytorch.final_activations import activation_between, sums_to_one  # noqa: E402
from camlucida.pytorch.outputs import choose_output, named_tensors  # noqa: E402
from camlucida.pytorch.with_maps import with_maps  # noqa: E402
from camlucida.targets import Expected  # noqa: E402

X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Features, their mean, logits well away from zero, and an end."""

    def __init__(self, end, classes=5, width=16):
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, 4, 1), nn.ReLU())
        self.head, self.other = nn.Linear(width, classes), nn.Linear(width, 12)
        with torch.no_grad():
            self.head.weight.mul_(6)
        self.end = end

    def forward(self, x):
        pooled = self.body(x).mean((2, 3))
        return self.end(SimpleNamespace(p=pooled, y=self.head(pooled), e=self.other(pooled), net=self))

    def truth(self):
        with torch.no_grad():
            features = self.body(X)
            maps = torch.einsum("kc,bchw->bkhw", self.head.weight, features) / features[0, 0].numel()
            return self.head(features.mean((2, 3))), maps


def agrees(explanation, net):
    """Logits, maps and bias are the textbook's."""
    logits, maps = net.truth()
    np.testing.assert_allclose(explanation.logits, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(explanation.maps, maps, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(explanation.bias, net.head.bias.detach().expand(3, -1), atol=1e-4)
    assert explanation.residual.max() <= 1e-4


ACTIVATED = {
    "softmax_unsqueezed_twice": (lambda n: n.y.softmax(1)[:, :, None].unsqueeze(-1).squeeze(2).squeeze(2), 5),
    "softmax_cast_up_and_down": (lambda n: n.y.softmax(1).double().to(torch.float32), 5),
    "softmax_every_class_indexed": (lambda n: n.y.softmax(1)[:, [0, 1, 2, 3, 4]], 5),
    "softmax_sliced_whole": (lambda n: n.y.softmax(1)[..., :5], 5),
    "softmax_clipped_and_transposed": (lambda n: n.y.softmax(1).clip(1e-8, 1).T.contiguous().T, 5),
    "softmax_of_logits_less_their_maximum": (lambda n: (n.y - n.y.amax(1, keepdim=True)).softmax(1), 5),
    "softmax_module_and_flatten": (lambda n: nn.Flatten()(nn.Softmax(1)(n.y)), 5),
    "log_softmax": (lambda n: n.y.log_softmax(1), 5),
    "log_softmax_then_view": (lambda n: F.log_softmax(n.y, 1).view(-1, 5), 5),
    "log_of_softmax_clamped": (lambda n: n.y.softmax(1).clamp(1e-30).log(), 5),
    "exponentials_over_their_sum": (lambda n: (e := (n.y - n.y.max()).exp()) / e.sum(1, keepdim=True), 5),
    "sigmoid_of_many_then_float": (lambda n: torch.special.expit(n.y).float(), 5),
    "log_sigmoid_of_many": (lambda n: F.logsigmoid(n.y), 5),
    "sigmoid_then_squeeze": (lambda n: torch.sigmoid(n.y).squeeze(1), 1),
    "sigmoid_then_unsqueeze": (lambda n: torch.sigmoid(n.y)[:, 0, None], 1),
    "sigmoid_then_clamp_in_place": (lambda n: n.y.sigmoid().clamp_(1e-6, 1 - 1e-6), 1),
    "sigmoid_then_ravel": (lambda n: n.y.sigmoid().ravel(), 1),
    "log_sigmoid": (lambda n: F.logsigmoid(n.y).squeeze(1), 1),
}


@pytest.mark.parametrize("name", ACTIVATED)
def test_the_logits_before_a_final_activation_are_explained(name):
    end, classes = ACTIVATED[name]
    net = Net(end, classes).eval()
    explanation = explain(X, net, classes="all" if classes > 1 else [1])
    agrees(explanation, net)
    logits, _ = net.truth()
    activation = "sigmoid" if "sigmoid" in name else "softmax"
    assert (explanation.origin.activation, explanation.origin.note) == (activation, "")
    wanted = logits.sigmoid() if activation == "sigmoid" else logits.softmax(1)
    np.testing.assert_allclose(explanation.probabilities, wanted, atol=1e-4)


PROBABILITIES = {
    "mean_of_three_softmaxes": lambda n: sum((n.y * k).softmax(1) for k in (1, 0.5, -0.25)) / 3,
    "shares_of_two_softmaxes": lambda n: 0.8 * n.y.softmax(1) + 0.2 * (n.e[:, :5] * 3).softmax(1),
    "stacked_and_averaged": lambda n: torch.stack([n.y.softmax(1), (n.e[:, 2:7] * 3).softmax(1)]).mean(0),
    "softmax_of_more_classes_cut": lambda n: torch.cat((n.y, n.e[:, :1]), 1).softmax(1)[:, :5],
    "noisy_or_of_sigmoids": lambda n: 1 - (1 - n.y.sigmoid()) * (1 - (3 * n.e[:, :5]).sigmoid()),
    "maximum_of_sigmoids": lambda n: torch.maximum(n.y.sigmoid(), (3 * n.e[:, :5]).sigmoid()),
    "hard_sigmoid": lambda n: F.hardsigmoid(n.y),
}


@pytest.mark.parametrize("name", PROBABILITIES)
def test_probabilities_without_logits_are_explained_as_they_are(name):
    net = Net(PROBABILITIES[name]).eval()
    explanation = explain(X, net, classes=2)
    with torch.no_grad():
        np.testing.assert_allclose(explanation.logits, net(X), atol=1e-6)
    assert explanation.origin.activation == "none"
    assert "probabilit" in explanation.origin.note
    assert explanation.origin.unit == "probability per cell"
    assert np.isnan(explanation.probabilities).all()
    assert "%" not in explanation.caption(0).partition("·")[0]
    with pytest.raises(TargetError, match=r"activation='softmax' would be applied to probabilities.*leave it out"):
        explain(X, net, activation="softmax")


@pytest.mark.parametrize("name", ["noisy_or", "multiple_instances", "column_of_a_softmax", "sigmoid_in_place"])
def test_a_single_probability_is_explained_by_its_log_odds(name):
    end = {
        "noisy_or": lambda n: 1 - (1 - n.y.sigmoid()) * (1 - (3 * n.e[:, :1]).sigmoid()),
        "multiple_instances": lambda n: n.net.cells.sigmoid().mean((1, 2, 3)),
        "column_of_a_softmax": lambda n: torch.cat((n.y, n.e[:, :1]), 1).softmax(1)[:, 0],
        "sigmoid_in_place": lambda n: n.y.sigmoid_(),
    }[name]
    net = Net(end, 1).eval()
    cells = nn.Conv2d(16, 1, 1)
    net.body.register_forward_hook(lambda _module, _args, features: setattr(net, "cells", 9 * cells(features)))
    with torch.no_grad():
        probability = net(X).reshape(-1).double()
    explanation = explain(X, net, classes=[1])
    np.testing.assert_allclose(explanation.probabilities[:, 0], probability, atol=1e-4)
    np.testing.assert_allclose(explanation.scores[:, 0], probability.logit(), rtol=1e-3, atol=1e-3)
    assert explain(X, net).names == tuple(("positive",) if p > 0.5 else ("negative",) for p in probability)


@pytest.mark.parametrize("scale", [0.1, 1.0])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_logits_that_lie_in_0_to_1_by_chance_are_no_probabilities(classes, scale):
    net = Net(lambda n: 0.5 + scale * 0.01 * n.y, classes).eval()
    explanation = explain(X, net)
    with torch.no_grad():
        np.testing.assert_allclose(explanation.logits, net(X), rtol=1e-6)
    assert explanation.origin.activation == ("sigmoid" if classes == 1 else "softmax")
    assert explanation.origin.note == ""


def test_activations_are_told_apart_however_small_the_logits():
    rows = 1e-3 * torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    others = rows.flip(1)
    assert activation_between(rows, rows.softmax(1)) == "softmax"
    assert activation_between(others, rows.softmax(1)) is None
    assert activation_between(rows, rows.sigmoid()) == "sigmoid"
    assert activation_between(rows, rows) is None
    assert activation_between(rows[:, :1], rows[:, :1].sigmoid()) == "sigmoid"
    assert sums_to_one(rows.softmax(1))
    assert not sums_to_one(rows.sigmoid())


# --- which output -----------------------------------------------------------------------------------------------------

A, B, E = torch.randn(3, 5), torch.randn(3, 5), torch.randn(3, 16)
Exits = namedtuple("Exits", ["logits", "aux_logits"])


@dataclass
class Plain:
    features: torch.Tensor
    scores: torch.Tensor


CHOSEN = [
    (A, Expected(), ""),
    ([A], Expected(), "0"),
    ({"out": A, "aux": B}, Expected(), "out"),
    ({"logits": A, "aux_logits": B}, Expected(), "logits"),
    ({"output": A, "embedding": E}, Expected(), "output"),
    ({"predictions": A, "pooler_output": E}, Expected(), "predictions"),
    (Exits(A, B), Expected(), "logits"),
    (Plain(E, A), Expected(), "scores"),
    ((E, {"head": {"logits": A}}), Expected(), "1.head.logits"),
    ((A.mean(), A), Expected(), "1"),
    ((A.argmax(1), A), Expected(), "1"),
    ((A > 0, A[:, :, None, None]), Expected(), "1"),
    ((A, A), Expected(), "0"),
    ((A, A.softmax(1)), Expected(), "0"),
    ({"probs": A.softmax(1), "logits": A}, Expected(), "logits"),
    ((E, A), Expected(named=5), "1"),
    ((A, E), Expected(named=5), "0"),
    ((E, A), Expected(declared=5), "1"),
    ({"age": E, "sex": A[:, :1]}, Expected(named=2), "sex"),
    ({"logits": A, "sex": A[:, :2]}, Expected(declared=2), "logits"),
    ((E, A), Expected(output=1), "1"),
    ((E, A), Expected(output=-1), "1"),
    ((E, (A, B)), Expected(output="1.0"), "1.0"),
    ({"age": E, "sex": A}, Expected(output="age"), "age"),
    ({"tasks": {"age": E, "sex": A}}, Expected(output="sex"), "tasks.sex"),
    (Exits(A, B), Expected(output=1), "aux_logits"),
    ({"logits": A, "cls_logits": B, "distillation_logits": A + B}, Expected(), "logits"),
    ({"logits_per_image": A, "image_embeds": E}, Expected(), "logits_per_image"),
    ({"embedding": A}, Expected(named=5), "embedding"),
    ({"pooled_logits": A, "pooler_output": E}, Expected(declared=5), "pooled_logits"),
    (Exits(A, B), Expected(output="aux_logits"), "aux_logits"),
]


@pytest.mark.parametrize(("returned", "expected", "path"), CHOSEN)
def test_an_output_is_chosen_by_evidence(returned, expected, path):
    assert choose_output(returned, 3, expected).path == path


REFUSED = [
    ((E, A), Expected(), r"several tensors that could be its logits \(0 \(3, 16\), 1 \(3, 5\)\).*output='1'"),
    ([A, B, A + B], Expected(), r"several tensors.*nothing tells which.*say it by output="),
    ([A, B], Expected(named=5), r"several tensors"),
    ({"last_hidden_state": torch.zeros(3, 9, 16), "pooler_output": E}, Expected(),
     r"pooler_output alone has a row .* no logits; put a head behind it .*output='pooler_output'"),
    ({"main": A, "other": B}, Expected(), r"main \(3, 5\), other \(3, 5\).*output='other'"),
    ({"age": E, "sex": A[:, :2]}, Expected(), r"several tensors"),
    ((A[:, :1], A), Expected(), r"several tensors"),
    ((A, (B, E)), Expected(output=1), r"output=1 has several tensors, 1.0 \(3, 5\), 1.1 \(3, 16\); the model returns"),
    ((A, B), Expected(output=7), r"output=7 is no tensor; the model returns 0 \(3, 5\), 1 \(3, 5\); name one"),
    ({"logits": A}, Expected(output="logit"), r"output='logit' is no tensor; the model returns logits \(3, 5\)"),
    ((A, A.argmax(1)), Expected(output=1), r"has shape \(3,\) for 3 inputs, and logits are \(batch, classes\)"),
    (torch.zeros(3, 7, 8, 8), Expected(), r"values at every place.*MaskScore.*head"),
    ({"out": torch.zeros(3, 7, 8, 8)}, Expected(), r"out \(3, 7, 8, 8\).*MaskScore"),
    ([torch.zeros(3, 7, 8, 8), torch.zeros(3, 9, 4, 4)], Expected(), r"a backbone needs a head"),
    (torch.zeros(3, 64, 7), Expected(), r"tokens or boxes: put a head behind them"),
    ([{"boxes": torch.zeros(9, 4), "scores": torch.zeros(9), "labels": torch.zeros(9).long()}] * 3, Expected(),
     r"as a detector does.*BoxScore"),
    (torch.zeros(()), Expected(), r"a loss or another single number; let its forward return the logits"),
    ({}, Expected(), r"it returned no tensor; let its forward return the logits"),
    (None, Expected(), r"it returned no tensor"),
    (torch.zeros(2, 5), Expected(), r"gave logits \(2, 5\) for 3 inputs; expected a row for each input"),
]  # fmt: skip


@pytest.mark.parametrize(("returned", "expected", "message"), REFUSED)
def test_without_evidence_it_is_refused(returned, expected, message):
    with pytest.raises(ModelError, match=message) as caught:
        choose_output(returned, 3, expected)
    assert "\n" not in str(caught.value)


def test_paths_of_what_a_model_returned():
    nested = {"a": [A, (B,)], "b": Exits(A, None)}
    assert [path for path, _ in named_tensors(nested)] == ["a.0", "a.1.0", "b.logits"]


def tasks(n):
    return {"embedding": n.e, "task": {"kind": n.y, "age": n.e[:, :3]}}


@pytest.mark.parametrize("output", ["kind", "task.kind"])
def test_the_output_said_is_explained_and_stands_in_the_result(output, tmp_path):
    net = Net(tasks).eval()
    with pytest.raises(ModelError, match="several tensors that could be its logits"):
        explain(X, net)
    explanation = Explainer(net, output=output)(X, "all")
    agrees(explanation, net)
    assert explanation.origin.output == "task.kind"
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    explain(picture, net, output=output, preprocess=cl.Preprocess((32, 32))).save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["output"] == "task.kind"


def test_class_names_tell_the_output():
    net = Net(lambda n: (n.e, n.y)).eval()
    explanation = explain(X, net, classes="all", class_names=list("abcde"))
    agrees(explanation, net)
    assert (explanation.origin.output, explanation.names[0]) == ("1", tuple("abcde"))


def test_the_model_declares_how_many_classes_it_has():
    net = Net(lambda n: (n.e, n.y)).eval()
    net.num_classes = 5
    agrees(explain(X, net, classes="all"), net)


def test_with_maps_takes_the_output_said():
    net = Net(tasks).eval()
    logits, maps = with_maps(net, X, output="kind")(X)
    wanted_logits, wanted = net.truth()
    torch.testing.assert_close(logits, wanted_logits)
    torch.testing.assert_close(maps, wanted, rtol=1e-4, atol=1e-6)


def test_an_output_of_a_file_that_is_open_cannot_be_chosen():
    with pytest.raises(ModelError, match="is chosen when a file is opened"):
        Explainer(cl.Explainer().model, output="logits")
