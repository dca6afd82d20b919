"""Torch modules as models: the user's own, and those that a function in the user's own file returns."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camlucida.errors import MissingExtraError, ModelError, first_line
from camlucida.images.preprocess import Fit, Interpolation, Preprocess
from camlucida.models.model import Model
from camlucida.runners.runner import Runner

if TYPE_CHECKING:
    from torch import nn

IMAGENET_224 = Preprocess((224, 224), crop_fraction=224 / 256)


def wrap(
    module: nn.Module,
    name: str | None = None,
    class_names: tuple[str, ...] | None = None,
    preprocess: Preprocess | None = None,
) -> Model:
    """Wrap a module as a model. Preprocessing and class names come from the module where it carries them.

    Args:
        module: any classifier.
        name: None takes the class's.
        class_names: None takes ``config.id2label`` (Hugging Face) where there is one.
        preprocess: None takes timm's ``pretrained_cfg`` where there is one, else ImageNet's usual at 224 pixels.
    """
    stated = preprocess or timm_preprocess(getattr(module, "pretrained_cfg", None))
    return Model(
        name or type(module).__name__,
        runner_of(module),
        stated or IMAGENET_224,
        class_names or _hf_labels(getattr(module, "config", None)),
        module=module,
        preprocess_source="assumed" if stated is None else "stated",
    )


def runner_of(module: nn.Module) -> Callable[..., Runner]:
    """Return what makes the runner of a module for a method, a layer and what is expected of its output.

    Raises:
        MissingExtraError: torch is not installed.
    """
    try:
        from camlucida.runners.torch_runner import TorchRunner
    except ModuleNotFoundError as error:
        raise MissingExtraError("PyTorch", "torch") from error
    return partial(TorchRunner, module)


def timm_preprocess(config: Any) -> Preprocess | None:
    """Timm's ``pretrained_cfg`` (a mapping) as a Preprocess; None if it is none."""
    if not isinstance(config, dict) or len(config.get("input_size") or ()) != 3:
        return None
    _, height, width = config["input_size"]
    fits: dict[str, Fit] = {"squash": "stretch", "border": "pad"}
    interpolation: Interpolation = "bilinear" if config.get("interpolation") == "bilinear" else "bicubic"
    return Preprocess(
        (height, width),
        fits.get(str(config.get("crop_mode")), "crop"),
        crop_fraction=float(config.get("crop_pct") or 0.875),
        interpolation=interpolation,
        mean=tuple(config.get("mean") or (0.485, 0.456, 0.406)),
        std=tuple(config.get("std") or (0.229, 0.224, 0.225)),
    )


def _hf_labels(config: Any) -> tuple[str, ...] | None:
    names = getattr(config, "id2label", None)
    if not isinstance(names, dict) or not names:
        return None
    return tuple(str(names.get(i, names.get(str(i), i))) for i in range(len(names)))


def open_file(name: str) -> Model:
    """Open ``file.py:function``: run the user's own file and call the function, which returns an ``nn.Module``.

    Raises:
        ModelError: no such file or function, or it failed, or it returned something else.
    """
    path, _, function = name.rpartition(":")
    if not Path(path).is_file():
        raise ModelError(f"{path}: no such file; expected file.py:function")
    runner_of(None)  # type: ignore[arg-type]  # tells early that torch is missing
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path}: cannot be imported; expected a Python file")
    module = importlib.util.module_from_spec(spec)
    with _one_line_errors(name):
        spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        raise ModelError(f"{path}: has no function {function!r} that returns an nn.Module")
    with _one_line_errors(name):
        network = getattr(module, function)()
    if isinstance(network, Model):
        return network
    if not hasattr(network, "forward"):
        raise ModelError(f"{name}: returned {type(network).__name__}, expected an nn.Module")
    return wrap(network, name)


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    """Turn whatever the user's code raises into an error of one line."""
    try:
        yield
    except Exception as error:
        raise ModelError(f"{name}: failed with {type(error).__name__}: {first_line(error)}") from error
