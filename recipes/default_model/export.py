"""Write the trained demonstration model as the package's ONNX file, and check it.

    python recipes/default_model/export.py RUN/weights.safetensors src/camlucida/assets/demo.onnx

Batch normalization is folded into the convolutions; weights are stored as float16 (half the size) and cast to float32
when the model is loaded, so that all arithmetic is float32. The file is refused unless logits and maps equal PyTorch's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from classes import LABELS
from network import DemoNet
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import camlucida as cl

PIXELS = 160
PREPROCESS = {
    "size_hw": [PIXELS, PIXELS], "fit": "stretch", "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
}  # fmt: skip


def folded(net: nn.Module) -> nn.Module:
    """Every convolution followed by batch normalization as one convolution."""
    for name, child in net.named_children():
        if isinstance(child, nn.Sequential) and len(child) == 2 and isinstance(child[1], nn.BatchNorm2d):
            setattr(net, name, fuse_conv_bn_eval(child[0], child[1]))
        else:
            folded(child)
    return net


class WithBias(nn.Module):
    """``with_maps`` with its bias as a third output."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = cl.with_maps(net, torch.randn(2, 3, PIXELS, PIXELS))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits, maps = self.net(images)
        return logits, maps, self.net.bias + 0


def with_half_weights(model: onnx.ModelProto) -> None:
    """Large float32 initializers become float16 ones and a Cast, in place."""
    casts = []
    for initializer in model.graph.initializer:
        values = numpy_helper.to_array(initializer)
        if values.dtype != np.float32 or values.size < 256:
            continue
        name = initializer.name
        initializer.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    net = DemoNet(len(LABELS))
    net.load_state_dict(load_file(arguments.weights))
    both = WithBias(folded(net.eval())).eval()
    images = torch.rand(2, 3, PIXELS, PIXELS)
    dimensions = {0: torch.export.Dim("batch", min=1, max=4096)}
    program = torch.onnx.export(
        both, (images,), dynamo=True, input_names=["images"], output_names=["logits", "maps", "bias"],
        dynamic_shapes={"images": dimensions}, verbose=False,
    )  # fmt: skip
    model = program.model_proto
    with_half_weights(model)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    grid = PIXELS // 16
    metadata = {
        "labels": json.dumps(LABELS),
        "preprocess": json.dumps(PREPROCESS),
        "head": "affine after pooling: the map is exact",
        "features": f"NCHW 256×{grid}×{grid}",
        "licence": "weights for non-commercial research, see the model card",
    }
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    logits, maps, bias = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = both(images)
    worst = max(float(np.abs(a - b.numpy()).max()) for a, b in zip((logits, maps, bias), expected, strict=True))
    residual = float(np.abs(maps.sum((2, 3)) + bias - logits).max() / np.ptp(logits))
    print(f"{len(data)} bytes; float16 storage moves an output by at most {worst:.1e}; residual {residual:.1e}")
    if worst > 2e-2 or residual > 1e-5:
        raise SystemExit("not written: the exported model does not equal PyTorch's")
    arguments.out.write_bytes(data)


if __name__ == "__main__":
    main()
