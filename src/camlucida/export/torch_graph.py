"""A PyTorch model as a graph: exported as it is, to be given maps as any graph is, and compared with ``with_maps``."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camlucida.errors import ExportError, MissingExtraError, ModelError, first_line
from camlucida.export.surgery import GraphFacts
from camlucida.export.verify import TOLERANCES
from camlucida.images.picture import shown
from camlucida.models import open_model
from camlucida.onnx.graph import GraphRun
from camlucida.onnx.metadata import Metadata
from camlucida.pytorch.engine import TorchEngine
from camlucida.pytorch.outputs import Ending
from camlucida.pytorch.state import evaluating
from camlucida.pytorch.with_maps import WithMaps, with_maps
from camlucida.targets import Expected, OutputName, logit_spread

PARITY = TOLERANCES[""]
"""How far PyTorch and ONNX may differ, over the spread of the picture's logits."""

_LARGEST_INSIDE = 2**31 - 2**24


@dataclass(frozen=True, eq=False)
class TorchGraph:
    """A PyTorch classifier's graph in a file, and what its source says of it.

    Attributes:
        path: of the graph, in the scratch folder.
        name: the source's.
        both: the classifier with its maps, as PyTorch computes them.
        metadata: what the source says of its classes, pictures and maps.
        sha256: of the classifier's parameters and buffers, in their order: names, types, sizes and values.
    """

    path: Path
    name: str
    both: WithMaps
    metadata: Metadata
    sha256: str

    def compare(self, new: Path, facts: GraphFacts, real: NDArray[np.float32] | None) -> float:
        """How far the file's logits and maps are from PyTorch's, over the logits' spread, the worst of all pictures.

        Args:
            new: the file with maps.
            facts: what ``add_maps`` said.
            real: a preprocessed picture (1, 3, H, W), beside random ones.

        Raises:
            ExportError: farther than ``PARITY``.
        """
        run, graph = GraphRun(new, self.name), facts.graph
        worst = 0.0
        for batch in [graph.example(2, seed=4)] + ([] if real is None else [real.repeat(graph.batch or 1, 0)]):
            outputs = run({graph.input.name: batch})
            with torch.no_grad(), evaluating(self.both.net):
                logits, maps = (tensor.double().numpy() for tensor in self.both(torch.from_numpy(batch)))
            if "top_ids" in outputs:
                maps = np.take_along_axis(maps, outputs["top_ids"][:, :, None, None], 1)
            for own, other in ((logits, outputs["logits"]), (maps, outputs["maps"])):
                if own.shape != other.shape:
                    raise ExportError(f"{self.name}: PyTorch gives {own.shape} where ONNX gives {other.shape}; "
                                      "nothing was written")  # fmt: skip
                far = np.abs(own - other).reshape(len(own), -1).max(1) / logit_spread(logits)
                worst = max(worst, float(far.max()))
        if not worst <= PARITY:
            raise ExportError(f"{self.name}: PyTorch and ONNX differ by {worst:.1e} of the logits' spread "
                              f"(allowed: {PARITY:.0e}); nothing was written")  # fmt: skip
        return worst


class _Logits(nn.Module):
    """A classifier that returns one tensor, whatever it returned."""

    def __init__(self, net: nn.Module, ending: Ending) -> None:
        super().__init__()
        self.net, self.ending = net, ending

    def forward(self, images: Tensor) -> Tensor:
        return self.ending.output(self.net(images))


def trace(source: str, size_hw: tuple[int, int] | None, scratch: Path, output: OutputName = None) -> TorchGraph:
    """Export a PyTorch classifier by ``torch.onnx`` with any batch size, at one picture size.

    Args:
        source: a name for ``open_model``.
        size_hw: of its pictures; None takes its preprocessing's.
        scratch: a folder for the graph.
        output: which of the tensors that it returns are its logits; None finds them.

    Raises:
        ExportError: it is no PyTorch model, its head is not affine, or PyTorch cannot export it.
        MissingExtraError: onnxscript is not installed.
    """
    model = open_model(source, output=output)
    net = model.module
    if net is None:
        raise ExportError(f"{source}: no PyTorch model and no ONNX file, so there is nothing to export")
    height, width = size_hw or model.preprocess.size_hw
    example = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    path = scratch / "traced.onnx"
    with torch.no_grad(), evaluating(net):
        try:
            expected = Expected(model.output, None if model.class_names is None else len(model.class_names))
            ending = TorchEngine(net, expected=expected).prepare(example)[-1].ending
            both = with_maps(net, example, output=ending.path or None)
        except ModelError as error:
            raise ExportError(f"{source}: {error}") from error
        name = "logits" if ending.activation is None else "probabilities"
        _export(source, _Logits(net, ending).eval(), example, name, path)
    metadata = Metadata(model.class_names, model.preprocess, model.calibration, model.activation)
    return TorchGraph(path, source, both, metadata, _sha256(net))


def _export(source: str, net: _Logits, example: Tensor, output: str, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=2**16)
    try:
        with _quiet():
            program = torch.onnx.export(
                net, (example,), dynamo=True, verbose=False, input_names=["images"],
                output_names=[output], dynamic_shapes={"images": {0: batch}},
            )  # fmt: skip
            size = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
            assert program is not None
            program.save(str(path), external_data=size > _LARGEST_INSIDE)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "onnxscript", "export") from error
    except Exception as error:  # torch raises many kinds here
        raise ExportError(f"{source}: PyTorch cannot export it ({shown(first_line(error))})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells its own developers: its file is run and compared before it is kept."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _sha256(net: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
