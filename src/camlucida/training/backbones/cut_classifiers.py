"""Any classifier as a backbone: run it up to the last value at the asked stride, which a search finds, and stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from camlucida.errors import CamlucidaError, MissingExtraError, TrainingError, first_line
from camlucida.models.torch_module import open_file, timm_preprocess
from camlucida.pytorch.model_call import ModelCall
from camlucida.pytorch.split import Split
from camlucida.pytorch.stages import stages
from camlucida.pytorch.state import evaluating
from camlucida.pytorch.tape import CallCounter, replaced, tensors_in
from camlucida.training.backbones.backbone import Backbone
from camlucida.training.config import TrainConfig

_SAME = 1.5  # grids whose numbers of cells differ by less than this factor (a few border cells) are one stride


class CutClassifier(Backbone):
    """A classifier, run only up to one of its stages (Zhou et al., CVPR 2016, section 3.1: the layers behind go).

    Parameters that this leaves unused are frozen.
    """

    def __init__(self, net: nn.Module, splits: Sequence[Split], size: int) -> None:
        super().__init__()
        self.net = net
        self._splits = tuple(splits)
        self.grid_hw = (splits[-1].layout.grid[0], splits[-1].layout.grid[1])
        images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        with evaluating(net), torch.no_grad(), _Until(self._splits, self.between) as plain:
            plain.run(net, images)
        self.channels = tuple(self._on_grid(plain, i).shape[1] for i in range(len(splits)))
        self._check_training(images, plain)
        named = {f"net.{name}": tensor for name, tensor in (*net.named_parameters(), *net.named_buffers())}
        read = {name for name, tensor in named.items() if id(tensor) in plain.read}
        modules = {name.rpartition(".")[0] for name in read}  # a counter of batches is read in training alone
        buffers = {f"net.{name}" for name, _ in net.named_buffers()}
        self.unused = frozenset(
            name for name in named.keys() - read if name not in buffers or name.rpartition(".")[0] not in modules
        )
        for name, parameter in net.named_parameters():
            if f"net.{name}" in self.unused:
                parameter.requires_grad_(False)

    def stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """The last value at each resolution up to the cut, channels first on the grid."""
        with _Until(self._splits, self.between) as until:
            until.run(self.net, images)
        return tuple(self._on_grid(until, i) for i in range(len(self._splits)))

    def _on_grid(self, until: _Until, index: int) -> Tensor:
        tensor = until.kept[index]
        if tensor is None:
            raise TrainingError("backbone: its calls differ from pass to pass, so that its stages cannot be followed")
        return _on_grid(self._splits[index], tensor)

    def _check_training(self, images: Tensor, plain: _Until) -> None:
        """The same calls must lead to the same stages while training, where auxiliary branches may come in."""
        before = {name: buffer.clone() for name, buffer in self.net.named_buffers()}
        modes = {module: module.training for module in self.net.modules()}
        try:
            self.net.train()
            with torch.random.fork_rng(devices=[]), torch.no_grad(), _Until(self._splits, self.between) as trained:
                trained.run(self.net, images)
        finally:
            for module, mode in modes.items():
                module.training = mode
            for name, buffer in self.net.named_buffers():
                buffer.copy_(before[name])
        parameters = {id(parameter) for parameter in self.net.parameters()}
        shapes = [[None if stage is None else stage.shape for stage in run.kept] for run in (plain, trained)]
        if shapes[0] != shapes[1] or trained.read & parameters != plain.read & parameters:
            raise TrainingError(
                "backbone: it takes another way while training (auxiliary branches?), so that its stages cannot be "
                "followed; switch that off"
            )


def _on_grid(split: Split, tensor: Tensor) -> Tensor:
    """(B, C, h, w); as it is where it lies so already: whoever looks for features next then has nothing to guess."""
    layout = split.layout
    if layout.channel_axis == 1 and layout.spatial_axes == (2, 3) and not layout.prefix:
        return tensor
    return layout.on_grid(tensor)


class _Reached(Exception):  # noqa: N818
    """The last stage is there: nothing behind it is run."""


class _Until(TorchFunctionMode):
    """Keeps the tensors made at the stages' places, and stops at the last."""

    def __init__(self, splits: Sequence[Split], between: nn.ModuleDict) -> None:
        super().__init__()
        self.splits, self.between = splits, between
        self.kept: list[Tensor | None] = [None] * len(splits)
        self.read: set[int] = set()
        self._calls = CallCounter()

    def run(self, net: nn.Module, images: Tensor) -> None:
        """One pass, up to the last stage."""
        try:
            net(images)
        except _Reached:
            return

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the call; keep what it made if its turn has come."""
        if self.kept[-1] is not None:
            # Only in an export, which cannot be left in the middle, for it follows modules in and out. Nobody sees
            # these calls, so that those behind the backbone are counted as ever; the export drops what nothing reads.
            with torch._C.DisableTorchFunction():
                return func(*args, **(kwargs or {}))
        self.read.update(id(tensor) for tensor in tensors_in((args, kwargs or {})))
        nth = self._calls.count(func)
        result = func(*args, **(kwargs or {}))
        for i, split in enumerate(self.splits):
            outputs = list(tensors_in(result)) if func is split.place.func and nth == split.place.nth else []
            if split.place.output < len(outputs):
                tensor = outputs[split.place.output]
                if str(i) in self.between:
                    changed = split.layout.put(tensor, self.between[str(i)](_on_grid(split, tensor)))
                    result, tensor = replaced(result, {id(tensor): changed}), changed
                self.kept[i] = tensor
                if i == len(self.splits) - 1 and not torch.compiler.is_compiling():
                    raise _Reached
        return result


_MeanStd = tuple[tuple[float, ...], tuple[float, ...]] | None


def cut_timm(config: TrainConfig) -> CutClassifier:
    """A network of timm, cut; with a finer grid by dilation (``output_stride``) where it can."""
    return _cut(config, _timm(config))


def cut_file(config: TrainConfig) -> CutClassifier:
    """The classifier that a function in the user's own file returns, cut."""
    return _cut(config, [(open_file(config.backbone).module, None)])


def _cut(config: TrainConfig, candidates: Iterable[tuple[Any, _MeanStd]]) -> CutClassifier:
    """The first candidate with a stage of ``config.stride``, cut there. Candidates are classifiers, best first, each
    with the mean and std of its inputs if they are known.

    Raises:
        TrainingError: none has a stage of that stride.
    """
    seen: dict[int, None] = {}
    refusal = ""
    for net, mean_std in candidates:
        images = torch.randn(2, 3, config.size, config.size, generator=torch.Generator().manual_seed(0))
        try:
            with evaluating(net), torch.no_grad():
                every = stages(ModelCall(net), images)
        except CamlucidaError as error:
            refusal = str(error)
            continue
        except Exception as error:  # the user's choice of network meets the user's choice of size
            refusal = f"failed on pictures of {config.size} pixels: {type(error).__name__}: {first_line(error)}"
            continue
        cells = (config.size / config.stride) ** 2
        for at in range(len(every) - 1, -1, -1):
            grid = every[at].layout.grid
            here = grid[0] * grid[1]
            if max(here, cells) < _SAME * min(here, cells):
                backbone = CutClassifier(net, every[: at + 1], config.size)
                backbone.mean, backbone.std = mean_std or (backbone.mean, backbone.std)
                return backbone
            seen[round((config.size**2 / here) ** 0.5)] = None
    if seen:
        strides = ", ".join(map(str, sorted(seen)))
        raise TrainingError(f"backbone: {config.backbone} has no stage of stride={config.stride}; it has {strides}")
    raise TrainingError(f"backbone: {config.backbone}: {refusal}")


def _timm(config: TrainConfig) -> Iterator[tuple[Any, _MeanStd]]:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingExtraError("timm", "zoo") from error
    name = config.backbone.partition(":")[2]
    options: list[dict[str, int]] = [{"output_stride": config.stride}] if config.stride < 32 else []
    for option in (*options, {"img_size": config.size}, {}):
        try:
            net = timm.create_model(name, pretrained=config.pretrained, **option)
        except (TypeError, NotImplementedError, AssertionError) as error:
            if not option:
                raise TrainingError(f"backbone: {config.backbone} could not be made: {error}") from error
            continue  # this network has no such option
        except Exception as error:
            raise _not_made(config, error) from error
        usual = timm_preprocess(getattr(net, "pretrained_cfg", None))
        yield net, (usual.mean, usual.std) if usual else None


def cut_torchvision(config: TrainConfig) -> CutClassifier:
    """A network of torchvision, cut."""
    try:
        from torchvision import models
    except ModuleNotFoundError as error:
        raise MissingExtraError("torchvision", "zoo") from error
    name = config.backbone.partition(":")[2]
    weights = "DEFAULT" if config.pretrained else None
    initial = {"init_weights": True} if weights is None and name in ("googlenet", "inception_v3") else {}
    try:
        net = models.get_model_builder(name)(weights=weights, **initial)
    except Exception as error:
        raise _not_made(config, error) from error
    for auxiliary in ("aux1", "aux2", "AuxLogits"):
        if getattr(net, auxiliary, None) is not None:
            setattr(net, auxiliary, None)  # side branches of GoogLeNet that read logits early, while training alone
    return _cut(config, [(net, None)])


def _not_made(config: TrainConfig, error: Exception) -> TrainingError:
    hint = "; without the network, train from scratch (pretrained=False)" if config.pretrained else ""
    return TrainingError(f"backbone: {config.backbone} could not be made: {first_line(error)}{hint}")
