"""Models of timm, torchvision and Hugging Face, with their weights, class names and preprocessing."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from camlucida.errors import MissingExtraError, ModelError, first_line
from camlucida.images.preprocess import Preprocess
from camlucida.models.model import Model
from camlucida.models.torch_module import timm_preprocess, wrap


def open_timm(name: str) -> Model:
    """Open ``timm:resnet50.a1_in1k`` with its pretrained weights.

    Raises:
        MissingExtraError: timm is not installed.
        ModelError: timm does not know the name, or its weights cannot be had.
    """
    timm = _needed("timm")
    bare = name.removeprefix("timm:")
    module = _opened(name, lambda: timm.create_model(bare, pretrained=True))
    config = _opened(name, lambda: timm.data.resolve_data_config(model=module))
    class_names = None
    if getattr(module, "num_classes", 0) == 1000:
        info = timm.data.ImageNetInfo()
        class_names = tuple(info.index_to_description(i) for i in range(1000))
    return wrap(module, name, class_names, timm_preprocess(config))


def open_torchvision(name: str) -> Model:
    """Open ``torchvision:resnet50`` with its default weights, or ``torchvision:resnet50.IMAGENET1K_V1`` with those.

    Raises:
        MissingExtraError: torchvision is not installed.
        ModelError: torchvision does not know the name, or its weights cannot be had.
    """
    models = _needed("torchvision.models", "torchvision")
    bare, _, version = name.removeprefix("torchvision:").partition(".")
    weights = _opened(name, lambda: models.get_model_weights(bare)[version or "DEFAULT"])
    module = _opened(name, lambda: models.get_model(bare, weights=weights))
    usual = weights.transforms()
    crop, resize = int(usual.crop_size[0]), int(usual.resize_size[0])
    preprocess = Preprocess((crop, crop), crop_fraction=crop / resize, interpolation=usual.interpolation.value,
                            mean=tuple(usual.mean), std=tuple(usual.std))  # fmt: skip
    return wrap(module, name, tuple(weights.meta["categories"]), preprocess)


def open_hf(name: str) -> Model:
    """Open ``hf:microsoft/resnet-50``, or ``hf:folder`` with a saved model. Only safetensors weights are read.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: there is no such image classifier, or its files cannot be had.
    """
    transformers = _needed("transformers")
    bare = name.removeprefix("hf:")
    automatic = transformers.AutoModelForImageClassification
    module = _opened(name, lambda: automatic.from_pretrained(bare, use_safetensors=True))
    processor = _opened(name, lambda: transformers.AutoImageProcessor.from_pretrained(bare).to_dict())
    return wrap(module, name, preprocess=_hf_preprocess(processor))


def _hf_preprocess(config: dict[str, Any]) -> Preprocess:
    """A Hugging Face image processor's settings as a Preprocess: a crop where it crops, else the picture stretched."""
    size, crop = config.get("size") or {}, config.get("crop_size") or {}
    short = size.get("shortest_edge")
    mean, std = tuple(config.get("image_mean") or (0.5,) * 3), tuple(config.get("image_std") or (0.5,) * 3)
    if not config.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    filters = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
    interpolation: Any = filters.get(config.get("resample", 2), "bilinear")
    percent = config.get("crop_pct")
    if short and percent and not crop:  # ConvNeXT: shrunk to short / crop_pct, then cut below 384, else stretched
        fit: Any = "crop" if short < 384 else "stretch"
        return Preprocess((short, short), fit, percent if short < 384 else 1.0, interpolation, mean, std)
    height = int(crop.get("height") or size.get("height") or short or 224)
    width = int(crop.get("width") or size.get("width") or short or 224)
    if config.get("do_center_crop") or short:
        resized = int(short or size.get("height") or height)
        return Preprocess((height, width), "crop", min(1.0, height / resized), interpolation, mean, std)
    return Preprocess((height, width), "stretch", 1.0, interpolation, mean, std)


def _needed(module: str, package: str | None = None) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(package or module, "zoo") from error


def _opened(name: str, build: Callable[[], Any]) -> Any:
    try:
        return build()
    except Exception as error:
        raise ModelError(f"{name}: cannot be opened ({type(error).__name__}: {first_line(error)}); check the name and, "
                         "for weights not yet on this machine, the network")  from error  # fmt: skip
