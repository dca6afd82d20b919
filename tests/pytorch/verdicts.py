"""What an explanation is worth against the truth: exact, honest or refused; else SILENT, EMPTY, VAGUE or CRASH.

SILENT is wrong and does not say so; EMPTY is a map of zeros whose residual says that all is missing; CRASH is another
exception than the library's, or a message that blames the model where the model runs; VAGUE is a refusal that does not
name the one thing to do.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from tapped import Truth, truth_of
from torch import Tensor, nn
from torch.nn import functional as F

import camlucida as cl

torch.set_num_threads(1)

EXACT = 1e-4
"""A residual up to this says "exact"."""
FACTOR = 1.5
"""A larger residual must tell what is missing within this factor."""


@dataclass(frozen=True)
class Entry:
    """A network, how to ask about it, and which outcomes keep the promise.

    Attributes:
        name, kind: ``kind`` is the number in the issue, ``A1`` say.
        make: the network, made under a fixed seed.
        shape: of the first input.
        wanted: outcomes that are good enough; SILENT, EMPTY, VAGUE and CRASH never are.
        options: for ``Explainer``.
        twin: from the network, a ``Marked`` one that computes the same, where its own marks cannot be used.
        extra: further inputs of the forward pass.
        single: ask with one input at a time, and run the truth so.
        dtype: of inputs (the network's own is ``make``'s affair).
        tolerance: of a map's relative error, for networks that compute in less than float32.
        output: "logits"; "probability" where the network returns probabilities of its logits; "none" where there
            is nothing to explain.
        mention: what a refusal must speak of, any of these.
    """

    name: str
    kind: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (4, 3, 32, 32)
    wanted: frozenset[str] = frozenset({"exact"})
    options: dict[str, Any] = field(default_factory=dict)
    twin: Callable[[Any], nn.Module] | None = None
    extra: Callable[[int], tuple[Any, ...]] | None = None
    single: bool = False
    tolerance: float = 2e-3
    output: str = "logits"
    mention: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float32

    def network(self) -> nn.Module:
        """The same weights on every call."""
        torch.manual_seed(sum(map(ord, self.name)))
        return self.make().eval()

    def batch(self) -> Tensor:
        """The same input on every call: noise over a coarse pattern, so that regions differ."""
        generator = torch.Generator().manual_seed(7)
        noise = torch.randn(self.shape, generator=generator)
        coarse = torch.randn(*self.shape[:2], *[max(1, size // 8) for size in self.shape[2:]], generator=generator)
        mode = {3: "linear", 4: "bilinear", 5: "trilinear"}.get(len(self.shape))
        whole = noise if mode is None else noise + 2 * F.interpolate(coarse, self.shape[2:], mode=mode)
        return whole.to(self.dtype)


@dataclass(frozen=True)
class Verdict:
    """The outcome and why."""

    outcome: str
    why: str


def verdict(entry: Entry) -> Verdict:
    """Explain the entry's network and compare with the truth."""
    warnings.simplefilter("ignore")
    net, x = entry.network(), entry.batch()
    extra = entry.extra(len(x)) if entry.extra else ()
    try:
        with torch.no_grad():
            plain = [net(*one) for one in _calls(entry, x, extra)]
    except Exception as error:  # the entry itself is wrong
        raise AssertionError(f"{entry.name}: the network does not run: {error!r}") from error
    try:
        made = _explained(entry, net, x, extra, [1] if _width(plain[0], entry) == 1 else "all")
    except cl.CamlucidaError as error:
        return _refusal(entry, str(error))
    except Exception as error:
        return Verdict(
            "CRASH", f"{type(error).__name__}: {str(error).strip().splitlines()[0][:150] if str(error) else ''}"
        )
    if entry.output == "none":
        return Verdict("SILENT", f"explained, though there is nothing to explain; grid {made[0].grid}")
    return _compared(entry, net, x, extra, plain, made)


def _calls(entry: Entry, x: Tensor, extra: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    if not entry.single:
        return [(x, *extra)]
    return [(x[i : i + 1], *extra) for i in range(len(x))]


def _tensor(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        output = output[0]
    return output


def _width(output: Any, entry: Entry) -> int:
    count = 1 if entry.single else entry.batch().shape[0]
    return 1 if isinstance(output, Tensor) and output.numel() == count else 2


def _explained(entry: Entry, net: nn.Module, x: Tensor, extra: tuple[Any, ...], classes: Any) -> list[Any]:
    explainer = cl.Explainer(net, **entry.options)
    more: dict[str, Any] = {}
    if extra and "inputs" in inspect.signature(explainer.__call__).parameters:
        more = {"inputs": extra}
    return [explainer(call[0], classes, **more) for call in _calls(entry, x, extra)]


def _refusal(entry: Entry, message: str) -> Verdict:
    if "\n" in message.strip() or not message.strip():
        return Verdict("CRASH", f"a message of several lines: {message[:120]!r}")
    if message.startswith("the model failed on input"):
        return Verdict("CRASH", f"blames the model, which runs: {message[:170]}")
    if entry.mention and not any(word in message for word in entry.mention):
        return Verdict("VAGUE", f"speaks of none of {entry.mention}: {message[:150]}")
    return Verdict("refused", message[:170])


def _compared(
    entry: Entry, net: nn.Module, x: Tensor, extra: tuple[Any, ...], plain: list[Any], made: list[Any]
) -> Verdict:
    twin = net if entry.twin is None else entry.twin(net)
    truths = [truth_of(twin, call) for call in _calls(entry, x, extra)]
    truth = Truth(
        torch.cat([one.logits for one in truths]),
        tuple(torch.cat(parts) for parts in zip(*(one.maps for one in truths), strict=True)),
        torch.cat([one.bias for one in truths]),
    )
    got = {name: np.concatenate([getattr(one, name) for one in made]).astype(np.float64)
           for name in ("logits", "scores", "maps", "bias", "residual", "probabilities")}  # fmt: skip
    grid = got["maps"].shape[2:]
    said = _what_is_scored(entry, got, truth, plain)
    if said is not None:
        return said
    missing_numbers = not all(np.isfinite(got[name]).all() for name in ("bias", "residual"))
    if missing_numbers:
        return Verdict("SILENT", "bias or residual is NaN for a method that decomposes the logit")
    logits = got["logits"]
    spread = (logits.max(1) - logits.min(1) if logits.shape[1] > 1 else np.abs(logits[:, 0]))[:, None]
    total = got["maps"].sum(tuple(range(2, got["maps"].ndim)))
    stated = np.abs(total + got["bias"] - got["scores"]) / spread
    if not np.allclose(stated, got["residual"], rtol=2e-2, atol=2e-5):
        return Verdict("SILENT", "the residual is not |Σ map + bias - score| over the spread")
    of_probability = logits.shape == tuple(truth.logits.shape) and not np.allclose(
        logits, truth.logits.numpy(), rtol=1e-2, atol=1e-2 * spread.max()
    )
    if of_probability:  # an honest answer about other scores: only its own consistency can be tested
        drift = got["bias"].std(0).max() / spread.mean()
        return Verdict("honest" if drift <= EXACT else "SILENT", f"explains the output; bias drifts by {drift:.1e}")
    lacking = np.abs(total + truth.bias.numpy() - got["scores"]) / spread
    residual, real = _rms(got["residual"]), _rms(lacking)
    drift = float((got["bias"].std(0) / spread.mean()).max())
    exact_at = max(EXACT, entry.tolerance if entry.tolerance > 5e-3 else 0)
    told = (residual <= exact_at and real <= 2 * exact_at) or (real / FACTOR <= residual <= FACTOR * real)
    error, which = _placed(got["maps"], truth, entry.tolerance)
    numbers = (
        f"grid {'×'.join(map(str, grid))}, residual {residual:.1e}, missing {real:.1e}, bias drift {drift:.1e}, "
        f"map error {error:.1e} ({which})"
    )
    if residual <= exact_at:
        good = told and error <= entry.tolerance and drift <= max(EXACT, entry.tolerance / 10) and which == "all"
        return Verdict("exact" if good else "SILENT", numbers)
    # At another layer the head has another value at zero features: each bias is right that is the same for every input,
    # and then the residual, whose arithmetic was checked, is what is missing. One that follows the input
    # hides evidence.
    if drift > max(EXACT, entry.tolerance / 10 if entry.tolerance > 5e-3 else 0):
        return Verdict("SILENT", numbers)
    if not np.abs(got["maps"]).max() and truth.maps and max(float(one.abs().max()) for one in truth.maps):
        return Verdict("EMPTY", "a map of zeros; " + numbers)
    if error <= min(10 * entry.tolerance, 0.1):
        return Verdict("honest", numbers)
    likeness, elsewhere = _likeness(got["maps"], truth)
    if elsewhere > likeness + 0.1:
        return Verdict(
            "SILENT", f"{numbers}, more like the truth mirrored or moved ({elsewhere:.2f}, {likeness:.2f} in place)"
        )
    rank = locality(lambda z: _explained(entry, net, z, extra, "all"), x, grid)
    return Verdict("honest" if rank > 0.75 else "SILENT", f"{numbers}, another layer, cells in place {rank:.2f}")


def _likeness(maps: np.ndarray, truth: Truth) -> tuple[float, float]:
    """The correlation with the truth's cells, and the best with them mirrored, turned or moved; over what varies."""
    parts = [one for one in truth.maps if one.ndim == maps.ndim]
    if not parts:
        return 0.0, 0.0
    grid = maps.shape[2:]
    whole = sum(_pooled(fitted(one, tuple(map(max, one.shape[2:], grid)), "nearest"), grid) for one in parts)
    got, axes = torch.from_numpy(maps), range(2, maps.ndim)
    moved = [whole, *(whole.flip(axis) for axis in axes), whole.flip(tuple(axes)),
             *(whole.roll(whole.shape[axis] // 2, axis) for axis in axes)]  # fmt: skip
    if maps.ndim == 4 and grid[0] == grid[1]:
        moved += [whole.transpose(2, 3), whole.rot90(1, (2, 3)), whole.rot90(-1, (2, 3))]
    likes = [_correlation(got, one) for one in moved]
    return likes[0], max(likes[1:])


def _correlation(one: Tensor, other: Tensor) -> float:
    one, other = (m - m.flatten(2).mean(2).reshape(*m.shape[:2], *[1] * (m.ndim - 2)) for m in (one, other))
    return float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-30))


def _what_is_scored(entry: Entry, got: dict[str, Any], truth: Truth, plain: list[Any]) -> Verdict | None:
    """Whether the logits are the right ones and the probabilities those that the network gives."""
    want = truth.logits.numpy()
    close = got["logits"].shape == want.shape and np.allclose(
        got["logits"], want, rtol=entry.tolerance, atol=entry.tolerance * np.abs(want).max()
    )
    if entry.output == "log":  # log p are logits up to a constant of the input: either is right
        shift = got["logits"] - want
        same = np.abs(shift - shift.mean(1, keepdims=True)).max() < 1e-3
        return None if same else Verdict("SILENT", "logits differ by more than a constant")
    if entry.output == "logits":
        return (
            None
            if close
            else Verdict("SILENT", f"explains logits {got['logits'].shape}, not those {want.shape} that are meant")
        )
    outputs = np.concatenate([_tensor(one).detach().double().numpy().reshape(len(_tensor(one)), -1) for one in plain])
    outputs = outputs if outputs.shape[1] > 1 or want.shape[1] > 1 else outputs[:, :1]
    shown = got["probabilities"]
    if np.isnan(shown).all():
        return None
    if shown.shape != outputs.shape or np.abs(shown - outputs).max() > 5e-3:
        i = int(np.abs(shown - outputs).max(1).argmax()) if shown.shape == outputs.shape else 0
        return Verdict(
            "SILENT", f"probability {shown[i].max():.3f} shown, {outputs[i].max():.3f} computed by the network"
        )
    return None


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _placed(maps: np.ndarray, truth: Truth, tolerance: float) -> tuple[float, str]:
    """How far a map is from the truth: of all branches, or of some of them; the error is relative."""
    got = torch.from_numpy(maps)
    best, which = np.inf, "nothing"
    count = len(truth.maps)
    for size in range(count, 0, -1) if count < 5 else (count, count // 2, 1):
        for some in combinations(range(count), size):
            parts = [truth.maps[i] for i in some]
            for error in _errors(got, parts):
                if error < best:
                    best, which = error, "all" if size == count else f"branches {some} of {count}"
        if best <= tolerance:
            break
    return float(best), which


def _errors(got: Tensor, parts: Sequence[Tensor]) -> list[float]:
    if any(one.ndim != got.ndim for one in parts):
        return []
    grid = tuple(max(one.shape[axis] for one in parts) for axis in range(2, got.ndim))
    scale = max(float(sum(one.abs().sum() for one in parts)) / got.numel(), 1e-30)
    if tuple(got.shape[2:]) != grid:
        coarse = tuple(min(a, b) for a, b in zip(got.shape[2:], grid, strict=True))
        pooled = [_pooled(one, coarse) for one in (got, *(fitted(one, grid, "nearest") for one in parts))]
        return [
            float(
                (pooled[0] - sum(pooled[1:])).abs().mean() / max(float(sum(p.abs().mean() for p in pooled[1:])), 1e-30)
            )
        ]
    errors = []
    for mode in ("nearest", "smooth"):
        want = sum(fitted(one, grid, mode) for one in parts)
        errors.append(float((got - want).abs().mean()) / scale)
    return errors


def _pooled(one: Tensor, grid: tuple[int, ...]) -> Tensor:
    mean = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[len(grid)]
    cells = one.flatten(2).shape[2] / int(np.prod(grid))
    return mean(one.reshape(-1, 1, *one.shape[2:]), grid).reshape(*one.shape[:2], *grid) * cells


def fitted(one: Tensor, grid: tuple[int, ...], mode: str) -> Tensor:
    """A map brought to a finer grid, its sum kept."""
    if tuple(one.shape[2:]) == grid:
        return one
    mode = mode if mode == "nearest" else {1: "linear", 2: "bilinear", 3: "trilinear"}[len(grid)]
    finer = F.interpolate(one, grid, mode=mode)
    return finer / (int(np.prod(grid)) / one.flatten(2).shape[2])


def locality(explain: Callable[[Tensor], list[Any]], x: Tensor, grid: tuple[int, ...]) -> float:
    """How the cells where the input was changed rank among the cells where the map changes: 1 in place, 0.5 by chance.

    Knows nothing of the library: adds noise to the part of the input under one cell, and asks for the map again.
    """
    space = x.shape[-len(grid) :] if x.ndim - 2 >= len(grid) else x.shape[2:]
    if len(space) != len(grid):
        return 0.0
    generator = torch.Generator().manual_seed(1)
    places = torch.rand(6, len(grid), generator=generator) * 0.9 + 0.05
    inputs, cells = [x[:1]], []
    for place in places:
        cell = tuple(int(p * c) for p, c in zip(place.tolist(), grid, strict=True))
        window = tuple(
            slice(c * s // g, max((c + 1) * s // g, c * s // g + 1)) for c, s, g in zip(cell, space, grid, strict=True)
        )
        one = x[:1].clone()
        part = one[(Ellipsis, *window)]
        one[(Ellipsis, *window)] = part + 3 * torch.randn(part.shape, generator=generator).to(part)
        inputs.append(one)
        cells.append(cell)
    try:
        maps = [np.concatenate([m.maps for m in explain(one)]) for one in inputs]
    except cl.CamlucidaError:
        return 0.0
    ranks = []
    for one, cell in zip(maps[1:], cells, strict=True):
        if one.shape != maps[0].shape:
            return 0.0
        change = torch.from_numpy(np.square(one - maps[0]).sum(1)[0])
        pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(grid)]
        near = pool(change[None, None], 3, 1, 1)[0, 0]
        ranks.append(float((change < near[cell]).float().mean() + 0.5 * (change == near[cell]).float().mean()))
    return sum(ranks) / len(ranks)
