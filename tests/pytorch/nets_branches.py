"""Kinds A1 (evidence from several branches) and A2 (cells that do not lie where they seem to)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tapped import Net
from torch import Tensor, nn
from torch.nn import functional as F
from verdicts import Entry

ENTRIES: list[Entry] = []
K, W = 5, 16
BEST = frozenset({"exact"})
TOLD = frozenset({"exact", "honest"})
ANY = frozenset({"exact", "honest", "refused"})


def conv(width: int = W, stride: int = 4, channels: int = 3) -> nn.Module:
    """A backbone whose cells see little more than their own place."""
    return nn.Sequential(nn.Conv2d(channels, width, 3, stride, 1), nn.ReLU())


def lin(wide: int = W, out: int = K) -> nn.Linear:
    return nn.Linear(wide, out)


def add(kind: str, name: str, function: Callable[..., Any], parts: Callable[[], dict[str, Any]],
        wanted: frozenset[str] = BEST, **more: Any) -> None:  # fmt: skip
    ENTRIES.append(Entry(name, kind, lambda: Net(function, **parts()), wanted=wanted, **more))


def gap(x: Tensor) -> Tensor:
    return x.mean((2, 3))


# A1 ------------------------------------------------------------------------------------------------------------------
two = lambda: {"a": conv(), "b": conv(), "ha": lin(), "hb": lin()}  # noqa: E731


def _summed(n: Any, x: Tensor) -> Tensor:
    return n.ha(gap(n.tap(n.a(x)))) + 1e-4 * n.hb(gap(n.tap(n.b(x))))


def _concatenated(n: Any, x: Tensor) -> Tensor:
    return n.h(torch.cat((gap(n.tap(n.a(x))), gap(n.tap(n.b(x)))), 1))


def _pyramid(n: Any, x: Tensor) -> Tensor:
    fine = n.a(x)
    return n.h(torch.cat((gap(n.tap(fine)), gap(n.tap(n.b(fine)))), 1))


class Mixed(nn.Module):
    """Tokens of patches behind a class token, mixed by one attention."""

    def __init__(self, wide: int = W, patch: int = 4, cells: int = 64) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, wide, patch, patch)
        self.cls = nn.Parameter(torch.randn(1, 1, wide))
        self.position = nn.Parameter(0.3 * torch.randn(1, cells + 1, wide))
        self.attention = nn.MultiheadAttention(wide, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patch(x).flatten(2).transpose(1, 2)
        t = torch.cat((self.cls.expand(len(t), -1, -1), t), 1) + self.position
        return t + self.attention(t, t, t, need_weights=False)[0]


def on_square(maps: Tensor) -> Tensor:
    side = round(maps.shape[2] ** 0.5)
    return maps.reshape(*maps.shape[:2], side, side)


def _class_token_beside(n: Any, x: Tensor) -> Tensor:
    t = n.t(x)
    patches = n.tap(t[:, 1:], on_square, channels=2)
    return n.h(torch.cat((n.aside(t[:, 0]), patches.mean(1)), 1))


def _ensemble_grids(n: Any, x: Tensor) -> Tensor:
    return (n.ha(gap(n.tap(n.a(x)))) + n.hb(gap(n.tap(n.b(x))))) / 2


def _product(n: Any, x: Tensor) -> Tensor:
    return n.ha(gap(n.tap(n.a(x)))) * torch.sigmoid(n.hb(gap(n.tap(n.b(x)))))


def _early_side(n: Any, x: Tensor) -> Tensor:
    early = n.a(x)
    return n.h(torch.cat((gap(n.tap(n.b(early))), n.tap(early).mean((2, 3))), 1))


def _beside_statistics(n: Any, x: Tensor) -> Tensor:
    other = n.aside(torch.relu(n.m(torch.cat((x.std((2, 3)), x.amax((2, 3))), 1))))
    return n.h(torch.cat((gap(n.tap(n.a(x))), other), 1))


def _beside_spectrum(n: Any, x: Tensor) -> Tensor:
    other = n.aside(n.m(torch.fft.rfft2(x).abs()[:, :, :4, :4].flatten(1)))
    return n.h(gap(n.tap(n.a(x)))) + other * 0.05


def _constant_beside(n: Any, x: Tensor) -> Tensor:
    return n.h(torch.cat((gap(n.tap(n.a(x))), n.c.expand(len(x), -1)), 1))


def _auxiliary(n: Any, x: Tensor) -> Tensor:
    early = n.a(x)
    return n.h(gap(n.tap(n.b(early)))) + 0.3 * n.ha(gap(n.tap(early)))


def _fovea(n: Any, x: Tensor) -> Tensor:
    centre = n.tap(n.b(x[:, :, 8:24, 8:24]), lambda m: F.pad(m, (2, 2, 2, 2)))
    return n.ha(gap(n.tap(n.a(x)))) + n.hb(gap(centre))


def _weighted(n: Any, x: Tensor) -> Tensor:
    share = n.w.softmax(0)
    return share[0] * n.ha(gap(n.tap(n.a(x)))) + share[1] * n.hb(gap(n.tap(n.b(x))))


def _mean_and_max(n: Any, x: Tensor) -> Tensor:
    f = n.tap(n.a(x))
    return n.h(torch.cat((f.mean((2, 3)), f.amax((2, 3))), 1))


def _low_resolution(n: Any, x: Tensor) -> Tensor:
    small = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
    return n.h(torch.cat((gap(n.tap(n.a(x))), gap(n.tap(n.b(small)))), 1))


def _three(n: Any, x: Tensor) -> Tensor:
    return torch.stack([n.ha(gap(n.tap(n.a(x)))), n.hb(gap(n.tap(n.b(x)))), n.hc(gap(n.tap(n.c(x))))]).mean(0)


def _deep_supervision(n: Any, x: Tensor) -> Tensor:
    first = n.a(x)
    return n.ha(gap(n.tap(first))) + n.hb(gap(n.tap(n.b(first))))


def _gate_of_input(n: Any, x: Tensor) -> Tensor:
    gate = torch.sigmoid(n.g(n.aside(x.amax((2, 3)))))
    return n.ha(gap(n.tap(n.a(x)))) * gate


def _maxout(n: Any, x: Tensor) -> Tensor:
    return torch.maximum(n.ha(gap(n.tap(n.a(x)))), n.hb(gap(n.tap(n.b(x)))))


def _colours(n: Any, x: Tensor) -> Tensor:
    parts = [gap(n.tap(stem(x[:, i : i + 1]))) for i, stem in enumerate(n.stems)]
    return n.h(torch.cat(parts, 1))


mixed_strides = lambda: {"a": conv(), "b": conv(W, 2, W), "h": lin(2 * W)}  # noqa: E731
add("A1", "two_networks_summed", _summed, two)
add("A1", "two_backbones_concatenated", _concatenated, lambda: {"a": conv(), "b": conv(), "h": lin(2 * W)})
add("A1", "pyramid_levels_concatenated", _pyramid, mixed_strides)
add("A1", "class_token_beside_pooled", _class_token_beside, lambda: {"t": Mixed(), "h": lin(2 * W)},
    frozenset({"honest"}))  # fmt: skip
add("A1", "ensemble_of_unequal_grids", _ensemble_grids, lambda: {**two(), "b": conv(W, 8)})
add("A1", "product_gated_ensemble", _product, two, ANY)
add("A1", "early_layer_beside_last", _early_side, lambda: {"a": conv(W, 2), "b": conv(W, 2, W), "h": lin(2 * W)})
add("A1", "image_statistics_beside", _beside_statistics, lambda: {"a": conv(), "m": lin(6, 8), "h": lin(W + 8)}, TOLD)
add("A1", "spectrum_beside", _beside_spectrum, lambda: {"a": conv(), "m": lin(48), "h": lin()}, TOLD)
add("A1", "constant_beside", _constant_beside,
    lambda: {"a": conv(), "c": nn.Parameter(torch.randn(1, 4)), "h": lin(W + 4)})  # fmt: skip
add("A1", "auxiliary_head_added", _auxiliary, lambda: {"a": conv(), "b": conv(W, 2, W), "h": lin(), "ha": lin()})
add("A1", "fovea_beside_whole", _fovea, two, ANY)
add("A1", "learned_logit_weights", _weighted, lambda: {**two(), "w": nn.Parameter(torch.randn(2))})
add("A1", "mean_and_max_of_one", _mean_and_max, lambda: {"a": conv(), "h": lin(2 * W)})
add("A1", "low_resolution_beside", _low_resolution, lambda: {"a": conv(), "b": conv(W, 2), "h": lin(2 * W)})
add("A1", "three_networks_averaged", _three, lambda: {**two(), "c": conv(8, 8), "hc": lin(8)})
add("A1", "two_depths_of_one_grid", _deep_supervision, lambda: {**two(), "b": conv(W, 1, W)})
add("A1", "gate_of_the_input", _gate_of_input, lambda: {"a": conv(), "ha": lin(), "g": lin(3)}, ANY)
add("A1", "maximum_of_two_networks", _maxout, two, ANY)
add("A1", "a_stem_a_colour", _colours,
    lambda: {"stems": nn.ModuleList(conv(8, 4, 1) for _ in range(3)), "h": lin(24)})  # fmt: skip


# A2 ------------------------------------------------------------------------------------------------------------------
one = lambda: {"a": conv(), "h": lin()}  # noqa: E731
mirror: Callable[[Tensor], Tensor] = lambda m: m.flip(3)  # noqa: E731


def seen(n: Any, x: Tensor, place: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    logits: Tensor = n.h(gap(n.tap(n.a(x), place)))
    return logits


def _crops(n: Any, x: Tensor) -> Tensor:
    def at(top: int, left: int) -> Callable[[Tensor], Tensor]:
        return lambda m: F.pad(m, (left, 4 - left, top, 4 - top))

    parts = [x[:, :, 4 * i : 4 * i + 16, 4 * j : 4 * j + 16] for i, j in ((0, 0), (0, 4), (4, 0), (4, 4))]
    return sum(seen(n, p, at(i, j)) for p, (i, j) in zip(parts, ((0, 0), (0, 4), (4, 0), (4, 4)), strict=True)) / 4


def _batched_flips(n: Any, x: Tensor) -> Tensor:
    both = n.tap(n.a(torch.cat((x, x.flip(3)))), lambda m: m[: len(x)] + m[len(x) :].flip(3))
    return torch.stack(n.h(gap(both)).chunk(2)).mean(0)


def _flipped_features(n: Any, x: Tensor) -> Tensor:
    return n.h(gap(n.tap(n.b(n.a(x).flip(3)), mirror)))


def _unshuffled(n: Any, x: Tensor) -> Tensor:
    return seen(n, F.pixel_unshuffle(x, 2))


def _space_to_depth(n: Any, x: Tensor) -> Tensor:
    f = n.a(x)
    b, c, h, w = f.shape
    f = f.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)
    return n.h(gap(n.tap(f)))


def _shuffled_tokens(n: Any, x: Tensor) -> Tensor:
    t = n.a(x).flatten(2).transpose(1, 2)[:, n.order]
    t = n.tap(torch.relu(n.m(t)), lambda m: on_square(m[:, :, n.order.argsort()]), channels=2)
    return n.h(t.mean(1))


def _swapped_quarters(n: Any, x: Tensor) -> Tensor:
    return seen(n, x.roll((16, 16), (2, 3)), lambda m: m.roll((4, 4), (2, 3)))


def _by_affine_grid(n: Any, x: Tensor) -> Tensor:
    theta = x.new_tensor([[-1.0, 0, 0], [0, 1, 0]]).expand(len(x), -1, -1)
    return seen(
        n, F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False), mirror
    )


def _turns(n: Any, x: Tensor) -> Tensor:
    return sum(seen(n, x.rot90(k, (2, 3)), lambda m, k=k: m.rot90(-k, (2, 3))) for k in range(4)) / 4


def _polar(n: Any, x: Tensor) -> Tensor:
    """Columns read in steps of two: first the even, then the odd ones."""
    order = torch.cat((torch.arange(0, 8, 2), torch.arange(1, 8, 2)))
    return n.h(gap(n.tap(n.b(n.a(x)[:, :, :, order]), lambda m: m[:, :, :, order.argsort()])))


add("A2", "flip_averaged_inside", lambda n, x: (seen(n, x) + seen(n, x.flip(3), mirror)) / 2, one)
add("A2", "input_flipped", lambda n, x: seen(n, x.flip(3), mirror), one, ANY)
add("A2", "input_transposed", lambda n, x: seen(n, x.transpose(2, 3), lambda m: m.transpose(2, 3)), one, ANY)
add("A2", "vertical_flip_averaged", lambda n, x: (seen(n, x) + seen(n, x.flip(2), lambda m: m.flip(2))) / 2, one)
add("A2", "transpose_averaged",
    lambda n, x: (seen(n, x) + seen(n, x.mT, lambda m: m.transpose(2, 3))) / 2, one)  # fmt: skip
add("A2", "input_turned", lambda n, x: seen(n, x.rot90(1, (2, 3)), lambda m: m.rot90(-1, (2, 3))), one, ANY)
add("A2", "four_turns_averaged", _turns, one)
add("A2", "input_upside_down", lambda n, x: seen(n, x.flip((2, 3)), lambda m: m.flip((2, 3))), one, ANY)
add("A2", "input_rolled", lambda n, x: seen(n, x.roll(12, 3), lambda m: m.roll(-3, 3)), one, ANY)
add("A2", "quarters_swapped", _swapped_quarters, one, ANY)
add("A2", "four_crops_averaged", _crops, one, ANY)
add("A2", "flips_in_the_batch", _batched_flips, one, frozenset({"exact", "refused"}))
add("A2", "features_flipped", _flipped_features, lambda: {**one(), "b": conv(W, 1, W)}, ANY)
add("A2", "features_flipped_last", lambda n, x: n.h(gap(n.tap(n.a(x)).flip(3))), one)
add("A2", "pixel_unshuffled", _unshuffled, lambda: {"a": conv(W, 2, 12), "h": lin()})
add("A2", "space_to_depth_features", _space_to_depth, lambda: {"a": conv(8, 2), "h": lin(32)})
add("A2", "tokens_shuffled", _shuffled_tokens,
    lambda: {**one(), "m": lin(W, W), "order": torch.randperm(64)}, ANY)  # fmt: skip
add("A2", "mirrored_by_a_sampling_grid", _by_affine_grid, one, ANY)
add("A2", "mirrored_by_index", lambda n, x: seen(n, x[..., torch.arange(31, -1, -1)], mirror), one, ANY)
add("A2", "transposed_by_einsum",
    lambda n, x: seen(n, torch.einsum("bchw->bcwh", x), lambda m: m.transpose(2, 3)), one, ANY)  # fmt: skip
add("A2", "columns_in_two_passes", _polar, lambda: {**one(), "b": conv(W, 1, W)}, ANY)
