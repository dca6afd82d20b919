"""Lightning imports torchmetrics, and that torchvision where it is installed, even one built for another torch."""

from __future__ import annotations

import importlib
from typing import Any
from unittest import mock

import torch


def make_importable() -> None:
    """Import torchvision if it is there; if its compiled operators are not this torch's, without them."""
    whole = torch.library.register_fake

    def without_operators(name: Any, *args: Any, **kwargs: Any) -> Any:
        if str(name).startswith("torchvision::"):
            return lambda function: function
        return whole(name, *args, **kwargs)

    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError:
        with mock.patch.object(torch.library, "register_fake", without_operators):
            importlib.import_module("torchvision")
