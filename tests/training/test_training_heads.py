"""Pooling heads against plain loops in float64, their identities, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from camlucida.errors import TrainingError
from camlucida.training.heads import HEADS, Criterion, Head, find_head, make_head
from camlucida.training.heads.pooling import FullyConnected

B, C, K, H, W = 2, 5, 3, 4, 6
Array = NDArray[np.float64]


def made(spec: str, seed: int = 0) -> tuple[Head, Tensor]:
    """A head in float64, and features >= 0 for it."""
    torch.manual_seed(seed)
    head = make_head(spec, C, K, (H, W)).double().eval()
    return head, torch.rand(B, C, H, W, dtype=torch.float64) * 3


def pooled(how: Callable[[list[float]], float]) -> Callable[[Array, Array, Array], Array]:
    """Logits of one picture: pool every channel by a function of its cells, then the linear layer, in loops."""

    def logits(features: Array, weight: Array, bias: Array) -> Array:
        vector = [how([float(v) for v in features[k].ravel()]) for k in range(C)]
        return np.array([sum(weight[c, k] * vector[k] for k in range(C)) + bias[c] for c in range(K)])

    return logits


def log_sum_exp(r: float) -> Callable[[Array, Array, Array], Array]:
    """Pinheiro & Collobert 2015, eq. 1, on class planes."""

    def logits(features: Array, weight: Array, bias: Array) -> Array:
        out = []
        for c in range(K):
            scores = [
                sum(weight[c, k] * features[k, y, x] for k in range(C)) + bias[c] for y in range(H) for x in range(W)
            ]
            out.append(math.log(sum(math.exp(r * s) for s in scores) / (H * W)) / r)
        return np.array(out)

    return logits


PLAIN: dict[str, Callable[[Array, Array, Array], Array]] = {
    "gap": pooled(lambda cells: sum(cells) / len(cells)),
    "sum": pooled(lambda cells: sum(cells) / (H * W)),  # its weights are held times the cells
    "gmp": pooled(max),
    "gem": pooled(lambda cells: (sum(v**3 for v in cells) / len(cells)) ** (1 / 3)),
    "gem:p=1.5": pooled(lambda cells: (sum(v**1.5 for v in cells) / len(cells)) ** (1 / 1.5)),
    "lse": log_sum_exp(5.0),
    "lse:r=0.5": log_sum_exp(0.5),
}


@pytest.mark.parametrize("spec", PLAIN)
def test_logits_and_maps_are_the_formulas(spec: str) -> None:
    head, features = made(spec)
    weight, bias = (parameter.detach().numpy() for parameter in head.linear.parameters())
    logits, maps = head(features).detach().numpy(), head.maps(features).detach().numpy()
    for b in range(B):
        one = features[b].numpy()
        np.testing.assert_allclose(logits[b], PLAIN[spec](one, weight, bias), rtol=1e-12)
        expected = [[[weight[c] @ one[:, y, x] / (H * W) for x in range(W)] for y in range(H)] for c in range(K)]
        np.testing.assert_allclose(maps[b], expected, rtol=1e-12)


@pytest.mark.parametrize("spec", ["gap", "sum"])
@pytest.mark.parametrize("grid", [(H, W), (3, 2)])
def test_exact_maps_sum_to_the_logits(spec: str, grid: tuple[int, int]) -> None:
    head, _ = made(spec)
    features = torch.randn(B, C, *grid, dtype=torch.float64)
    torch.testing.assert_close(head.maps(features).sum((2, 3)) + head.bias(), head(features), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spec", ["gap", "gmp", "gem", "lse", "sum"])
def test_even_features_make_every_pooling_exact(spec: str) -> None:
    head, features = made(spec)
    even = features[:, :, :1, :1].expand(-1, -1, H, W)
    torch.testing.assert_close(head.maps(even).sum((2, 3)) + head.linear.bias, head(even), rtol=1e-9, atol=1e-9)


def test_log_sum_exp_lies_between_the_mean_and_the_maximum() -> None:
    _, features = made("gap")
    logits = {}
    for spec in ("gap", "lse:r=0.0001", "lse:r=3", "lse:r=2000"):
        head, _ = made(spec)
        logits[spec] = head(features)
    planes = torch.einsum("ck,bkyx->bcyx", head.linear.weight, features) + head.linear.bias[:, None, None]
    assert torch.allclose(logits["lse:r=0.0001"], logits["gap"], atol=1e-3)
    assert torch.allclose(logits["lse:r=2000"], planes.amax((2, 3)), atol=1e-2)
    assert bool((logits["gap"] < logits["lse:r=3"]).all())
    assert bool((logits["lse:r=3"] < planes.amax((2, 3))).all())


def test_the_generalized_means_exponent_learns() -> None:
    head, features = made("gem")
    head(features).sum().backward()
    assert head.p.grad is not None
    assert float(head.p.grad) != 0
    assert [name for name, _ in head.named_parameters()] == ["p", "linear.weight", "linear.bias"]


@pytest.mark.parametrize("spec", ["gem", "lse"])
def test_powers_and_exponentials_stand_autocast(spec: str) -> None:
    torch.manual_seed(0)
    head = make_head(spec, C, K, (H, W))
    features = torch.rand(B, C, H, W) * 20
    with torch.autocast("cpu", torch.bfloat16):
        low = head(features.bfloat16())
    assert torch.isfinite(low).all()
    torch.testing.assert_close(low.float(), head(features), rtol=0.03, atol=0.1)


def test_the_fully_connected_heads_maps_are_gradient_times_features() -> None:
    head, features = made("fc:hidden=8")
    maps = head.maps(features).detach()
    step = 1e-6
    for c in range(K):
        for y, x in ((0, 0), (2, 5), (3, 3)):
            total = 0.0
            for k in range(C):
                moved = features.clone()
                moved[0, k, y, x] += step
                slope = float((head(moved)[0, c] - head(features)[0, c]).detach()) / step
                total += slope * float(features[0, k, y, x])
            assert abs(total - float(maps[0, c, y, x])) < 1e-5
    with torch.inference_mode():
        torch.testing.assert_close(head.maps(features.clone()), maps)


def test_the_fully_connected_head_pools_to_seven_cells() -> None:
    head = make_head("fc:hidden=16,dropout=0.25", 4, 3, (24, 10))
    assert isinstance(head, FullyConnected)
    assert [tuple(p.shape) for p in head.parameters() if p.ndim > 1] == [(16, 4 * 7 * 7), (16, 16), (3, 16)]
    assert head(torch.rand(2, 4, 24, 10)).shape == (2, 3)
    assert [layer.p for layer in head.modules() if isinstance(layer, torch.nn.Dropout)] == [0.25, 0.25]


@pytest.mark.parametrize("name", ["gap", "gmp", "lse", "gem", "sum", "fc"])
def test_bias_says_which_maps_are_exact(name: str) -> None:
    head, features = made(name if name != "fc" else "fc:hidden=8")
    head = head.double()
    exact = name in ("gap", "sum")
    assert (head.bias() is not None) is exact
    total = head.maps(features).sum((2, 3)) + (head.layers[-1].bias if name == "fc" else head.linear.bias)
    assert torch.allclose(total, head(features), atol=1e-6) is exact


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nothing", r"^head: there is no 'nothing'; expected one of gap, gmp, lse, "),
        ("lse:q=2", r"^head: lse has no option 'q'; it has r$"),
        ("gap:r=2", r"^head: gap has no option 'r'; it has none$"),
        ("lse:r", r"^lse:r: expected name:option=number,…, got 'r'$"),
        ("lse:r=0", r"^head: lse needs r above 0, got 0"),
        ("gem:p=-1", r"^head: gem needs p above 0, got -1"),
        ("fc:hidden=2.5", r"^head: fc needs a? ?whole hidden >= 1 and dropout in \[0, 1\), got 2.5, 0.5$"),
        ("fc:dropout=1", r"^head: fc needs a? ?whole hidden >= 1 and dropout in \[0, 1\), got 1024, 1$"),
    ],
)
def test_refused(spec: str, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        make_head(spec, C, K, (H, W))


def test_soft_cross_entropy_and_binary_cross_entropy() -> None:
    logits = torch.randn(4, K, dtype=torch.float64)
    targets = torch.tensor([[1.0, 0, 0], [0, 0.3, 0.7], [0, 1, 0], [0.5, 0.5, 0]])
    total = 0.0
    for row, target in zip(logits.float().tolist(), targets.tolist(), strict=True):
        norm = math.log(sum(math.exp(v) for v in row))
        smooth = [0.9 * t + 0.1 / K for t in target]
        total += sum(t * (norm - v) for t, v in zip(smooth, row, strict=True))
    assert math.isclose(float(Criterion(label_smoothing=0.1)(logits, targets)), total / 4, rel_tol=1e-5)
    many = torch.tensor([[1.0, 0, 1]] * 4)
    total = 0.0
    for row in logits.float().tolist():
        for v, t in zip(row, (0.9 + 0.05, 0.05, 0.9 + 0.05), strict=True):
            p = 1 / (1 + math.exp(-v))
            total -= t * math.log(p) + (1 - t) * math.log(1 - p)
    found = float(Criterion(label_smoothing=0.1, multi_label=True)(logits, many))
    assert math.isclose(found, total / 12, rel_tol=1e-5)


def test_every_head_named_is_there() -> None:
    for name in HEADS:
        assert issubclass(find_head(name)[0], Head)
