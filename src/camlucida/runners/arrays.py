"""Between the arrays of runners and the tensors of methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camlucida.methods.forward_pass import Maps
from camlucida.runners.runner import Facts, MapBatch
from camlucida.targets import Targets


def to_tensor(batch: Any) -> Tensor:
    """A batch as a tensor; an array's memory is shared where it is contiguous."""
    return batch if isinstance(batch, Tensor) else torch.from_numpy(np.ascontiguousarray(batch))


def to_array(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor of any device and floating-point type as float32."""
    values: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return values


def map_batch(logits: Tensor, targets: Targets, maps: Maps, facts: Facts, unit: str = "") -> MapBatch:
    """What a method made of a pass, as arrays; the bias is NaN where it gave none."""
    scores = to_array(targets.of(logits) if maps.scores is None else maps.scores)
    bias = np.full(scores.shape, np.nan, np.float32) if maps.bias is None else to_array(maps.bias)
    return MapBatch(to_array(logits), targets, scores, to_array(maps.maps), bias, facts, unit)
