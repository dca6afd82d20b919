"""Backbones by name: one visible dict. Add your own: a subclass of ``Backbone``, a function and a line here."""

from __future__ import annotations

from collections.abc import Callable

from camlucida.errors import TrainingError
from camlucida.training.backbones.backbone import Backbone
from camlucida.training.backbones.cut_classifiers import cut_file, cut_timm, cut_torchvision
from camlucida.training.backbones.own_networks import own_network
from camlucida.training.config import TrainConfig

__all__ = ["BACKBONES", "Backbone", "make_backbone"]

BACKBONES: dict[str, Callable[[TrainConfig], Backbone]] = {
    "small": own_network, "residual": own_network, "timm": cut_timm, "torchvision": cut_torchvision,
    "FILE.py": cut_file,
}  # fmt: skip
"""What stands before the colon -> from a configuration to the backbone that it names. Transformers that give their
attention belong to a head (see ``heads.wsol_heads.TSCAM``)."""


def make_backbone(config: TrainConfig) -> Backbone:
    """The backbone that ``config.backbone`` names, for ``config.size`` and ``config.stride``.

    Raises:
        TrainingError: there is no such backbone, or it has no stage of that stride.
        MissingExtraError: it needs an optional dependency.
    """
    kind = config.backbone.partition(":")[0]
    make = BACKBONES.get("FILE.py" if kind.endswith(".py") else kind)
    if make is None:
        raise TrainingError(
            f"backbone: expected small, small:32-64-128, residual, timm:NAME, torchvision:NAME or FILE.py:FUNCTION, "
            f"got {config.backbone!r}"
        )
    return make(config)
