"""The versions of what had a part in a result."""

from __future__ import annotations

import platform
import sys

import camlucida


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that are loaded."""
    loaded = {"python": platform.python_version(), "camlucida": camlucida.__version__}
    for package in ("numpy", "onnxruntime", "torch", "timm", "torchvision", "transformers"):
        module = sys.modules.get(package)
        if module is not None:
            loaded[package] = str(getattr(module, "__version__", "?"))
    return loaded
