"""Leave a model as it was found: modes, gradient flags, gradients."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

_lock = threading.Lock()
_inside: WeakKeyDictionary[nn.Module, tuple[int, bool]] = WeakKeyDictionary()
"""How often each module is being evaluated now, and its own mode."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]  # torch.compile's wrapper
        else:
            return model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; every submodule's own mode comes back, also after an exception.

    Threads may overlap, also on a model and a part of it: for each module the first remembers, the last restores.
    """
    modules = list(model.modules())
    with _lock:
        for module in modules:
            now = getattr(module, "training", False)  # frozen scripts have no mode
            count, training = _inside.get(module, (0, now))
            _inside[module] = (count + 1, training)
            if now:
                module.training = False
    try:
        yield
    finally:
        with _lock:
            for module in modules:
                count, training = _inside.pop(module)
                if count > 1:
                    _inside[module] = (count - 1, training)
                elif training:
                    module.training = True
