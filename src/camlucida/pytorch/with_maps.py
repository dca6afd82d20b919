"""Class activation maps as an ``nn.Module``: images -> (logits, maps of every class), for compile and export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from camlucida.errors import ModelError
from camlucida.pytorch.engine import TorchEngine
from camlucida.pytorch.grid import Layout
from camlucida.pytorch.head import DESCRIPTIONS
from camlucida.pytorch.outputs import as_rows
from camlucida.pytorch.tape import CallCounter, Place, tensors_in
from camlucida.pytorch.torch_pass import TorchPass
from camlucida.targets import Expected, OutputName


@dataclass(frozen=True)
class Statistic:
    """The scale of a normalization behind the pooling: pooled features (B, C) to a factor (B, 1)."""

    norm: str
    eps: float

    def __call__(self, pooled: Tensor) -> Tensor:
        """1 / the standard deviation, root mean square or length, as the norm has it."""
        if self.norm == "normalize":
            length: Tensor = torch.linalg.vector_norm(pooled, dim=1, keepdim=True)
            return 1 / length.clamp_min(self.eps)
        centred = pooled if self.norm == "rms_norm" else pooled - pooled.mean(1, keepdim=True)
        square: Tensor = centred.square().mean(1, keepdim=True)
        scale: Tensor = (square + self.eps).rsqrt()
        return scale


class WithMaps(nn.Module):
    """A classifier that returns its class activation maps beside its logits, in one pass. Made by ``with_maps``.

    Attributes:
        net: the classifier, shared, not copied.
        weight: (K, C), what multiplies the features; the classifier's own parameter where it is one, so that it trains.
        bias: (K,), in logits: ``maps.sum((2, 3)) + bias == logits``.
    """

    def __init__(self, net: nn.Module, features: Place, logits: Place, layout: Layout, weight: Tensor, bias: Tensor,
                 mean: bool, statistic: Statistic | None) -> None:  # fmt: skip
        super().__init__()
        self.net = net
        self.weight, self.bias = weight, bias
        self._places, self._layout, self._mean, self._statistic = (features, logits), layout, mean, statistic

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, *space) to logits (B, K) and maps (B, K, *grid), logits per cell."""
        with _KeptTensors(self._places) as kept:
            self.net(images)
        features, logits = kept.tensors
        if features is None or logits is None:
            raise ModelError(
                "the model took another way than the one with_maps saw; call with_maps again for this input"
            )
        cells = self._layout.on_grid(features).flatten(2)
        divisor = cells.shape[2] if self._mean else 1
        maps = torch.matmul(self.weight.flatten(1).to(cells.dtype), cells) / divisor
        if self._statistic is not None:
            maps = maps * self._statistic(cells.sum(2) / divisor)[:, :, None]
        return as_rows(logits), maps.reshape(*maps.shape[:2], *self._layout.grid_of(features))


class _KeptTensors(TorchFunctionMode):
    """Keeps the tensors made at given places of a pass."""

    def __init__(self, places: tuple[Place, ...]) -> None:
        super().__init__()
        self.places = places
        self.tensors: list[Tensor | None] = [None] * len(places)
        self._calls = CallCounter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        nth = self._calls.count(func)
        result = func(*args, **(kwargs or {}))
        for i, place in enumerate(self.places):
            if func is place.func and nth == place.nth:
                self.tensors[i] = list(tensors_in(result))[place.output]
        return result


def with_maps(
    net: nn.Module,
    example: Tensor | None = None,
    *,
    layer: str | nn.Module | None = None,
    output: OutputName = None,
) -> WithMaps:
    """A module whose forward returns ``(logits, maps)``: exact class activation maps of every class, in one pass.

    Args:
        net: a classifier whose head is affine after pooling, or affine but for a normalization there. It is shared with
            the result, which changes nothing in it; call ``eval()`` before export.
        example: an input (B, C, *space) of the size to come; None takes the network's own ``pretrained_cfg``, or 224.
        layer: the features' layer, by name or module; None finds the last spatial features.
        output: which of the tensors that it returns are its logits, as ``explain`` takes it.

    Returns:
        A module: images (B, C, *space) -> logits (B, K), maps (B, K, *grid) in logits per cell. Its ``bias`` (K,) makes
        ``maps.sum((2, 3)) + bias == logits``. Where the classifier's weights are plain parameters they are used
        themselves, so they may train on.

    Raises:
        ModelError: the head is not affine; the message says what it is. Use ``explain``, which shows the residual.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
        >>> logits, maps = with_maps(net, torch.randn(2, 3, 32, 32))(torch.randn(4, 3, 32, 32))
        >>> logits.shape, maps.shape
        (torch.Size([4, 5]), torch.Size([4, 5, 16, 16]))
    """
    engine = TorchEngine(net, layer, Expected(output))
    batch = torch.randn(2, *_input_size(net)) if example is None else example
    forward_pass = engine.run(batch)
    split = forward_pass.split
    if split.pooling is None or split.kind not in ("affine", "normalized"):
        raise ModelError(f"with_maps needs an affine head; this one is {DESCRIPTIONS[split.kind]}; use explain instead")
    pooled, head = forward_pass.pooled_head()
    weight, bias = _affine_of(head, pooled)
    statistic = _statistic_of(forward_pass, pooled, weight) if split.kind == "normalized" else None
    if statistic is not None:
        weight = weight / statistic(pooled)[:, :, None]
    _check_same(weight)
    return WithMaps(
        engine.model, split.place, split.logits, split.layout, _own_parameter(engine.model, weight[0]),
        _own_parameter(engine.model, bias), split.pooling.divisor != 1, statistic,
    )  # fmt: skip


def _input_size(net: nn.Module) -> tuple[int, ...]:
    config = getattr(net, "pretrained_cfg", None)
    return tuple(config["input_size"]) if isinstance(config, dict) and config.get("input_size") else (3, 224, 224)


@torch.no_grad()
def _affine_of(head: Callable[[Tensor], Tensor], pooled: Tensor) -> tuple[Tensor, Tensor]:
    """The head's matrix at each picture's statistics, (B, K, C), and its value at zero, (K,)."""
    bias = head(torch.zeros_like(pooled))
    units = torch.eye(pooled.shape[1], dtype=pooled.dtype, device=pooled.device)[:, None].expand(-1, len(pooled), -1)
    columns = torch.func.vmap(head, chunk_size=256)(units) - bias
    return columns.permute(1, 2, 0), bias[0]


def _statistic_of(forward_pass: TorchPass, pooled: Tensor, weight: Tensor) -> Statistic:
    """The normalization behind the pooling whose scale explains how the matrices of different pictures differ."""
    for step in forward_pass.steps_behind_pooling():
        if step.name in ("layer_norm", "group_norm", "rms_norm", "normalize"):
            eps = step.kwargs.get("eps", 1e-12 if step.name == "normalize" else 1e-5)
            floats = [argument for argument in step.args[1:] if isinstance(argument, float)]
            statistic = Statistic(step.name, float(floats[-1] if floats and step.name != "normalize" else eps))
            try:
                _check_same(weight / statistic(pooled)[:, :, None])
            except ModelError:
                continue
            return statistic
    raise ModelError("with_maps cannot write down this head's normalization; use explain instead")


def _check_same(weight: Tensor) -> None:
    """The matrices (B, K, C) must be the same for every picture."""
    if float((weight - weight[:1]).abs().max()) > 1e-4 * float(weight.abs().max()):
        raise ModelError(
            "with_maps cannot write down this head: its matrix differs from picture to picture; use explain"
        )


def _own_parameter(net: nn.Module, value: Tensor) -> Tensor:
    """The network's own parameter of these values, if it has one; else the values."""
    for parameter in net.parameters():
        same_form = parameter.numel() == value.numel() and parameter.shape[0] == value.shape[0]
        if same_form and torch.allclose(parameter.detach().reshape(value.shape).to(value), value, rtol=1e-4, atol=1e-6):
            return parameter
    return nn.Parameter(value.detach().clone(), requires_grad=False)
