"""Camlucida: class activation maps for any classifier, exact where the head allows it, measured where it does not.

    import camlucida as cl
    ex = cl.explain("photo.jpg")           # the bundled model; no PyTorch needed
    ex.logits, ex.classes, ex.maps, ex.bias, ex.residual
    ex.overlay(0)

The public names are loaded when first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "explain": "explainer",
    "Explainer": "explainer",
    "Explanation": "explanation",
    "Contrast": "targets",
    "Preprocess": "images.preprocess",
    "View": "images.preprocess",
    "Picture": "images.picture",
    "compare": "judging.compare",
    "open_model": "models",
    "with_maps": "pytorch.with_maps",
    "smoothed": "methods.smoothed",
    "probability": "targets",
    "log_odds": "targets",
    "Similarity": "pytorch.readouts",
    "MaskScore": "pytorch.readouts",
    "BoxScore": "pytorch.readouts",
    "sample": "images.sample",
    "CamlucidaError": "errors",
}

__all__ = ["BoxScore", "CamlucidaError", "Contrast", "Explainer", "Explanation", "MaskScore", "Picture", "Preprocess",
           "Similarity", "View", "__version__", "compare", "explain", "log_odds", "open_model", "probability", "sample",
           "smoothed", "with_maps"]  # fmt: skip

if TYPE_CHECKING:
    from camlucida.errors import CamlucidaError
    from camlucida.explainer import Explainer, explain
    from camlucida.explanation import Explanation
    from camlucida.images.picture import Picture
    from camlucida.images.preprocess import Preprocess, View
    from camlucida.images.sample import sample
    from camlucida.judging.compare import compare
    from camlucida.methods.smoothed import smoothed
    from camlucida.models import open_model
    from camlucida.pytorch.readouts import BoxScore, MaskScore, Similarity
    from camlucida.pytorch.with_maps import with_maps
    from camlucida.targets import Contrast, log_odds, probability


def __getattr__(name: str) -> Any:
    """Load a public name from its module, once."""
    if name not in _WHERE:
        raise AttributeError(f"module 'camlucida' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"camlucida.{_WHERE[name]}")
    except ModuleNotFoundError as error:
        if error.name == "torch":
            from camlucida.errors import MissingExtraError

            raise MissingExtraError("PyTorch", "torch") from error
        raise
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
