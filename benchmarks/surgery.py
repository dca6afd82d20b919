"""Give maps to ONNX classifiers of many origins, and measure: residual, size added, and what the maps cost.

    python benchmarks/surgery.py                        # about 15 minutes on two cores
    python benchmarks/surgery.py --keras .venv-keras/bin/python     # Keras' and tf2onnx' too; see surgery_keras.py
    python benchmarks/surgery.py --only resnet50 mobilenetv2_100
    python benchmarks/surgery.py --write                # also the table, to surgery.md

Every classifier is made here, with random weights, and BatchNorm's statistics and gains away from their start values.
"slowdown" is the processor time of the graph with maps over that of the graph without, in ONNX Runtime on one thread,
the two run in turn: the median over pairs. Graphs that take less than a millisecond are too quick to tell.

Exit status 1: a head is not what it is known to be, a comparison failed, or a cost is above its limit.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from resnet import resnet18, resnet50
from torch import nn

import onnx
from camlucida.errors import ExportError
from camlucida.export.exporting import ExportOptions, export

HERE = Path(__file__).parent
BATCHES = (1, 8)
NEWEST = 23  # what torch.onnx writes at most


@dataclass(frozen=True)
class Entry:
    """One classifier.

    Attributes:
        origin: who wrote the file.
        name: of the architecture.
        make: writes it to a path.
        kind: what its head is known to be: affine, normalized or refused.
        options: what is asked of the export.
        limit: of the slowdown, if there is one.
        pairs: how many times both graphs are run.
    """

    origin: str
    name: str
    make: Callable[[Path], None]
    kind: str = "affine"
    options: ExportOptions = field(default_factory=ExportOptions)
    limit: float | None = None
    pairs: int = 9


@dataclass(frozen=True)
class Row:
    """A line of the table; ``fault`` is empty if all is well."""

    cells: tuple[str, ...]
    fault: str


# --- Where classifiers come from --------------------------------------------------------------------------------------


def randomized(net: nn.Module) -> nn.Module:
    """In evaluation mode, with nothing left at a start value that would hide a fault."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        for parameter in net.parameters():
            if parameter.numel() > 1 and float(parameter.std()) == 0:  # gains, biases, layer scales
                parameter.uniform_(0.2, 1.0, generator=generator)
    return net.eval()


def timm_model(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, **options)

    return build


def torchvision_model(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        extra = {"init_weights": False} if name == "googlenet" else {}
        return torchvision.models.get_model(name, weights=None, **extra)

    return build


def by_torch(
    build: Callable[[], nn.Module], opset: int, *, dynamo: bool, any_size: bool = False
) -> Callable[[Path], None]:
    """A writer of a torch module by the exporter over ``torch.export``, or by the older one over TorchScript."""

    def write(path: Path) -> None:
        torch.manual_seed(0)
        net = randomized(build())
        config = getattr(net, "pretrained_cfg", None)
        height = config["input_size"][1] if config else 224
        example = torch.randn(2, 3, height, height)
        if dynamo:
            batch = torch.export.Dim("batch", min=1, max=1024)
            program = torch.onnx.export(net, (example,), dynamo=True, verbose=False, opset_version=opset,
                                        dynamic_shapes=[{0: batch}])  # fmt: skip
            assert program is not None
            program.save(str(path), external_data=False)
        else:
            axes = {0: "N", 2: "H", 3: "W"} if any_size else {0: "N"}
            torch.onnx.export(net, (example,), str(path), dynamo=False, opset_version=opset, input_names=["pictures"],
                              dynamic_axes={"pictures": axes})  # fmt: skip

    return write


def half(source: Callable[[Path], None], *, keep_io: bool) -> Callable[[Path], None]:
    """In float16, by ONNX Runtime's converter."""

    def write(path: Path) -> None:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        source(path)
        onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=keep_io), path)

    return write


def eight_bits(source: Callable[[Path], None], *, per_channel: bool) -> Callable[[Path], None]:
    """Quantized to 8 bits, QuantizeLinear and DequantizeLinear around every operation, by ONNX Runtime's quantizer."""

    def write(path: Path) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        source(path)
        given = onnx.load(path).graph.input[0]
        side = given.type.tensor_type.shape.dim[2].dim_value

        class Random(CalibrationDataReader):
            def __init__(self) -> None:
                rng = np.random.default_rng(0)
                self.batches = iter(rng.normal(size=(4, 2, 3, side, side)).astype(np.float32))

            def get_next(self) -> dict[str, np.ndarray] | None:
                batch = next(self.batches, None)
                return None if batch is None else {given.name: batch}

        quantize_static(path, path.with_suffix(".q"), Random(), quant_format=QuantFormat.QDQ, per_channel=per_channel,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
        path.with_suffix(".q").replace(path)

    return write


class UnitLength(nn.Module):
    """A cosine classifier: features and weights of length 1, times a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 64, 7, 4, 3), nn.ReLU(), nn.Conv2d(64, 128, 3, 2, 1), nn.ReLU())
        self.weight = nn.Parameter(torch.randn(100, 128))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.normalize(self.trunk(x).mean((2, 3)))
        return 16 * pooled @ nn.functional.normalize(self.weight).T


def by_hand(name: str, opset: int | None = None) -> Callable[[Path], None]:
    """One of the tests' graphs."""

    def write(path: Path) -> None:
        sys.path.insert(0, str(HERE.parent / "tests" / "surgery"))
        import classifiers

        onnx.save(classifiers.classifier(name, opset), path)

    return write


def written(source: Path) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(source.read_bytes()) and None


OLD, NEW = "PyTorch, TorchScript", "PyTorch, torch.export"


def entries() -> list[Entry]:
    """All but Keras'."""
    old, new = ({"dynamo": False}, {"dynamo": True})
    mobile = by_torch(timm_model("mobilenetv2_100"), 17, **old)
    small = by_torch(resnet18, 17, **old)
    regnet = by_torch(timm_model("regnety_002"), 14, **old)
    all_classes, top = ExportOptions(), ExportOptions(top=5)
    return [
        Entry(NEW, "resnet50", by_torch(resnet50, 18, **new), limit=1.05, pairs=25),
        Entry(OLD, "resnet50", by_torch(resnet50, 17, **old), limit=1.05, pairs=25),
        Entry(OLD, "mobilenetv2_100, top 5", mobile, "affine", top, 1.03, 60),
        Entry(OLD, "mobilenetv2_100", mobile, "affine", all_classes),
        Entry(NEW, "mobilenetv2_100, top 5", by_torch(timm_model("mobilenetv2_100"), 20, **new), "affine", top, 1.03,
              60),
        Entry(OLD, "squeezenet1_1", by_torch(torchvision_model("squeezenet1_1"), 11, **old)),
        Entry(OLD, "densenet121", by_torch(torchvision_model("densenet121"), 12, **old)),
        Entry(OLD, "mnasnet0_5", by_torch(torchvision_model("mnasnet0_5"), 13, **old)),
        Entry(NEW, "shufflenet_v2_x0_5", by_torch(torchvision_model("shufflenet_v2_x0_5"), 18, **new)),
        Entry(NEW, "googlenet", by_torch(torchvision_model("googlenet"), 21, **new)),
        Entry(NEW, "swin_t", by_torch(torchvision_model("swin_t"), 20, **new)),
        Entry(NEW, "efficientnet_b0", by_torch(timm_model("efficientnet_b0"), NEWEST, **new)),
        Entry(OLD, "dpn48b", by_torch(timm_model("dpn48b"), 16, **old)),
        Entry(OLD, "edgenext_xx_small", by_torch(timm_model("edgenext_xx_small"), 13, **old), "normalized"),
        Entry(NEW, "test_convnext", by_torch(timm_model("test_convnext"), 22, **new), "normalized"),
        Entry(OLD, "poolformer_s12", by_torch(timm_model("poolformer_s12"), 17, **old), "normalized"),
        Entry(NEW, "efficientformer_l1", by_torch(timm_model("efficientformer_l1"), 20, **new)),
        Entry(OLD, "resmlp_12_224", by_torch(timm_model("resmlp_12_224"), 14, **old)),
        Entry(OLD, "mixer_s32_224", by_torch(timm_model("mixer_s32_224"), 15, **old)),
        Entry(OLD, "pvt_v2_b0", by_torch(timm_model("pvt_v2_b0"), 18, **old)),
        Entry(NEW, "mobilevit_xxs", by_torch(timm_model("mobilevit_xxs"), 19, **new)),
        Entry(OLD, "vit_tiny_patch16_224, mean of tokens",
              by_torch(timm_model("vit_tiny_patch16_224", global_pool="avg"), 17, **old), "normalized"),
        Entry(OLD, "resnet18, any height and width", by_torch(resnet18, 17, **old, any_size=True)),
        Entry(OLD, "cosine classifier", by_torch(UnitLength, 17, **old), "normalized"),
        Entry("float16 converter", "regnety_002", half(regnet, keep_io=False)),
        Entry("float16 converter", "resnet18, float32 in and out", half(small, keep_io=True)),
        Entry("QDQ quantizer", "resnet18", eight_bits(small, per_channel=False)),
        Entry("QDQ quantizer", "mobilenetv2_100, by channel", eight_bits(mobile, per_channel=True)),
        Entry("by hand", "sum_pooling", by_hand("sum_pooling", 11)),
        Entry("by hand", "group_norm_in_parts", by_hand("group_norm_in_parts", 12), "normalized"),
        Entry("by hand", "tokens_without_the_class_token", by_hand("tokens_without_the_class_token", 13)),
        Entry("by hand", "flattened_grid", by_hand("flattened_grid", 21)),
        Entry("by hand", "two_heads_averaged", by_hand("two_heads_averaged", 22)),
        Entry("by hand", "rms_norm", by_hand("rms_norm", newest_opset()), "normalized"),
        Entry(OLD, "test_vit", by_torch(timm_model("test_vit"), 17, **old), "refused"),
        Entry(OLD, "mobilenetv3_small_050", by_torch(timm_model("mobilenetv3_small_050"), 17, **old), "refused"),
        Entry("by hand", "max_pooling", by_hand("max_pooling"), "refused"),
    ]  # fmt: skip


def newest_opset() -> int:
    """The newest that this ONNX Runtime runs."""
    for opset in range(onnx.defs.onnx_opset_version(), 20, -1):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.onnx"
            by_hand("gemm", opset)(path)
            try:
                session(path)
            except Exception:
                continue
            return opset
    raise SystemExit("this ONNX Runtime is older than opset 21")


def of_keras(python: str, folder: Path) -> Iterator[Entry]:
    subprocess.run([python, str(HERE / "surgery_keras.py"), str(folder)], check=True, stdout=subprocess.DEVNULL)
    for path in sorted(folder.glob("*.onnx")):
        origin, name, _ = path.name.split(".")
        kind = "refused" if name in ("VGG16", "MobileNetV3Small") else "affine"
        yield Entry("Keras, model.export" if origin == "keras" else origin, name, written(path), kind)


# --- Measuring --------------------------------------------------------------------------------------------------------


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def slowdown(old: Path, new: Path, feed: np.ndarray, pairs: int) -> float | None:
    """Median of processor times, new over old; None for graphs too quick to tell."""
    sessions = session(old), session(new)
    name = sessions[0].get_inputs()[0].name

    def seconds(one: Any, times: int) -> float:
        begun = time.process_time()
        for _ in range(times):
            one.run(None, {name: feed})
        return time.process_time() - begun

    once = min(min(seconds(one, 1) for one in sessions) for _ in range(3))
    if once < 1e-3:
        return None
    times = max(1, round(0.05 / once))
    ratios = []
    for pair in range(pairs):
        taken = {one: seconds(one, times) for one in (sessions if pair % 2 else sessions[::-1])}
        ratios.append(taken[sessions[1]] / taken[sessions[0]])
    return float(np.median(ratios))


def measure(entry: Entry, folder: Path) -> Row:
    old, new = folder / "old.onnx", folder / "new.onnx"
    entry.make(old)
    opset = str(onnx.load(old, load_external_data=False).opset_import[0].version)
    start = (entry.origin, entry.name, opset)
    try:
        made = export(old, new, entry.options)
    except ExportError as error:
        why = str(error).split(": ", 2)[-1].partition(";")[0]
        cells = (*start, f"refused: {why}", "", "", "", *("" for _ in BATCHES))
        return Row(cells, "" if entry.kind == "refused" else f"refused: {error}")
    graph = made.facts.graph
    kind = "normalized" if "statistics" in made.facts.head else "affine"
    fault = "" if kind == entry.kind else f"its head was found {kind}, but is {entry.kind}"
    costs = []
    for batch in BATCHES:
        if graph.batch not in (None, batch):
            costs.append("")
            continue
        ratio = slowdown(old, new, graph.example(batch), entry.pairs)
        costs.append("–" if ratio is None else f"{ratio:.3f}")
        if ratio is not None and entry.limit is not None and ratio > entry.limit:
            fault = fault or f"costs {ratio:.3f} at batch {batch}, above {entry.limit}"
    size = old.stat().st_size
    cells = (
        *start, f"{kind}, {made.facts.pooling.split(' ')[0]}", made.facts.features, f"{made.check.residual:.0e}",
        f"{made.bytes_added / 1e3:.1f} ({made.bytes_added / size:.2%})", *costs,
    )  # fmt: skip
    return Row(cells, fault)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keras", metavar="PYTHON", help="an interpreter that has tensorflow and tf2onnx")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME")
    parser.add_argument("--write", action="store_true", help="write surgery.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "keras"
        folder.mkdir()
        every = entries() + (list(of_keras(arguments.keras, folder)) if arguments.keras else [])
        for entry in every:
            if arguments.only and not any(entry.name.startswith(one) for one in arguments.only):
                continue
            rows.append(measure(entry, Path(scratch)))
            print(" | ".join(rows[-1].cells), rows[-1].fault and f"FAULT: {rows[-1].fault}", flush=True)
    if arguments.write:
        (HERE / "surgery.md").write_text(table(rows))
    sys.exit(int(any(row.fault for row in rows)))


def table(rows: Sequence[Row]) -> str:
    head = ("origin", "classifier", "opset", "head, pooling", "features", "residual", "kB added",
            *(f"slowdown, batch {batch}" for batch in BATCHES))  # fmt: skip
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *(row.cells for row in rows))]
    given = sum(not row.cells[3].startswith("refused") for row in rows)
    return f"""# Maps for ONNX classifiers of many origins

Written by `python benchmarks/surgery.py --keras PYTHON --write`; onnx {onnx.__version__}, onnxruntime \
{onnxruntime.__version__}, torch {torch.__version__}. {given} classifiers were given maps, \
{len(rows) - given} were refused in words. The residual is |Σ map + bias − logit| over the spread of the logits, the \
worst of random pictures and a real one; float32 must stay below 1e-4, float16 below 2e-2, 8 bits below 5e-2. The \
slowdown is a ratio of processor times on one thread, the median over pairs of runs. "–": under a millisecond.

{chr(10).join(lines)}
"""


if __name__ == "__main__":
    main()
