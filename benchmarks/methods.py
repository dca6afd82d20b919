"""What each method costs, in plain forward passes of the same batch; the peers' figures beside.

    python benchmarks/methods.py                       everything (about twenty minutes)
    python benchmarks/methods.py --only gradcam cam    these methods alone, without the peers
    python benchmarks/methods.py --threads 2           wall time with two threads, instead of processor time with one
    python benchmarks/methods.py --write               also the tables, to methods.md

A plain pass is the model under ``torch.inference_mode()``. Passes and methods take turns, and a method's ratio is its
time over the mean of the passes just before and after it. With one thread (the default) time is the process's own,
which other programs on the machine hardly change. Methods run as users run them: ``Explainer(model)(batch, classes)``.
The peers are grad-cam 1.5.7 and torchcam 0.5.0; without them their lines are left out. Exit status 1: over a budget.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from resnet import resnet18, resnet50
from torch import Tensor, nn

from camlucida import Explainer
from camlucida.methods.registry import METHODS

HERE = Path(__file__).parent
Options = dict[str, Any]
Ratios = dict[str, tuple[float, float]]
Passes = dict[str, tuple[Options, int, int, str]]
PEERS = all(importlib.util.find_spec(name) for name in ("pytorch_grad_cam", "torchcam"))
TEN = tuple(range(10))
LAST = 1.05, 1.10
FASTER = 1.3
# Ratios for one class and for ten at once, ResNet-50, batch 8.
AT_THE_FEATURES: Ratios = {
    **dict.fromkeys(
        ("cam", "contrastive-cam", "finercam", "gradcam", "hirescam", "xgradcam", "gradcam++", "layercam",
         "gradcam-elementwise", "eigengradcam", "shapleycam", "eigencam", "kpcacam", "fem", "random", "centre"), LAST),
    "ablationcam": (1.5, 1.5), "reciprocam": (1.1, 1.1), "dff": (3, 3),
}  # fmt: skip
# A backward pass to the input costs about a forward pass, with its graph somewhat more; each class has its own.
THROUGH_THE_NETWORK: Ratios = {
    "gradient": (4, 20), "gradient-x-input": (5, 21), "guided-backprop": (5, 24), "guided-gradcam": (5, 24),
    "fullgrad": (6, 34), "fullgrad-saliency": (6, 34),
}  # fmt: skip
OF_ATTENTION: Ratios = {"rollout": (3, 3), "gradient-rollout": (6, 20), "legrad": (6, 20), "tscam": (3.5, 4)}
# Options, promised forward passes, backward passes through the network, and what the options leave out.
MANY_PASSES: Passes = {
    "smoothgradcam++": ({}, 17, 0, ""),
    "integrated-gradcam": ({}, 51, 0, ""),
    "smoothgrad": ({}, 51, 50, ""),
    "integrated-gradients": ({}, 52, 50, ""),
    "opticam": ({"steps": 20}, 21, 20, "20 steps of 100"),
    "occlusion": ({}, 198, 0, ""),
    "rise": ({"samples": 200}, 202, 0, "200 masks of 4000"),
    "groupcam": ({}, 35, 0, ""),
    "faster-scorecam": ({}, 13, 0, ""),
}
# The Score-CAM family has a pass a channel: ResNet-18, whose 512 channels are fewer than ResNet-50's 2048.
OF_CHANNELS: Passes = {
    "scorecam": ({}, 515, 0, "ResNet-18"),
    "sscam": ({"samples": 1}, 515, 0, "ResNet-18, 1 noise of 10"),
    "iscam": ({"steps": 2}, 515, 0, "ResNet-18, 1 pass a channel of 9"),
}
A_FORWARD, A_BACKWARD = 1.2, 2.2  # budget for each promised pass; backward, with what its forward pass keeps


@dataclass(frozen=True)
class Job:
    """Something to time against plain passes of ``model`` on ``batch``; ``budget`` None: reported, not judged."""

    name: str
    classes: int
    run: Callable[[], object]
    budget: float | None
    rounds: int
    note: str = ""


@dataclass(frozen=True)
class Cost:
    """Ratios to a plain pass."""

    job: Job
    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def verdict(self) -> str:
        if self.job.budget is None:
            return ""
        return "OK" if self.median <= self.job.budget else "FAIL"

    def cells(self) -> list[str]:
        budget = "" if self.job.budget is None else f"{self.job.budget:.4g}"
        low, high = min(self.ratios), max(self.ratios)
        return [self.job.name, str(self.job.classes), f"{low:.3f}", f"{self.median:.3f}", f"{high:.3f}",
                str(len(self.ratios)), budget, self.verdict, self.job.note]  # fmt: skip


TITLES = ("method", "classes", "min", "median", "max", "runs", "budget", "", "note")


def seconds(run: Callable[[], object]) -> float:
    """How long it takes; the process's own time where it has one thread."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    return clock() - start


def plain(model: nn.Module, batch: Tensor) -> None:
    with torch.inference_mode():
        model(batch)


def measure(model: nn.Module, batch: Tensor, jobs: Sequence[Job]) -> Iterator[Cost]:
    """Each job between plain passes, in turns."""
    reference = partial(plain, model, batch)
    found: dict[int, list[float]] = {number: [] for number in range(len(jobs))}
    reference()
    before = seconds(reference)
    for turn in range(max((job.rounds for job in jobs), default=0)):
        for number, job in enumerate(jobs):
            if turn < job.rounds:
                took = seconds(job.run)
                after = seconds(reference)
                found[number].append(2 * took / (before + after))
                before = after
    for number, job in enumerate(jobs):
        yield Cost(job, tuple(found[number]))


def ours(
    model: nn.Module, batch: Tensor, name: str, classes: Sequence[int], options: Options | None = None
) -> Callable[[], object]:
    """A method as users call it, its split found beforehand."""
    explainer = Explainer(model, method=partial(METHODS[name].compute, **options) if options else name)
    explainer.runner.facts(batch)
    return partial(explainer, batch, list(classes))


def table_jobs(
    model: nn.Module, batch: Tensor, table: Ratios, names: Sequence[str], rounds: tuple[int, int]
) -> list[Job]:
    """Jobs of one class and of ten."""
    jobs = []
    for name, budgets in table.items():
        for classes, budget, turns in zip((TEN[:1], TEN), budgets, rounds, strict=True):
            if name in names:
                job = Job(name, len(classes), ours(model, batch, name, classes), budget, turns)
                if turns > 1:
                    job.run()
                jobs.append(job)
    return jobs


def pass_jobs(model: nn.Module, batch: Tensor, table: Passes, names: Sequence[str]) -> list[Job]:
    """Jobs of methods that send many inputs through the network: a budget for each promised pass."""
    jobs = []
    for name, (options, forward, backward, note) in table.items():
        if name in names:
            run = ours(model, batch, name, TEN[:1], options)
            jobs.append(Job(name, 1, run, A_FORWARD * forward + A_BACKWARD * backward, 1, note))
    return jobs


@contextmanager
def counted(model: nn.Module) -> Iterator[list[int]]:
    """The sizes of the batches that go through the model."""
    sizes: list[int] = []
    handle = model.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    try:
        yield sizes
    finally:
        handle.remove()


def count(model: nn.Module, job: Job, promised: int) -> Job:
    """The job, once it has been seen to send no more inputs through the network than promised."""

    def run() -> None:
        with counted(model) as sizes:
            job.run()
        if sum(sizes) > promised:
            sys.exit(f"{job.name} sent {sum(sizes)} inputs through the network, {promised} were promised")

    note = f"{promised} passes; {job.note}" if job.note else f"{promised} passes"
    return replace(job, run=run, note=note)


def peer_jobs(model: nn.Module, batch: Tensor) -> list[Job]:
    """Grad-CAM by the peers; ten classes as their documentation has it, one call after the other."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from torchcam.methods import GradCAM as TorchCAM

    first, second = copy.deepcopy(model), copy.deepcopy(model)
    theirs = GradCAM(first, [first.layer4])
    extractor = TorchCAM(second, second.layer4)

    def grad_cam(classes: Sequence[int]) -> None:
        for one in classes:
            theirs(batch, [ClassifierOutputTarget(one)] * len(batch))

    def torchcam(classes: Sequence[int]) -> None:
        scores = second(batch)
        for one in classes:
            extractor(one, scores, retain_graph=one != classes[-1])

    return [
        Job("grad-cam GradCAM", 1, partial(grad_cam, TEN[:1]), None, 3),
        Job("grad-cam GradCAM", 10, partial(grad_cam, TEN), None, 1),
        Job("torchcam GradCAM", 1, partial(torchcam, TEN[:1]), None, 5),
        Job("torchcam GradCAM", 10, partial(torchcam, TEN), None, 5),
    ]


def ablation_of_grad_cam(model: Any, picture: Tensor, channels: int = 64) -> Cost:
    """grad-cam's Ablation-CAM of some channels, extrapolated to all."""
    from pytorch_grad_cam import AblationCAM
    from pytorch_grad_cam.ablation_layer import AblationLayer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    class Some(AblationLayer):  # type: ignore[misc]
        def activations_to_be_ablated(self, activations: Any, ratio_channels_to_ablate: float = 1.0) -> Any:
            self.indices = super().activations_to_be_ablated(activations)[:channels]
            return self.indices

    own = copy.deepcopy(model)
    every = own.fc.in_features
    run = partial(AblationCAM(own, [own.layer4], ablation_layer=Some()), picture, [ClassifierOutputTarget(0)])
    note = f"one picture; {channels} channels, extrapolated to {every}"
    (cost,) = measure(own, picture, [Job("grad-cam AblationCAM", 1, run, None, 1, note)])
    return Cost(cost.job, tuple(ratio * every / channels for ratio in cost.ratios))


def score_cams(model: Any, picture: Tensor, size: int) -> dict[str, Callable[[], object]]:
    """Score-CAM of one class on the logits with ``size`` masked inputs in the network at once, by all three."""
    runs = {"camlucida": ours(model, picture, "scorecam", TEN[:1], {"batch": size, "activation": "none"})}
    if PEERS:
        from pytorch_grad_cam import ScoreCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
        from torchcam.methods import ScoreCAM as TorchScoreCAM

        first, second = copy.deepcopy(model), copy.deepcopy(model)
        theirs = ScoreCAM(first, [first.layer4])
        theirs.batch_size = size
        extractor = TorchScoreCAM(second, second.layer4, batch_size=size)

        def torchcam() -> None:
            with torch.inference_mode():
                second(picture)
            extractor(0)

        runs["torchcam"] = torchcam
        runs["grad-cam"] = lambda: theirs(picture, [ClassifierOutputTarget(0)])
    return runs


def score_cam_speed(rounds: int = 3) -> tuple[list[str], bool]:
    """Score-CAM's time in turns."""
    model, picture = resnet18(), torch.randn(1, 3, 224, 224)
    runs = score_cams(model, picture, 32)
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(seconds(run))
    lines, good = [], True
    for name, times in found.items():
        ratios = [one / own for one, own in zip(times, found["camlucida"], strict=True)]
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        verdict = "" if name == "camlucida" else "OK" if middle >= FASTER else "FAIL"
        good &= verdict != "FAIL"
        cells = (name, f"{statistics.median(times):.2f} s", f"{low:.2f}", f"{middle:.2f}", f"{high:.2f}",
                 "" if name == "camlucida" else f"{FASTER}", verdict)  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    titles = ("Score-CAM", "time", "ratio to ours: min", "median", "max", "at least", "")
    return ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles), *lines], good


def peak() -> float:
    """The most memory that this process has had, MiB."""
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if platform.system() == "Darwin" else 1 << 10)


def grown(job: str, size: int) -> float:
    """By how much Score-CAM (or a plain pass of ``size`` pictures) raises a fresh process's peak memory, MiB."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        with os.fdopen(read) as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        return float(said)
    torch.set_num_threads(1)
    model, picture = resnet18(), torch.randn(1, 3, 224, 224)
    runs = {"plain pass": partial(plain, model, torch.randn(size, 3, 224, 224)), **score_cams(model, picture, size)}
    plain(model, picture)
    before = peak()
    runs[job]()
    os.write(write, str(peak() - before).encode())
    os._exit(0)


def score_cam_memory() -> list[str]:
    """Peak memory in processes of their own. Call it before torch has started threads."""
    jobs = [("plain pass", 32), ("camlucida", 8), ("camlucida", 32)]
    if PEERS:
        jobs += [("torchcam", 32), ("grad-cam", 8), ("grad-cam", 32)]
    lines = [f"| {name} | {size} | {grown(name, size):.0f} MiB |" for name, size in jobs]
    titles = "| Score-CAM, 512 channels | inputs at once | peak memory, less a plain pass of one picture |"
    return [titles, "| --- | --- | --- |", *lines]


def costs(names: Sequence[str], peers: bool) -> Iterator[Cost]:
    """Every method's, as it is known."""
    model, batch = resnet50(), torch.randn(8, 3, 224, 224)
    jobs = table_jobs(model, batch, AT_THE_FEATURES, names, (5, 5))
    yield from measure(model, batch, [*jobs, *(peer_jobs(model, batch) if peers else ())])
    if peers:
        yield ablation_of_grad_cam(model, batch[:1])
    yield from measure(model, batch, table_jobs(model, batch, THROUGH_THE_NETWORK, names, (3, 1)))
    for table, network in ((MANY_PASSES, model), (OF_CHANNELS, resnet18())):
        for job in pass_jobs(network, batch[:1], table, names):
            yield from measure(network, batch[:1], [count(network, job, table[job.name][1])])
    attentive = [name for name in OF_ATTENTION if name in names]
    if attentive and importlib.util.find_spec("timm"):
        import timm

        transformer = timm.create_model("vit_small_patch16_224").eval()
        yield from measure(transformer, batch, table_jobs(transformer, batch, OF_ATTENTION, attentive, (5, 3)))


def main() -> int:
    """Measure what was asked; the exit status."""
    parser = argparse.ArgumentParser(description="What does each method cost, in plain forward passes?")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="these methods alone, without the peers")
    parser.add_argument("--threads", type=int, default=1, help="of torch; with more than one, wall time is measured")
    parser.add_argument("--write", action="store_true", help="write the tables to methods.md")
    asked = parser.parse_args()
    budgeted = [*AT_THE_FEATURES, *THROUGH_THE_NETWORK, *MANY_PASSES, *OF_CHANNELS, *OF_ATTENTION]
    strange = set(asked.only or METHODS) - set(budgeted)
    if strange:
        parser.error(f"no budget is stated for {', '.join(sorted(strange))}")
    os.environ["TQDM_DISABLE"] = "1"
    warnings.filterwarnings("ignore", module="pytorch_grad_cam|torchcam|torch")
    torch.manual_seed(0)
    memory = [] if asked.only else score_cam_memory()
    torch.set_num_threads(asked.threads)
    lines = ["| " + " | ".join(TITLES) + " |", "|" + " --- |" * len(TITLES)]
    good = True
    print(*memory, *lines, sep="\n", flush=True)
    for cost in costs(asked.only or budgeted, PEERS and not asked.only):
        lines.append("| " + " | ".join(cost.cells()) + " |")
        good &= cost.verdict != "FAIL"
        print(lines[-1], flush=True)
    speed, fast = ([], True) if asked.only else score_cam_speed()
    print(*speed, sep="\n")
    if asked.write:
        how = "one thread, processor time" if asked.threads == 1 else f"{asked.threads} threads, wall time"
        text = [
            "# What each method costs", "",
            f"Made by `benchmarks/methods.py --write` with torch {torch.__version__}, grad-cam 1.5.7 and torchcam "
            f"0.5.0; CPU, float32, {how}.", "",
            "Ratios to one plain forward pass (`torch.inference_mode()`) of the same batch, taken in turns in one run: "
            "ResNet-50, 224 pixels, 8 pictures; the methods that send many inputs through the network with 1 picture "
            "and one class; attention on a ViT-S/16 of 8 pictures. A method is within its budget if the median is.", "",
            *lines, "",
            "Score-CAM on a ResNet-18 (512 channels), 1 picture of 224 pixels, one class, 32 masked inputs at once. "
            "The peers' masks differ (see `peers.md`); their number of passes is the same.", "",
            *speed, "", *memory,
        ]  # fmt: skip
        (HERE / "methods.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    return 0 if good and fast else 1


if __name__ == "__main__":
    sys.exit(main())
