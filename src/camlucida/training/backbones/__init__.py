"""Backbones by name: one visible dict. Add your own: a subclass of ``Backbone``, a function and a line here."""

from __future__ import annotations

import importlib

from camlucida.errors import TrainingError
from camlucida.training.backbones.backbone import Backbone
from camlucida.training.config import TrainConfig

__all__ = ["BACKBONES", "Backbone", "make_backbone"]

BACKBONES: dict[str, str] = {
    "small": "camlucida.training.backbones.own_networks:own_network",
    "residual": "camlucida.training.backbones.own_networks:own_network",
    "timm": "camlucida.training.backbones.cut_classifiers:cut_timm",
    "torchvision": "camlucida.training.backbones.cut_classifiers:cut_torchvision",
    "FILE.py": "camlucida.training.backbones.cut_classifiers:cut_file",
}
"""What stands before the colon -> ``module:function``, from a configuration to the backbone that it names. Transformers
that give their attention belong to a head (see ``heads.tscam``)."""


def make_backbone(config: TrainConfig) -> Backbone:
    """The backbone that ``config.backbone`` names, for ``config.size`` and ``config.stride``.

    Raises:
        TrainingError: there is no such backbone, or it has no stage of that stride.
        MissingExtraError: it needs an optional dependency.
    """
    kind = config.backbone.partition(":")[0]
    place = BACKBONES.get("FILE.py" if kind.endswith(".py") else kind)
    if place is None:
        raise TrainingError(
            f"backbone: expected small, small:32-64-128, residual, timm:NAME, torchvision:NAME or FILE.py:FUNCTION, "
            f"got {config.backbone!r}"
        )
    module, _, function = place.partition(":")
    backbone: Backbone = getattr(importlib.import_module(module), function)(config)
    return backbone
