"""Kinds C7 (grids of other proportions than the input's), C8 (poolings like tokens), C9 (frames and columns)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from nets_branches import ANY, BEST, TOLD, W, conv, gap, lin, on_square
from tapped import Net
from torch import Tensor, nn
from torch.nn import functional as F
from verdicts import Entry

ENTRIES: list[Entry] = []


def add(kind: str, name: str, function: Any, parts: Any, shape: tuple[int, ...], wanted: frozenset[str] = BEST,
        named: str | None = None, **more: Any) -> None:  # fmt: skip
    """With ``named``, the layer, asked for twice: found, and by its name."""
    ENTRIES.append(Entry(name, kind, lambda: Net(function, **parts()), shape, wanted, **more))
    if named is not None:
        ENTRIES.append(Entry(f"{name}__layer", kind, lambda: Net(function, **parts()), shape, wanted - {"refused"},
                             {"layer": named}, **more))  # fmt: skip


# C7 ------------------------------------------------------------------------------------------------------------------
def plain(n: Any, x: Tensor) -> Tensor:
    f = n.tap(n.a(x))
    logits: Tensor = n.h(f.flatten(2).mean(2))
    return logits


def body(*layer: Any, space: int = 2) -> Callable[[], dict[str, Any]]:
    make = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[space]
    return lambda: {"a": nn.Sequential(make(*layer), nn.ReLU()), "h": lin(layer[1])}


def _resized(n: Any, x: Tensor) -> Tensor:
    return plain(n, F.interpolate(x, (32, 32), mode="bilinear", align_corners=False))


def _letterboxed(n: Any, x: Tensor) -> Tensor:
    f = n.a(F.pad(x, (0, 0, 8, 8)))
    return n.h(gap(n.tap(f)))


def _letterbox_place(n: Any, x: Tensor) -> Tensor:
    """Cells of the border lie outside the input, where no map can show them: only the whole is compared."""
    return _letterboxed(n, x)


def _flattened(n: Any, x: Tensor) -> Tensor:
    return n.h(F.adaptive_avg_pool2d(n.tap(n.a(x)), 4).flatten(1))


def _oblong_tokens(n: Any, x: Tensor) -> Tensor:
    t = n.a(x).flatten(2).transpose(1, 2)
    t = n.tap(torch.relu(n.m(t)), lambda m: m.reshape(*m.shape[:2], 4, 16), channels=2)
    return n.h(t.mean(1))


def _eeg(n: Any, x: Tensor) -> Tensor:
    """A temporal filter, then one over all electrodes: a grid of one row."""
    return n.h(gap(n.tap(n.a(n.t(x)))))


def _last_channels(n: Any, x: Tensor) -> Tensor:
    f = n.a(x).permute(0, 2, 3, 1)
    return n.h(n.tap(torch.relu(n.m(f)), channels=3).mean((1, 2)))


add("C7", "stride_8_by_2", plain, body(3, W, 8, (8, 2), 3), (4, 3, 64, 64), named="a")
add("C7", "stride_1_by_8", plain, body(3, W, 9, (1, 8), 4), (4, 3, 32, 64), named="a")
add("C7", "eeg_22_by_256", plain, body(1, W, (1, 9), (1, 4), (0, 4)), (4, 1, 22, 256), named="a")
add("C7", "eeg_over_all_electrodes", _eeg,
    lambda: {"t": nn.Conv2d(1, 4, (1, 9), (1, 8), (0, 4)), **body(4, W, (22, 1))()},
    (4, 1, 22, 256), named="a")  # fmt: skip
add("C7", "spectrogram", plain, body(1, W, (5, 9), (2, 8), (2, 4)), (4, 1, 40, 200), named="a")
add("C7", "spectrogram_of_columns", plain, body(1, W, (40, 5), (1, 4), (0, 2)), (4, 1, 40, 200), named="a")
add("C7", "video_8_by_4_by_4", plain, body(3, W, 3, (8, 4, 4), 1, space=3), (3, 3, 32, 16, 16), named="a")
add("C7", "video_every_frame_kept", plain, body(3, W, 3, (1, 4, 4), 1, space=3), (3, 3, 8, 16, 16), named="a")
add("C7", "ct_of_thin_slices", plain, body(1, W, 3, (1, 4, 4), 1, space=3), (3, 1, 12, 32, 32), named="a")
add("C7", "resized_to_a_square", _resized, body(3, W, 3, 4, 1), (4, 3, 48, 64), named="a")
add("C7", "resized_to_a_square_tokens", lambda n, x: _oblong_tokens(n, F.interpolate(x, (32, 32))),
    lambda: {"a": nn.Conv2d(3, W, (8, 2), (8, 2)), "m": lin(W, W), "h": lin()}, (4, 3, 24, 48))  # fmt: skip
add("C7", "overlapping_patches", plain, body(3, W, 8, 4), (4, 3, 40, 40), named="a")
add("C7", "overlapping_patches_oblong", plain, body(3, W, 16, (5, 10)), (4, 3, 48, 96), named="a")
add("C7", "text_line_3_by_32", plain, body(3, W, 3, (16, 4), 1), (4, 3, 48, 128), named="a")
add("C7", "square_input_oblong_tokens", _oblong_tokens,
    lambda: {"a": nn.Conv2d(3, W, (8, 2), (8, 2)), "m": lin(W, W), "h": lin()}, (4, 3, 32, 32), named="m")  # fmt: skip
add("C7", "channels_last_oblong", _last_channels, lambda: {**body(3, W, 8, (8, 2), 3)(), "m": lin(W, W)},
    (4, 3, 64, 64), named="m")  # fmt: skip
add("C7", "signal_stride_8", plain, body(2, W, 9, 8, 4, space=1), (4, 2, 256), named="a")
add("C7", "two_by_one", plain, body(3, W, (32, 64), (32, 64)), (4, 3, 64, 64), named="a")
add(
    "C7", "flattened_after_pooling_to_4", _flattened, lambda: {"a": conv(), "h": lin(16 * W)}, (4, 3, 32, 32), named="a"
)
add("C7", "flattened_after_pooling_oblong", _flattened, lambda: {"a": conv(), "h": lin(16 * W)}, (4, 3, 32, 64))
add("C7", "padded_to_a_square", _letterbox_place, body(3, W, 3, 4, 1), (4, 3, 16, 32), ANY)


# C8 ------------------------------------------------------------------------------------------------------------------
def _columns(n: Any, x: Tensor) -> Tensor:
    """What an OCR network makes: height pooled away, (B, columns, channels), then a mean over columns."""
    columns = n.tap(n.a(x)).mean(2).transpose(1, 2)
    return n.h(torch.relu(n.m(columns)).mean(1)) if hasattr(n, "m") else n.h(columns.mean(1))


def _top(n: Any, x: Tensor) -> Tensor:
    return n.h(n.tap(n.a(x)).flatten(2).topk(5, 2).values.mean(2))


def _bilinear(n: Any, x: Tensor) -> Tensor:
    f = n.tap(n.a(x)).flatten(2)
    return n.h((f @ f.mT / f.shape[2]).flatten(1))


def _vlad(n: Any, x: Tensor) -> Tensor:
    f = n.tap(n.a(x)).flatten(2)
    share = (n.c @ f).softmax(1)
    rest = (share[:, :, None] * (f[:, None] - n.c[None, :, :, None])).sum(3)
    return n.h(F.normalize(rest, dim=2).flatten(1))


def _stripes(n: Any, x: Tensor) -> Tensor:
    f = F.adaptive_max_pool2d(n.tap(n.a(x)), (4, 1)).squeeze(3)
    return sum(head(f[:, :, i]) for i, head in enumerate(n.heads))


def _mean_stripes(n: Any, x: Tensor) -> Tensor:
    f = n.tap(n.a(x))
    return torch.stack([head(part.mean((2, 3))) for head, part in zip(n.heads, f.chunk(4, 2), strict=True)]).mean(0)


def _attended(n: Any, x: Tensor) -> Tensor:
    f = n.a(x).flatten(2)
    return n.h(n.tap(f * (n.q @ f).softmax(-1)[:, None], on_square).sum(2))


def _gated(n: Any, x: Tensor) -> Tensor:
    """Instances of a bag: attention with a gate (Ilse et al.)."""
    t = n.a(x).flatten(2).transpose(1, 2)
    share = n.w(torch.tanh(n.v(t)) * torch.sigmoid(n.u(t))).softmax(1)
    return n.h(n.tap(share * t, on_square, channels=2).sum(1))


def _soft_argmax(n: Any, x: Tensor) -> Tensor:
    f = n.tap(n.a(x))
    share = f.flatten(2).softmax(2).reshape(f.shape)
    rows, columns = torch.linspace(-1, 1, f.shape[2]).to(f), torch.linspace(-1, 1, f.shape[3]).to(f)
    return n.h(torch.cat(((share.sum(3) * rows).sum(2), (share.sum(2) * columns).sum(2)), 1))


def _spatial_pyramid(n: Any, x: Tensor) -> Tensor:
    f = n.tap(n.a(x))
    return n.h(torch.cat([F.adaptive_avg_pool2d(f, size).flatten(1) for size in (1, 2, 4)], 1))


def _log_sum_exp(n: Any, x: Tensor) -> Tensor:
    f = n.tap(n.a(x)).flatten(2)
    return n.h((4 * f).logsumexp(2) / 4)


def _gem(n: Any, x: Tensor) -> Tensor:
    return n.h(n.tap(n.a(x)).clamp_min(1e-6).pow(3).mean((2, 3)).pow(1 / 3))


def _wildcat(n: Any, x: Tensor) -> Tensor:
    f = n.tap(n.a(x)).flatten(2)
    scores = torch.einsum("kc,bcl->bkl", n.h.weight, f)
    return scores.topk(6, 2).values.mean(2) + 0.6 * (-scores).topk(6, 2).values.mean(2).neg()


def _few_channels(n: Any, x: Tensor) -> Tensor:
    return n.h(gap(n.tap(n.a(x)))[:, :4])


def _correlations(n: Any, x: Tensor) -> Tensor:
    """Gram matrix (B, C, C), read by its rows' means: no tokens."""
    f = n.tap(n.a(x)).flatten(2)
    return n.h((f @ f.mT / f.shape[2]).mean(2))


def _row_by_row(n: Any, x: Tensor) -> Tensor:
    rows = n.tap(n.a(x)).mean(3).transpose(1, 2)
    return n.h(n.rnn(rows)[0][:, -1])


def _capsules(n: Any, x: Tensor) -> Tensor:
    p = gap(n.tap(n.a(x))).reshape(len(x), 4, 4)
    return n.h(torch.einsum("bij,ijo->bo", p, n.w))


def _pooled_twice(n: Any, x: Tensor) -> Tensor:
    return n.h(n.tap(n.a(x)).mean(2).mean(2))


def _heads_reshaped(n: Any, x: Tensor) -> Tensor:
    """Multi-head pooled vector (B, 4, 4), each a bit of the whole."""
    return n.h(torch.relu(gap(n.tap(n.a(x))).view(len(x), 4, 4) * n.w).flatten(1))


simple = lambda: {"a": conv(), "h": lin()}  # noqa: E731
add("C8", "ocr_columns", _columns, lambda: {**body(1, 64, 3, 4, 1)(), "m": lin(64, 64)}, (4, 1, 32, 32), TOLD)
add("C8", "ocr_columns_linear", _columns, body(1, 64, 3, 4, 1), (4, 1, 32, 32))
add("C8", "ocr_columns_oblong", _columns, lambda: {**body(1, 64, 3, 4, 1)(), "m": lin(64, 64)}, (4, 1, 16, 64), TOLD)
add("C8", "mean_2_mean_2", _pooled_twice, simple, (4, 3, 64, 96))
add("C8", "mean_2_mean_2_square", _pooled_twice, simple, (4, 3, 32, 32))
add("C8", "top_5", _top, simple, (4, 3, 32, 32))
add("C8", "top_5_oblong", _top, simple, (4, 3, 32, 48))
add("C8", "bilinear", _bilinear, lambda: {"a": conv(), "h": lin(W * W)}, (4, 3, 32, 32), TOLD)
add("C8", "correlation_rows", _correlations, simple, (4, 3, 32, 32), TOLD)
add("C8", "net_vlad", _vlad, lambda: {"a": conv(), "c": nn.Parameter(torch.randn(4, W)), "h": lin(4 * W)},
    (4, 3, 32, 32), ANY)  # fmt: skip
add("C8", "part_stripes_max", _stripes, lambda: {"a": conv(), "heads": nn.ModuleList(lin() for _ in range(4))},
    (4, 3, 32, 32))  # fmt: skip
add("C8", "part_stripes_mean", _mean_stripes, lambda: {"a": conv(), "heads": nn.ModuleList(lin() for _ in range(4))},
    (4, 3, 64, 32))  # fmt: skip
add("C8", "attention_pooling", _attended, lambda: {**simple(), "q": nn.Parameter(torch.randn(W))}, (4, 3, 32, 32), TOLD)
add("C8", "gated_attention", _gated, lambda: {**simple(), "v": lin(W, 8), "u": lin(W, 8), "w": lin(8, 1)},
    (4, 3, 32, 32), TOLD)  # fmt: skip
add("C8", "soft_argmax", _soft_argmax, lambda: {"a": conv(), "h": lin(2 * W)}, (4, 3, 32, 32), ANY)
add("C8", "spatial_pyramid", _spatial_pyramid, lambda: {"a": conv(), "h": lin(21 * W)}, (4, 3, 32, 32))
add("C8", "log_sum_exp", _log_sum_exp, simple, (4, 3, 32, 32), TOLD)
add("C8", "generalized_mean", _gem, simple, (4, 3, 32, 32), TOLD)
add("C8", "highest_and_lowest", _wildcat, simple, (4, 3, 32, 32))
add("C8", "few_channels_read", _few_channels, lambda: {"a": conv(), "h": lin(4)}, (4, 3, 32, 32))
add("C8", "few_channels_read_oblong", _few_channels, lambda: {"a": conv(), "h": lin(4)}, (4, 3, 64, 48))
add("C8", "rows_by_gru", _row_by_row, lambda: {**simple(), "rnn": nn.GRU(W, W, batch_first=True)}, (4, 3, 32, 32), ANY)
add("C8", "capsules", _capsules, lambda: {"a": conv(), "w": nn.Parameter(torch.randn(4, 4, 8)), "h": lin(8)},
    (4, 3, 32, 32))  # fmt: skip
add("C8", "pooled_vector_in_heads", _heads_reshaped, lambda: {**simple(), "w": nn.Parameter(torch.rand(4, 4))},
    (4, 3, 32, 32), TOLD)  # fmt: skip


# C9 ------------------------------------------------------------------------------------------------------------------
def in_time(maps: Tensor, frames: int) -> Tensor:
    """(B·T, K, h, w) to (B, K, T, h, w)."""
    return maps.unflatten(0, (-1, frames)).movedim(1, 2)


class Frames(Net):
    """A network a frame: (B, T, C, H, W), frames in the batch, then ``over`` the vectors (B, T, C)."""

    def __init__(self, over: Any, **parts: Any) -> None:
        super().__init__(self._pass, **{"a": conv(), "h": lin(), **parts})
        self.over = over

    def _pass(self, n: Any, x: Tensor) -> Tensor:
        b, t = x.shape[:2]
        f = self.a(x.flatten(0, 1))
        f = f.unflatten(0, (b, t))
        p = self.tap(f, channels=2).mean((3, 4))
        return self.over(self, p)

    def forward(self, *inputs: Any, **more: Any) -> Any:
        return self._pass(self, *inputs)


def frames(name: str, over: Any, parts: Callable[[], dict[str, Any]] = dict, wanted: frozenset[str] = BEST,
           shape: tuple[int, ...] = (3, 6, 3, 16, 16)) -> None:  # fmt: skip
    for layer, options in (("", {}), ("__layer", {"layer": "a"})):
        ENTRIES.append(Entry(name + layer, "C9", lambda: Frames(over, **parts()), shape, wanted, options))


frames("frames_mean", lambda n, p: n.h(p.mean(1)))
frames("frames_max", lambda n, p: n.h(p.amax(1)))
frames("frames_logits_averaged", lambda n, p: n.h(p.flatten(0, 1)).unflatten(0, p.shape[:2]).mean(1))
frames("frames_lstm", lambda n, p: n.h(n.r(p)[0][:, -1]), lambda: {"r": nn.LSTM(W, W, batch_first=True)}, ANY)
frames("frames_gru_mean", lambda n, p: n.h(n.r(p)[0].mean(1)), lambda: {"r": nn.GRU(W, W, batch_first=True)}, ANY)
frames("frames_attention", lambda n, p: n.h((n.q(p).softmax(1) * p).sum(1)), lambda: {"q": lin(W, 1)}, TOLD)
frames(
    "frames_temporal_filter", lambda n, p: n.h(torch.relu(n.c(p.mT)).mean(2)), lambda: {"c": nn.Conv1d(W, W, 3)}, ANY
)
frames("frames_as_many_as_rows", lambda n, p: n.h(p.mean(1)), shape=(3, 4, 3, 16, 16))
frames("frames_oblong", lambda n, p: n.h(p.mean(1)), shape=(2, 5, 3, 16, 24))
frames("one_frame", lambda n, p: n.h(p.mean(1)), shape=(3, 1, 3, 16, 16))


def _stacked(n: Any, x: Tensor) -> Tensor:
    return n.h(gap(n.tap(n.a(x.flatten(1, 2)), lambda m: m[:, :, None])))


def _crnn(n: Any, x: Tensor) -> Tensor:
    columns = n.tap(n.a(x)).squeeze(2).permute(2, 0, 1)
    return n.h(n.r(columns)[0].mean(0))


def _crnn_pooled(n: Any, x: Tensor) -> Tensor:
    return n.h(n.r(n.tap(n.a(x)).mean(2).transpose(1, 2))[0][:, -1])


def _segments(n: Any, x: Tensor) -> Tensor:
    """Frames stacked as channels of the input, taken apart inside (TSN): (B, T·C, H, W)."""
    f = n.a(x.view(-1, 3, *x.shape[2:]))
    f = n.tap(f.view(len(x), -1, *f.shape[1:]), lambda m: m.sum(2), channels=2)
    return n.h(f.mean((1, 3, 4)))


rnn = lambda: {"a": nn.Sequential(nn.Conv2d(1, W, (16, 5), (1, 4), (0, 2)), nn.ReLU()), "h": lin(),  # noqa: E731
               "r": nn.GRU(W, W)}  # fmt: skip
add("C9", "columns_by_gru", _crnn, rnn, (4, 1, 16, 64), ANY, named="a")
add("C9", "columns_by_gru_pooled", _crnn_pooled,
    lambda: {**body(1, W, 3, 4, 1)(), "r": nn.GRU(W, W, batch_first=True)}, (4, 1, 16, 64), ANY, named="a")  # fmt: skip
add("C9", "frames_taken_apart_inside", _segments, simple, (3, 12, 16, 16), ANY)
ENTRIES.append(Entry("frames_stacked_as_channels", "C9",
                     lambda: Net(_stacked, a=conv(W, 4, 12), h=lin()), (3, 4, 3, 16, 16), ANY))  # fmt: skip
