"""Write the trained demonstration model as the package's ONNX file, and check it.

    python recipes/default_model/export.py RUN src/camlucida/models/demo.onnx

``camlucida export`` with two things more: weights are stored as float16 (half the size) and cast to float32 when the
model is loaded, so that all arithmetic is float32; and the licence is named. The file is refused unless its logits and
maps are the full one's within what float16 storage moves them by, and add up.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import onnx
from camlucida.export.exporting import export
from onnx import TensorProto, helper, numpy_helper

LICENCE = "weights for non-commercial research, see the model card"
MOVED, RESIDUAL = 2e-2, 1e-5  # of the logits' spread


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


def outputs(data: bytes, images: NDArray[np.float32]) -> list[Any]:
    """Logits, maps and bias."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["logits", "maps", "bias"], {session.get_inputs()[0].name: images})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        full = export(arguments.run, Path(scratch) / "full.onnx").path.read_bytes()
    model = onnx.load_from_string(full)
    with_half_weights(model)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    entry = model.metadata_props.add()
    entry.key, entry.value = "licence", LICENCE
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()

    height, width = (size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim[2:])
    images = np.random.default_rng(0).normal(size=(4, 3, height, width)).astype(np.float32)
    expected, found = outputs(full, images), outputs(data, images)
    logits, maps, bias = found
    spread = float(np.ptp(expected[0]))
    moved = max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True)) / spread
    residual = float(np.abs(maps.sum((2, 3)) + bias - logits).max()) / spread
    print(f"{len(data)} bytes; float16 storage moves an output by at most {moved:.1e}; residual {residual:.1e}")
    if moved > MOVED or residual > RESIDUAL:
        raise SystemExit("not written: the smaller file does not equal the full one")
    arguments.out.write_bytes(data)


if __name__ == "__main__":
    main()
