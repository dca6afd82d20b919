"""Are our maps those of grad-cam 1.5.7 and torchcam 0.5.0, and where not, why?

    pip install 'camlucida[zoo]' grad-cam==1.5.7 torchcam==0.5.0
    python benchmarks/peers.py             the table
    python benchmarks/peers.py --write     also to peers.md

Maps are compared on the features' own grid, before the peers resize them, after what the peers do to all maps: relu,
then minimum and maximum to 0 and 1. Where they differ, the reason is put to the test: our map is computed with that
change alone (or the peer's without it), and must then be the other's. Exit status 1: an unexplained difference.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peers_changed as changed
import pytorch_grad_cam as gc
import torch
import torchcam.methods as tc
from pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerVit
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from resnet import resnet18
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from camlucida import Explainer, sample
from camlucida.images.preprocess import Preprocess
from camlucida.methods.registry import find_method

HERE = Path(__file__).parent
SAME = 1e-4
SAMPLES = 4


@dataclass(frozen=True)
class Case:
    """A network, its last features' layer, and a class for each picture; ``tokens``: a class token and 14×14 others."""

    name: str
    model: Any
    layer: str
    batch: Tensor
    ids: tuple[int, ...]
    tokens: bool = False


@dataclass(frozen=True)
class Row:
    """A method and a peer; ``changed``, given a case and the peer's map, gives the pair that must agree."""

    method: str
    peer: str
    theirs: Callable[[Case], Tensor]
    ours: Callable[[Case], Tensor]
    on: str
    why: str = ""
    changed: Callable[[Case, Tensor], tuple[Tensor, Tensor]] | None = None
    relu: bool = True
    fails: type[Exception] | None = None


def pictures() -> Tensor:
    """The sample picture, smooth random colours, and noise around a disk; (3, 3, 224, 224)."""
    seed = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.randn(1, 3, 9, 9, generator=seed), (224, 224), mode="bicubic")
    y, x = torch.meshgrid(torch.linspace(-1, 1, 224), torch.linspace(-1, 1, 224), indexing="ij")
    disk = torch.where((x - 0.3) ** 2 + y**2 < 0.2, 1.5, 0.2 * torch.randn(1, 3, 224, 224, generator=seed))
    cat = torch.from_numpy(Preprocess((224, 224))(sample().pixels)[0])[None]
    return torch.cat((cat, smooth, disk))


def cases() -> dict[str, Case]:
    """A ResNet-18, one whose head is an MLP on the flattened features, one without the last ReLU, and a ViT."""
    torch.manual_seed(0)
    batch = pictures()
    pooled = resnet18(20, 16)
    flat = copy.deepcopy(pooled)
    flat.pool, flat.fc = nn.Identity(), nn.Sequential(nn.Linear(128 * 49, 64), nn.GELU(), nn.Linear(64, 20))
    vit = VisionTransformer(224, 16, 4, 4, 64, 128, num_classes=20).eval()
    for linear in (pooled.fc, flat.fc[2], vit.heads[0]):
        nn.init.normal_(linear.weight, 0, 0.3)
    signed = copy.deepcopy(pooled)
    signed.layer4[-1].relu = nn.Identity()
    found = {}
    for name, model, layer in (("linear", pooled, "layer4"), ("MLP", flat, "layer4"), ("signed", signed, "layer4"),
                               ("ViT", vit, "encoder.layers.encoder_layer_3.ln_1")):  # fmt: skip
        with torch.no_grad():
            logits = model(batch)
        found[name] = Case(name, model, layer, batch, tuple(logits.argmax(1).tolist()), name == "ViT")
        low = f"{name}, lowest class"
        found[low] = replace(found[name], name=low, ids=tuple(logits.argmin(1).tolist()))
    return found


def ours(case: Case, method: Any, *, score: Any = None, layer: bool = True) -> Tensor:
    """Our map (B, *grid) of each picture's class, or of a score."""
    explainer = Explainer(case.model, method=method, layer=case.layer if layer else None)
    classes = np.array(case.ids)[:, None] if score is None else score
    return torch.from_numpy(explainer(case.batch, classes).maps[:, 0])


def on_grid(tokens: Tensor) -> Tensor:
    """The ViT's tokens without the class token, (B, C, 14, 14)."""
    return tokens[:, 1:].mT.unflatten(2, (14, 14))


def prepared(case: Case) -> tuple[Any, nn.Module, Any]:
    """A copy for a peer, with its layer and the peer's reshape."""
    model = copy.deepcopy(case.model)
    return model, model.get_submodule(case.layer), on_grid if case.tokens else None


def grad_cam(case: Case, kind: Any, **options: Any) -> Tensor:
    """grad-cam's map before it is rectified, scaled and resized."""
    model, layer, reshape = prepared(case)
    cam = kind(model, [layer], reshape_transform=reshape, **options)
    base, seen = getattr(cam, "base_cam", cam), []
    inner = base.get_cam_image

    def record(*args: Any) -> Any:
        seen.append(inner(*args))
        return seen[0]

    base.get_cam_image = record
    targets = None if base is not cam else [ClassifierOutputTarget(one) for one in case.ids]
    try:
        cam(case.batch.clone(), targets)
    finally:
        base.activations_and_grads.gradients = []  # which its __del__ may stumble over
    return torch.as_tensor(np.asarray(seen[0]))


def full_grad(case: Case) -> Tensor:
    """grad-cam's FullGrad at the input, before the last scaling."""
    cam = gc.FullGrad(copy.deepcopy(case.model), [])
    inner, seen = cam.compute_cam_per_layer, []
    cam.compute_cam_per_layer = lambda *args: seen.append(inner(*args)) or seen[0]
    cam(case.batch.clone(), [ClassifierOutputTarget(one) for one in case.ids])
    return torch.as_tensor(np.asarray(seen[0]))[:, 0]


def full_grad_whole(case: Case, _: Tensor) -> tuple[Tensor, Tensor]:
    with changed.whole_layer_scaling():
        return full_grad(case), ours(case, "fullgrad-saliency")


def guided(case: Case) -> Tensor:
    """grad-cam's guided backpropagation, the largest of the channels, one picture at a time."""
    model = gc.GuidedBackpropReLUModel(copy.deepcopy(case.model), "cpu")
    maps = [model(one[None].clone(), c) for one, c in zip(case.batch, case.ids, strict=True)]
    return torch.from_numpy(np.abs(np.stack(maps)).max(3))


def torchcam(case: Case, kind: Any, **options: Any) -> Tensor:
    """The map of torchcam before it is scaled."""
    model, layer, reshape = prepared(case)
    if reshape:
        options["reshape_transform"] = reshape
    with kind(model, layer, **options) as cam:
        if kind is tc.SmoothGradCAMpp:
            cam._distrib = changed.Recorded(case.batch, SAMPLES)
        scores = model(case.batch)
        maps: Tensor = cam(list(case.ids), scores, normalized=False)[0]
        return maps.detach()


def le_grad(case: Case, *, class_token: bool = False) -> Tensor:
    """The LeGrad map of torchcam, of all layers."""
    model = copy.deepcopy(case.model)
    project = changed.class_token_scores(model) if class_token else None
    with tc.LeGrad(model, list(model.encoder.layers), score_projection=project) as cam:
        scores = model(case.batch)
        maps: Tensor = cam(list(case.ids), scores, normalized=False)[0]
        return maps.detach()


def ablation(case: Case, *, zero: bool = False, batch: int = 32) -> Tensor:
    """grad-cam's Ablation-CAM, or the same with channels at zero."""
    kind = AblationLayerVit if case.tokens else AblationLayer
    layer = changed.ablated_to_zero(kind) if zero else kind()
    return grad_cam(case, gc.AblationCAM, ablation_layer=layer, batch_size=batch)


def ablation_mended(case: Case, _: Tensor) -> tuple[Tensor, Tensor]:
    """Channels at zero, and the drop multiplied with the score by which it was divided."""
    with torch.no_grad():
        logits = case.model(case.batch)
    score = logits.gather(1, torch.tensor(case.ids)[:, None])[:, :, None]
    return ablation(case, zero=True) * score, ours(case, "ablationcam")


def turned(method: Any, case: Case, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Our map with the sign of the peer's."""
    mine = ours(case, method)
    sign = (mine.double() * (theirs - theirs.mean((1, 2), keepdim=True))).sum((1, 2), keepdim=True).sign()
    return theirs, mine * sign


def with_change(method: Any, case: Case, theirs: Tensor) -> tuple[Tensor, Tensor]:
    return theirs, ours(case, method)


def rows() -> Iterator[Row]:
    """Every method that we and a peer have."""
    every = "linear, MLP, ViT"
    for name, kind in (("gradcam", gc.GradCAM), ("hirescam", gc.HiResCAM), ("xgradcam", gc.XGradCAM),
                       ("layercam", gc.LayerCAM), ("gradcam-elementwise", gc.GradCAMElementWise)):  # fmt: skip
        yield Row(name, "grad-cam", partial(grad_cam, kind=kind), partial(ours, method=name), every)
    for name, kind in (("gradcam", tc.GradCAM), ("xgradcam", tc.XGradCAM), ("layercam", tc.LayerCAM)):
        yield Row(name, "torchcam", partial(torchcam, kind=kind), partial(ours, method=name), every)
    yield Row("cam", "torchcam", partial(torchcam, kind=tc.CAM), partial(ours, method="cam"), "linear", relu=False)

    def row(name: str, peer: str, theirs: Any, on: str, why: str, change: Any, **more: Any) -> Row:
        change = partial(with_change, change) if getattr(change, "__module__", "") == changed.__name__ else change
        return Row(name, peer, theirs, partial(ours, method=more.pop("with_options", name), **more), on, why, change)

    def finer(score: Any) -> Any:
        return lambda case, theirs: (theirs, ours(case, "gradcam", score=score))

    plus = partial(grad_cam, kind=gc.GradCAMPlusPlus)
    yield row("gradcam++", "grad-cam", plus, every, "1e-6 is added to α's denominator, beside squared gradients of "
              "that size", changed.eps_gradcam_plus_plus)  # fmt: skip
    yield row("gradcam++", "torchcam", partial(torchcam, kind=tc.GradCAMpp), every, "α stays g²: it is divided in "
              "place on a copy made by indexing", changed.undivided_gradcam_plus_plus)  # fmt: skip
    few = partial(find_method("smoothgradcam++").compute, samples=SAMPLES)
    last = partial(changed.last_pass_smooth, samples=SAMPLES)
    yield row("smoothgradcam++", "torchcam", partial(torchcam, kind=tc.SmoothGradCAMpp, num_samples=SAMPLES),
              "linear, MLP", "A and relu(g) are the last noisy input's, and Σ A g³ stands for g³ Σ A (same "
              "noise given to both)",
              lambda case, theirs: (theirs, ours(case, last)), with_options=few)  # fmt: skip
    yield row("eigengradcam", "grad-cam", partial(grad_cam, kind=gc.EigenGradCAM), every, "the sign is whatever the "
              "decomposition returned", partial(turned, "eigengradcam"))  # fmt: skip
    yield row("eigencam", "grad-cam", partial(grad_cam, kind=gc.EigenCAM), every, "features are centred first, which "
              "the paper does not, and the sign is whatever came",
              partial(turned, changed.centred_eigencam))  # fmt: skip
    yield row("kpcacam", "grad-cam", partial(grad_cam, kind=gc.KPCA_CAM), every, "the sign is that of the component's "
              "largest entry, not that of the activations", partial(turned, "kpcacam"))  # fmt: skip
    yield row("fem", "grad-cam", partial(grad_cam, kind=gc.FEM), every, "activations weighted with the share of strong "
              "cells; the paper weights the strong cells with the mean", changed.fraction_fem)  # fmt: skip
    yield row("shapleycam", "grad-cam", partial(grad_cam, kind=gc.ShapleyCAM), "linear, MLP", "", None)
    yield Row("shapleycam", "grad-cam", partial(grad_cam, kind=gc.ShapleyCAM), partial(ours, method="shapleycam"),
              "ViT", "it raises: attention on CPU has no second derivative; where it has one, tokens are not "
              "reshaped", fails=RuntimeError)  # fmt: skip
    yield row("finercam", "grad-cam", partial(grad_cam, kind=gc.FinerCAM), "linear", "the rivals' probabilities are "
              "not held: the gradient goes through them", finer(changed.moving_finer()))  # fmt: skip
    yield row("finercam", "torchcam", partial(torchcam, kind=tc.FinerCAM), "linear", "rivals count alike, not by "
              "probability, and 0.6 of them", finer(changed.uniform_finer()))  # fmt: skip
    yield row("scorecam", "grad-cam", partial(grad_cam, kind=gc.ScoreCAM), every, "masks are upsampled with "
              "align_corners", changed.align_corners_score_cam)  # fmt: skip
    yield row("scorecam", "torchcam", partial(torchcam, kind=tc.ScoreCAM), every, "masks are scaled before they are "
              "upsampled", changed.early_scaled_score_cam)  # fmt: skip
    early = partial(changed.early_scaled_score_cam, steps=SAMPLES)
    yield row("iscam", "torchcam", partial(torchcam, kind=tc.ISCAM, num_samples=SAMPLES), "linear", "masks are scaled "
              "before they are upsampled, and the sum has one step more (j ≤ i for the paper's j < i)",
              lambda case, theirs: (theirs, ours(case, early)),
              with_options=partial(find_method("iscam").compute, steps=SAMPLES))  # fmt: skip
    yield row("ablationcam", "grad-cam", ablation, "linear, MLP", "", None)
    yield row("ablationcam", "grad-cam", ablation, "linear, lowest class", "the drop is divided by the score, and so "
              "the map turned over where that is negative", ablation_mended)  # fmt: skip
    yield row("ablationcam", "grad-cam", ablation, "signed", "channels are set to the minimum less 1e7, and less again "
              "at each place of the batch", ablation_mended)  # fmt: skip
    yield row("ablationcam", "grad-cam", ablation, "ViT", "channels are set to the minimum less 1e7, in the class "
              "token too", ablation_mended)  # fmt: skip
    yield row("fullgrad-saliency", "grad-cam", full_grad, "linear", "each channel is scaled to [0, 1] by itself, "
              "however weak; the paper scales a layer", full_grad_whole)  # fmt: skip
    yield row("guided-backprop", "grad-cam", guided, "linear, MLP", "", None, layer=True)
    yield row("legrad", "torchcam", le_grad, "ViT", "a layer's score reads the mean of all tokens, the model its class "
              "token", lambda case, _: (le_grad(case, class_token=True), ours(case, "legrad", layer=False)),
              layer=False)  # fmt: skip


def shown(maps: Tensor, relu: bool) -> Tensor:
    """What the peers do to maps (B, h, w): minimum and maximum to 0 and 1."""
    maps = maps.double().relu() if relu else maps.double()
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-300)


def compared(one: Tensor, other: Tensor, relu: bool = True) -> tuple[float, float]:
    """Of the pictures the least correlation, and the largest difference."""
    one, other = shown(one, relu), shown(other, relu)
    pairs = [torch.stack(pair) for pair in zip(one.flatten(1), other.flatten(1), strict=True)]
    correlation = min(float(torch.corrcoef(pair)[0, 1].nan_to_num()) for pair in pairs)
    return correlation, float((one - other).abs().max())


TITLES = ("method", "peer", "network", "correlation", "largest difference", "agrees", "reason", "without it")


def line(row: Row, case: Case) -> tuple[list[str], bool]:
    """The table's line, and whether all is explained."""
    if row.fails:
        try:
            row.theirs(case)
        except row.fails:
            return [row.method, row.peer, case.name, "", "", "no", row.why, ""], True
        return [row.method, row.peer, case.name, "", "", "?", f"not as expected: {row.why}", ""], False
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        theirs = row.theirs(case)
        correlation, difference = compared(theirs, row.ours(case), row.relu)
        agrees = difference <= SAME
        rectified = row.peer == "torchcam" and row.relu  # grad-cam's maps are seen before that
        left = None if agrees or row.changed is None else compared(*row.changed(case, theirs), rectified)[1]
    good = agrees or (left is not None and left <= SAME)
    cells = [row.method, row.peer, case.name, f"{correlation:.4f}", f"{difference:.0e}", "yes" if agrees else "no",
             "" if agrees else row.why or "?", "" if left is None else f"{left:.0e}"]  # fmt: skip
    return cells, good


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare; the exit status."""
    parser = argparse.ArgumentParser(description="Are our maps the peers', and where not, why?")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="these methods alone")
    parser.add_argument("--write", action="store_true", help="write the table to peers.md")
    asked = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    known, good = cases(), True
    lines = ["| " + " | ".join(TITLES) + " |", "|" + " --- |" * len(TITLES)]
    print(*lines, sep="\n")
    for row in rows():
        names = [row.on] if row.on in known else row.on.split(", ")
        for name in names if asked.only is None or row.method in asked.only else ():
            cells, explained = line(row, known[name])
            lines.append("| " + " | ".join(cells) + " |")
            good &= explained
            print(lines[-1] + ("" if explained else "  <- UNEXPLAINED"), flush=True)
    if asked.write:
        text = [
            "# Our maps and the peers'", "",
            f"Made by `benchmarks/peers.py --write` with torch {torch.__version__}, grad-cam 1.5.7 and torchcam 0.5.0. "
            "Random weights, three pictures, the class with the highest logit unless it says otherwise, CPU, float32. "
            "Networks: a ResNet-18 with a linear head; the same with an MLP on its flattened features; "
            "one without the last ReLU (signed); a ViT of four layers, at the last layer's first normalization.", "",
            "Correlation and largest difference of the maps on the features' grid, after relu and minimum and "
            "maximum to 0 and 1, the worst picture. They agree within 1e-4. Without it: the difference that is left "
            "once the stated reason alone is put into our map, or taken out of the peer's (grad-cam's maps before "
            "relu).", "",
            *lines, "",
            "Not compared: SS-CAM, which differs in its random noise, and deep feature factorization, which grad-cam "
            "starts at random.",
        ]  # fmt: skip
        (HERE / "peers.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
