"""Kinds A3 (heads without a gradient) and A4 (norms in the head, by whatever name)."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from nets_branches import ANY, BEST, TOLD, K, W, conv, gap, lin
from tapped import Net
from torch import Tensor, nn
from torch.nn import functional as F
from verdicts import Entry

ENTRIES: list[Entry] = []


def add(kind: str, name: str, function: Any, parts: Any, wanted: frozenset[str] = BEST, **more: Any) -> None:
    ENTRIES.append(Entry(name, kind, lambda: Net(function, **parts()), wanted=wanted, **more))


# A3 ------------------------------------------------------------------------------------------------------------------
def plain(n: Any, x: Tensor) -> Tensor:
    logits: Tensor = n.h(gap(n.tap(n.a(x))))
    return logits


def twin_of(net: Any) -> Net:
    """The same network with its head in plain torch."""
    return Net(plain, a=net.a, h=net.h)


class _NoWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return p @ weight.T + bias

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError("no backward")


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x * 64) / 64

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return torch.zeros_like(grads[0])


def dynamic_int8() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(Net(plain, a=conv(), h=lin()), {nn.Linear}, torch.qint8)


def float_again(net: Any) -> Net:
    head = lin()
    with torch.no_grad():
        head.weight.copy_(net.h.weight().dequantize())
        head.bias.copy_(net.h.bias())
    return Net(plain, a=net.a, h=head)


def _without_grad(n: Any, x: Tensor) -> Tensor:
    p = gap(n.a(x))
    with torch.no_grad():
        return n.h(p)


def _all_without_grad(n: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return n.h(gap(n.a(x)))


def _inference_head(n: Any, x: Tensor) -> Tensor:
    p = gap(n.a(x))
    with torch.inference_mode():
        return n.h(p)


def _numpy(n: Any, x: Tensor) -> Tensor:
    p = gap(n.a(x)).detach().numpy()
    return torch.from_numpy(p @ n.h.weight.detach().numpy().T + n.h.bias.detach().numpy())


def _lists(n: Any, x: Tensor) -> Tensor:
    return n.h(torch.tensor(gap(n.a(x)).tolist(), dtype=x.dtype))


def _integers(n: Any, x: Tensor) -> Tensor:
    p = (gap(n.a(x)) * 256).round().to(torch.int64)
    w = (n.h.weight * 256).round().to(torch.int64)
    return (p @ w.T).to(x.dtype) / 65536 + n.h.bias


def _signs(n: Any, x: Tensor) -> Tensor:
    return n.h(gap(n.tap(torch.sign(n.a(x) - 0.3))))


def _codebook(n: Any, x: Tensor) -> Tensor:
    f = n.a(x).movedim(1, 3)
    nearest = torch.cdist(f.flatten(0, 2).double(), n.codes.double()).argmin(1)
    f = n.tap(n.codes[nearest].reshape(f.shape), channels=3)
    return n.h(f.mean((1, 2)))


def _quantized_and_back(n: Any, x: Tensor) -> Tensor:
    p = gap(n.a(x))
    return n.h(torch.quantize_per_tensor(p, 1 / 64, 0, torch.qint8).dequantize())


int8 = {"wanted": ANY, "tolerance": 5e-2}
parts = lambda: {"a": conv(), "h": lin()}  # noqa: E731
NOT_HONEST_ZEROS = frozenset({"exact", "refused"})
ENTRIES.append(Entry("dynamic_int8_head", "A3", dynamic_int8, twin=float_again, **int8))
add("A3", "head_under_no_grad", _without_grad, parts, twin=twin_of)
add("A3", "all_under_no_grad", _all_without_grad, parts, twin=twin_of)
add("A3", "head_under_inference_mode", _inference_head, parts, NOT_HONEST_ZEROS, twin=twin_of)
add("A3", "function_without_backward",
    lambda n, x: _NoWayBack.apply(gap(n.a(x)), n.h.weight, n.h.bias), parts, NOT_HONEST_ZEROS,
    twin=twin_of)  # fmt: skip
add("A3", "head_on_data", lambda n, x: gap(n.a(x)).data @ n.h.weight.data.T + n.h.bias.data, parts, twin=twin_of)
add("A3", "head_on_detached", lambda n, x: n.h(gap(n.a(x)).detach()), parts, twin=twin_of)
add("A3", "head_in_numpy", _numpy, parts, NOT_HONEST_ZEROS, twin=twin_of)
add("A3", "head_through_lists", _lists, parts, NOT_HONEST_ZEROS, twin=twin_of)
add("A3", "logits_rounded", lambda n, x: torch.round(n.h(gap(n.a(x))) * 1000) / 1000, parts, ANY, twin=twin_of,
    tolerance=2e-2)  # fmt: skip
add("A3", "features_rounded", lambda n, x: n.h(_Rounded.apply(gap(n.a(x)))), parts, ANY, twin=twin_of,
    tolerance=5e-2)  # fmt: skip
add("A3", "integer_arithmetic", _integers, parts, ANY, twin=twin_of, tolerance=2e-2)
add("A3", "features_of_signs", _signs, parts)
add("A3", "features_from_a_codebook", _codebook, lambda: {**parts(), "codes": nn.Parameter(torch.randn(12, W))})
add("A3", "quantized_and_back", _quantized_and_back, parts, ANY, twin=twin_of, tolerance=5e-2)
add("A3", "fake_quantized",
    lambda n, x: n.h(torch.fake_quantize_per_tensor_affine(gap(n.a(x)), 1 / 64, 0, -128, 127)), parts, ANY,
    twin=twin_of, tolerance=5e-2)  # fmt: skip


# A4 ------------------------------------------------------------------------------------------------------------------
def pooled(n: Any, x: Tensor) -> Tensor:
    return gap(n.tap(n.a(x)))


def norm(name: str, statistic: Any, centred: bool = False, wanted: frozenset[str] = BEST) -> None:
    """A head p / statistic(p) (or of p - mean) before the classifier."""

    def function(n: Any, x: Tensor) -> Tensor:
        p = pooled(n, x)
        p = p - p.mean(1, keepdim=True) if centred else p
        return n.h(p / n.still(statistic(p)))

    add("A4", name, function, parts, wanted)


norm("linalg_norm", lambda p: torch.linalg.norm(p, dim=1, keepdim=True))
norm("root_of_squares", lambda p: (p * p).sum(1, keepdim=True) ** 0.5)
norm("l1_abs_sum", lambda p: p.abs().sum(1, keepdim=True))
norm("tensor_norm", lambda p: p.norm(dim=1, keepdim=True))
norm("l1_norm", lambda p: p.norm(1, dim=1, keepdim=True))
norm("largest", lambda p: p.abs().amax(1, keepdim=True))
norm("largest_by_max", lambda p: p.max(1, keepdim=True).values)
norm("cubes", lambda p: (p.abs() ** 3).sum(1, keepdim=True) ** (1 / 3))
norm("sum", lambda p: p.sum(1, keepdim=True))
norm("rms_by_hand", lambda p: (p.square().mean(1, keepdim=True) + 1e-6).sqrt())
norm("rms_by_rsqrt", lambda p: 1 / torch.rsqrt(p.pow(2).mean(-1, keepdim=True) + 1e-6))
norm("layer_norm_by_hand", lambda p: (p.pow(2).mean(1, keepdim=True) + 1e-5).sqrt(), centred=True)
norm("layer_norm_eps_outside", lambda p: p.pow(2).mean(1, keepdim=True).pow(0.5) + 1e-5, centred=True)
norm("standardized", lambda p: p.std(1, keepdim=True), centred=True)
norm("by_einsum", lambda p: torch.einsum("bi,bi->b", p, p)[:, None].sqrt())
norm("by_bmm", lambda p: torch.bmm(p[:, None], p[:, :, None])[:, 0].sqrt())
norm("by_dot_of_self", lambda p: (p @ p.mT).diagonal()[:, None].sqrt())
norm("exp_of_half_log", lambda p: (p.square().sum(1, keepdim=True).log() / 2).exp())
norm("hypot", lambda p: torch.hypot(p[:, :8].norm(dim=1, keepdim=True), p[:, 8:].norm(dim=1, keepdim=True)))
norm("range", lambda p: p.amax(1, keepdim=True) - p.amin(1, keepdim=True))
norm("median", lambda p: p.median(1, keepdim=True).values)
norm("maximum_with_eps", lambda p: torch.maximum(p.square().sum(1, keepdim=True).sqrt(), p.new_tensor(1e-8)))


def cosine(scale: float = 1.0, way: str = "normalize") -> Any:
    def function(n: Any, x: Tensor) -> Tensor:
        p, w = pooled(n, x), n.h.weight
        if way == "cosine_similarity" and n.marks is None:
            return scale * F.cosine_similarity(p[:, None], w[None], dim=-1)
        if way == "normalize" and n.marks is None:
            return scale * F.linear(F.normalize(p), F.normalize(w))
        if way == "of_similarity":  # (p·w) / (|p| |w|)
            return scale * (p @ w.T) / (n.still(p.norm(dim=1, keepdim=True)) * w.norm(dim=1))
        length = n.still(p.square().sum(1, keepdim=True).sqrt())
        return scale * (p / length) @ (w / w.square().sum(1, keepdim=True).sqrt()).T

    return function


def trained_norm(wide: int) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(wide)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.bias.normal_()
    return norm


def _clip_like(n: Any, x: Tensor) -> Tensor:
    e = n.p(pooled(n, x))
    e = e / n.still(e.norm(dim=-1, keepdim=True))
    text = n.e(torch.arange(K)).tanh()
    text = text / text.norm(dim=-1, keepdim=True)
    return n.s.exp() * e @ text.t()


def _embedded(n: Any, x: Tensor) -> Tensor:
    """As faces are told apart: an embedding with a bias and frozen statistics, made unit, against unit prototypes."""
    e = n.n(n.p(pooled(n, x)))
    e = e / n.still(e.square().sum(1, keepdim=True).sqrt())
    return 8 * e @ (n.h.weight / n.h.weight.norm(dim=1, keepdim=True)).T


def _group_by_hand(n: Any, x: Tensor) -> Tensor:
    p = pooled(n, x)
    g = p.reshape(len(p), 4, -1)
    g = g - g.mean(2, keepdim=True)
    return n.h((g / n.still((g.square().mean(2, keepdim=True) + 1e-5).sqrt())).reshape(p.shape))


def _features_by_hand(n: Any, x: Tensor) -> Tensor:
    f = n.a(x)
    f = (f - f.mean((1, 2, 3), keepdim=True)) / (f.var((1, 2, 3), keepdim=True) + 1e-5).sqrt()
    return n.h(gap(n.tap(f)))


def _cells_unit(n: Any, x: Tensor) -> Tensor:
    f = n.a(x)
    return n.h(gap(n.tap(f / (f.square().sum(1, keepdim=True) + 1e-6).sqrt())))


def _twice(n: Any, x: Tensor) -> Tensor:
    p = pooled(n, x)
    p = n.m(p / n.still(p.square().sum(1, keepdim=True).sqrt()))
    return n.h(p / n.still(p.abs().sum(1, keepdim=True)))


def _temperature(n: Any, x: Tensor) -> Tensor:
    p = pooled(n, x)
    return n.h(p) / n.still((p * p).sum(1, keepdim=True).sqrt())


def _layer_norm_then_cosine(n: Any, x: Tensor) -> Tensor:
    p = pooled(n, x)
    p = p - p.mean(-1, keepdim=True)
    p = p / n.still(p.std(-1, keepdim=True, unbiased=False) + 1e-6) * n.g + n.b
    return n.h(p)


def _min_max(n: Any, x: Tensor) -> Tensor:
    p = pooled(n, x)
    low = p.amin(1, keepdim=True)
    return n.h((p - low) / n.still(p.amax(1, keepdim=True) - low))


def _distances(n: Any, x: Tensor) -> Tensor:
    p = pooled(n, x)
    return -(p[:, None] - n.h.weight[None]).square().sum(2)


def _library_norm(which: str) -> Any:
    def function(n: Any, x: Tensor) -> Tensor:
        p = pooled(n, x)
        if n.marks is None:
            return n.h({"layer": lambda: F.layer_norm(p, (W,)), "group": lambda: F.group_norm(p, 1)}[which]())
        p = p - p.mean(1, keepdim=True)
        return n.h(p / n.still((p.square().mean(1, keepdim=True) + 1e-5).sqrt()))

    return function


add("A4", "cosine_head", cosine(), parts)
add("A4", "arcface_scale_30", cosine(30, "by_hand"), parts)
add("A4", "cosine_of_product", cosine(16, "of_similarity"), parts)
add("A4", "cosine_similarity_call", cosine(16, "cosine_similarity"), parts)
add("A4", "clip_like", _clip_like, lambda: {"a": conv(), "p": nn.Linear(W, 12, bias=False), "e": nn.Embedding(K, 12),
                                            "s": nn.Parameter(torch.tensor(2.0))})  # fmt: skip
add("A4", "embedding_with_bias_then_cosine", _embedded,
    lambda: {"a": conv(), "p": lin(W, 12), "n": trained_norm(12), "h": lin(12)}, TOLD)  # fmt: skip
add("A4", "group_norm_by_hand", _group_by_hand, parts)
add("A4", "layer_norm_call", _library_norm("layer"), parts)
add("A4", "group_norm_call", _library_norm("group"), parts)
add("A4", "features_normalized_before_pooling", _features_by_hand, parts)
add("A4", "cells_of_unit_length", _cells_unit, parts)
add("A4", "two_norms_in_a_row", _twice, lambda: {**parts(), "m": lin(W, W)}, TOLD)
add("A4", "temperature_by_norm", _temperature, lambda: {"a": conv(), "h": nn.Linear(W, K, bias=False)})
add("A4", "layer_norm_with_weights", _layer_norm_then_cosine,
    lambda: {**parts(), "g": nn.Parameter(1 + torch.rand(W)), "b": nn.Parameter(torch.randn(W))})  # fmt: skip
add("A4", "minimum_to_maximum", _min_max, parts)
add("A4", "distances_to_prototypes", _distances, parts, TOLD)
