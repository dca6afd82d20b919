"""Which layers to explain at: by name, by module, or by depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import Tensor, nn

from camlucida.errors import FeaturesNotFoundError, TargetError
from camlucida.pytorch.cell_places import choose_layout, layout_in_place
from camlucida.pytorch.grid import Layout
from camlucida.pytorch.model_call import ModelCall
from camlucida.pytorch.recorded import RecordedValue
from camlucida.pytorch.search import FoundFeatures, cut_at, search
from camlucida.pytorch.split import Split, record, trace

Layer: TypeAlias = str | int | nn.Module
"""A layer's name or module; a stage by its number (-1 is the last); "last"; or "stages", which are all of them."""

Layers: TypeAlias = Layer | Sequence[Layer] | None
"""One layer or several; None is "last"."""

Resolved: TypeAlias = nn.Module | int | Literal["last", "stages"]

_SAME = 1.5
"""Grids whose numbers of cells differ by less than this factor (a few border cells) are one resolution."""


def resolved(model: nn.Module, layer: Layers) -> tuple[Resolved, ...]:
    """The layers that are meant, names looked up.

    "last" and "stages" are depths in every model; a module of such a name is given as the module itself.

    Raises:
        TargetError: the model has no such layer, or the list is empty.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> resolved(net, ["0", -1]), resolved(net, None)
        ((Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1)), -1), ('last',))
    """
    if layer is None:
        return ("last",)
    several = layer if isinstance(layer, Sequence) and not isinstance(layer, str) else [layer]
    if not several:
        raise TargetError("layer: the list is empty; give at least one layer")
    return tuple(_resolved(model, each) for each in several)


def _resolved(model: nn.Module, layer: Layer) -> Resolved:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if isinstance(layer, str):
        if layer in ("last", "stages"):
            return "last" if layer == "last" else "stages"
        if layer not in modules:
            names = ", ".join(name for name in list(modules)[1:] if name.count(".") <= 1)
            raise TargetError(f"the model has no layer {layer!r}; its layers begin with: {names[:600]}")
        return modules[layer]
    if isinstance(layer, int) and not isinstance(layer, bool):
        return layer
    if not any(layer is module for module in modules.values()):
        raise TargetError(f"the given layer ({type(layer).__name__}) is not part of the model")
    return layer


def find_splits(call: ModelCall, batch: Tensor, layers: Sequence[Resolved]) -> tuple[Split, ...]:
    """Where to cut a pass for each layer, shallow to deep, each place once.

    Args:
        call: of the model, in evaluation mode.
        batch: preprocessed input (B, C, *space), a small one.
        layers: as ``resolved`` gives them; "stages" stands for several.

    Raises:
        FeaturesNotFoundError: a layer gives no spatial features.
        TargetError: there is no stage of that number.
    """
    every = stages(call, batch) if any(isinstance(layer, int) or layer == "stages" for layer in layers) else ()
    splits: list[Split] = []
    for layer in layers:
        if isinstance(layer, nn.Module):
            splits.append(trace(call, batch, layer))
        elif layer == "stages":
            splits += every
        elif isinstance(layer, int):
            if not -len(every) <= layer < len(every):
                grids = ", ".join("×".join(map(str, split.layout.grid)) for split in every)
                raise TargetError(
                    f"layer={layer}: there is no such stage; input {tuple(batch.shape[1:])} passes through "
                    f"{len(every)}, with grids {grids}: 0 to {len(every) - 1}, or -1 for the last"
                )
            splits.append(every[layer])
        else:
            splits.append(trace(call, batch))
    return tuple(sorted({split.place: split for split in splits}.values(), key=lambda split: -len(split.tail)))


def stages(call: ModelCall, batch: Tensor) -> tuple[Split, ...]:
    """The last value at each resolution that the network passes through, first to last.

    Found on the tape by numbers, as the last features are: among the values that everything passes through, behind the
    first parameters, those whose shape is a grid over the input. The last of them is the default's; a plain vision
    transformer, which has one resolution, has that stage alone. Values made by padding do not count.

    Cost: a recorded pass; for each stage a pass back to it, and more to look where changes show if its axes are not
    certain.

    Args:
        call: of the model, in evaluation mode.
        batch: preprocessed input (B, C, *space), a small one.

    Raises:
        FeaturesNotFoundError: nothing spatial was found.
    """
    recording = record(call, batch)
    run = recording.run
    last = search(run)
    found = [last.branches[0]]
    decided: set[tuple[int, ...]] = set()
    for value in reversed(run.bottlenecks):
        shape = tuple(value.tensor.shape)
        if value.index >= found[0].value.index or value.step.name == "pad" or shape in decided:
            continue
        if all(_known(layout, found) for layout in value.layouts):
            continue
        if any(layout == features.layout for layout in value.layouts for features in found):
            continue
        if not value.learned():
            break  # nor is anything before it
        layout = _layout(value)
        if layout is not None:
            decided.add(shape)
            if not _known(layout, found):
                found.append(FoundFeatures(value, layout, layout.prefix > 0))
    cuts = [cut_at(features.value, features.layout) for features in reversed(found[1:])]
    return (*map(recording.split, cuts), recording.split(last))


def _known(layout: Layout, found: Sequence[FoundFeatures]) -> bool:
    """Whether there is a stage of about this resolution."""
    cells = math.prod(layout.grid)
    sizes = [math.prod(features.layout.grid) for features in found]
    return any(max(cells, size) < _SAME * min(cells, size) for size in sizes)


def _layout(value: RecordedValue) -> Layout | None:
    """The layout of a value, if it is a grid that the logits read at more than one cell."""
    layouts = value.cells_read(value.layouts)
    if not layouts:
        return None
    if not layouts[0].has_axes:
        return layout_in_place(value, layouts)
    try:
        return choose_layout(value, layouts)
    except FeaturesNotFoundError:
        return None
