"""What a training run is: one frozen record, checked when made, written to ``model.json`` and compared on resume."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from camlucida.errors import TrainingError

if TYPE_CHECKING:
    from camlucida.images.preprocess import Fit

Augment = Literal["none", "flips", "dihedral", "affine", "crops"]
Precision = Literal["32", "bf16-mixed", "16-mixed"]
Optimizer = Literal["sgd", "adamw"]
Keep = Literal["last", "best"]

Kind = TypeVar("Kind")

STRIDES = (2, 4, 8, 16, 32)
_CHOICES: dict[str, tuple[str, ...]] = {
    "augment": get_args(Augment), "precision": get_args(Precision), "optimizer": get_args(Optimizer),
    "keep": get_args(Keep), "fit": ("crop", "stretch", "pad"),
}  # fmt: skip
_NOT_THE_RESULT = ("devices", "workers", "checkpoint_steps")
"""Fields that may differ when a run goes on: they say how it is computed, not what."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run. The defaults train the project's own small network from scratch.

    Attributes:
        backbone: "small", "small:24-48-96-128" (channels of the stages), "residual:32-64-128-256", "timm:NAME",
            "torchvision:NAME" or "FILE.py:FUNCTION" (returns any classifier as ``nn.Module``).
        head: a name from ``heads.HEADS``, with options behind it: "lse:r=10".
        regularizers: names from ``regularizers.REGULARIZERS``, with options: "cutmix:probability=0.3".
        size: pixels; pictures become size × size.
        stride: pixels between cells of the maps: one of ``STRIDES``.
        units: channels of the added 3×3 convolution (1024 in the paper); 0: none is added.
        epochs: passes over the training pictures.
        batch: pictures a step, over all processes together.
        lr: the schedule's peak; None: 0.1 for the project's own networks, 0.01 for others, 0.0005 with AdamW.
        weight_decay: of matrices and kernels; biases and normalizations have none.
        momentum: Nesterov's, of SGD.
        optimizer: "sgd" or "adamw".
        warmup: the share of the steps over which the learning rate rises (one cycle, then a cosine to almost 0).
        label_smoothing: in [0, 1).
        ema: decay of the running average of the weights, a step; 0: none. The average is what is validated and saved.
        sizes: growing pictures, ``((0.0, 96), (0.5, 112), (0.8, 128))``: from this share of the epochs on, so many
            pixels; empty: ``size`` all the time. Validation is always at ``size``.
        fit: how pictures of other shapes become square (see ``Preprocess``).
        augment: "none", "flips" (left-right), "dihedral" (flips, quarter turns, shifts), "affine" (these, and
            rotations, scales, brightness) or "crops" (of random place, size and shape, flips, mild colour).
        seed: of everything random.
        precision: "32", "bf16-mixed" or "16-mixed" (GPU).
        devices: processes.
        workers: data-loading processes beside each; 0: none.
        patience: stop after so many epochs without a better validation score; 0: never.
        keep: which weights are the result: the "last" epoch's or those "best" on the validation pictures.
        pretrained: begin with the published weights of timm and torchvision backbones.
        checkpoint_steps: also write a checkpoint every so many steps; 0: at the end of epochs alone.

    Raises:
        TrainingError: a field is out of range.

    Example:
        >>> TrainConfig(head="gmp", stride=4).differences(TrainConfig(head="gap", stride=4))
        ["head: 'gmp' here, 'gap' there"]
    """

    backbone: str = "small"
    head: str = "gap"
    regularizers: tuple[str, ...] = ()
    size: int = 96
    stride: int = 8
    units: int = 0
    epochs: int = 15
    batch: int = 32
    lr: float | None = None
    weight_decay: float = 5e-4
    momentum: float = 0.9
    optimizer: Optimizer = "sgd"
    warmup: float = 0.2
    label_smoothing: float = 0.0
    ema: float = 0.0
    sizes: tuple[tuple[float, int], ...] = ()
    fit: Fit = "stretch"
    augment: Augment = "flips"
    seed: int = 0
    precision: Precision = "32"
    devices: int = 1
    workers: int = 0
    patience: int = 0
    keep: Keep = "last"
    pretrained: bool = True
    checkpoint_steps: int = 0

    def __post_init__(self) -> None:
        # Lists are taken too, as JSON has them: what is equal must compare as equal.
        object.__setattr__(self, "regularizers", tuple(self.regularizers))
        object.__setattr__(self, "sizes", tuple((share, pixels) for share, pixels in self.sizes))
        whole = {"size": 8, "epochs": 1, "batch": 1, "devices": 1, "units": 0, "seed": 0, "workers": 0, "patience": 0,
                 "checkpoint_steps": 0}  # fmt: skip
        check_whole_numbers(self, whole)
        for name in ("weight_decay", "momentum", "warmup", "label_smoothing", "ema"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < 1:
                raise TrainingError(f"{name}: expected a number in [0, 1), got {value!r}")
        if self.lr is not None and not (isinstance(self.lr, int | float) and 0 < self.lr < float("inf")):
            raise TrainingError(f"lr: expected a number above 0, got {self.lr!r}")
        if self.stride not in STRIDES or self.stride > self.size:
            raise TrainingError(
                f"stride: expected one of {', '.join(map(str, STRIDES))}, at most size={self.size}, got {self.stride!r}"
            )
        if any(not isinstance(name, str) for name in self.regularizers):
            raise TrainingError(f"regularizers: expected names, got {self.regularizers}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise TrainingError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.batch % self.devices:
            raise TrainingError(f"batch: {self.batch} cannot be shared by devices={self.devices}; take a multiple")
        starts = [share for share, _ in self.sizes]
        if self.sizes and (starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= 1):
            raise TrainingError(f"sizes: expected rising shares of the epochs from 0 to below 1, got {self.sizes}")
        if any(not isinstance(pixels, int) or pixels < self.stride for _, pixels in self.sizes):
            raise TrainingError(f"sizes: expected whole pixels of at least stride={self.stride}, got {self.sizes}")

    @property
    def peak_lr(self) -> float:
        """The learning rate at the schedule's peak."""
        if self.lr is not None:
            return self.lr
        if self.optimizer == "adamw":
            return 5e-4
        return 0.1 if self.backbone.partition(":")[0] in ("small", "residual") else 0.01

    def size_in(self, epoch: int) -> int:
        """Pixels of the training pictures in an epoch, counted from 0.

        >>> [TrainConfig(epochs=4, sizes=((0.0, 64), (0.5, 96))).size_in(epoch) for epoch in range(4)]
        [64, 64, 96, 96]
        """
        return [self.size, *(pixels for share, pixels in self.sizes if epoch >= share * self.epochs)][-1]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, texts and lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: object) -> TrainConfig:
        """What ``as_json`` made.

        Raises:
            TrainingError: it is something else.

        >>> TrainConfig.from_json(TrainConfig(units=8).as_json()) == TrainConfig(units=8)
        True
        """
        if not isinstance(values, dict):
            raise TrainingError(f"config: expected an object of settings, got {type(values).__name__}")
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise TrainingError(f"config: unknown settings {', '.join(unknown)}; was it written by a later version?")
        settings = dict(values)
        for name, kind in (("backbone", str), ("head", str), ("pretrained", bool)):
            if name in settings and not isinstance(settings[name], kind):
                raise TrainingError(f"config: {name}: expected {kind.__name__}, got {settings[name]!r}")
        try:
            return cls(**settings)
        except (TypeError, ValueError) as error:
            raise TrainingError(f"config: {error}") from error

    def differences(self, other: TrainConfig) -> list[str]:
        """What would make another result, in words: empty if a run of ``other`` may go on with these settings."""
        return [
            f"{field.name}: {getattr(self, field.name)!r} here, {getattr(other, field.name)!r} there"
            for field in fields(self)
            if field.name not in _NOT_THE_RESULT and getattr(self, field.name) != getattr(other, field.name)
        ]


def check_whole_numbers(settings: object, least: Mapping[str, int], where: str = "") -> None:
    """Refuse settings that are no whole numbers, or below the least that each may be."""
    for name, bound in least.items():
        value = getattr(settings, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < bound:
            raise TrainingError(f"{where}{name}: expected a whole number of at least {bound}, got {value!r}")


def find_registered(
    what: str, registry: Mapping[str, type[Kind]], spec: str, positional: int = 0
) -> tuple[type[Kind], dict[str, float]]:
    """The class and the options that ``name:option=number,…`` means in a registry, which holds ``what``; the first
    ``positional`` parameters of the class are no options.

    Raises:
        TrainingError: there is no such name, the class has no such option, or an option is no ``name=number``.
    """
    name, _, rest = spec.partition(":")
    options: dict[str, float] = {}
    for part in filter(None, rest.split(",")):
        option, equals, number = part.partition("=")
        try:
            options[option.strip()] = float(number)
        except ValueError:
            equals = ""
        if not equals or not option.strip():
            raise TrainingError(f"{spec}: expected name:option=number,…, got {part!r}")
    if name not in registry:
        raise TrainingError(f"{what}: there is no {name!r}; expected one of {', '.join(registry)}")
    kind = registry[name]
    known = list(inspect.signature(kind).parameters)[positional:]
    for option in options:
        if option not in known:
            raise TrainingError(f"{what}: {name} has no option {option!r}; it has {', '.join(known) or 'none'}")
    return kind, options
