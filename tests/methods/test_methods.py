"""Every method of the registry on every kind of head: finite, on the right grid, the model left as it was."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from functools import partial, wraps

import numpy as np
import pytest
import torch
from torch import nn

import camlucida as cl
from camlucida.errors import CamlucidaError, MethodError
from camlucida.methods.blackbox import rise
from camlucida.methods.registry import METHODS, find_method
from nets import BY_NAME, Case

KINDS = ("gap_linear", "inplace", "layer_norm", "hardswish", "class_token", "token_mean", "nhwc", "signal", "volume")
# What a method needs that a network may lack; it must then say so.
NEEDS = {
    "gradient-rollout": "attention",
    "guided-backprop": "ReLU",
    "guided-gradcam": "ReLU",
    "legrad": "attention",
    "rollout": "attention",
    "tscam": "attention",
}
INPUT_MAPS = {"gradient", "gradient-x-input", "smoothgrad", "integrated-gradients", "guided-backprop", "guided-gradcam",
              "fullgrad", "fullgrad-saliency", "rise"}  # fmt: skip
OWN_GRID = {"occlusion"}


def state(net: nn.Module) -> list[object]:
    """All that a method must leave alone."""
    modules = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in net.modules()
    ]
    parameters = [(p.requires_grad, p.grad is None, p.detach().clone()) for p in net.parameters()]
    return [modules, [(flag, none) for flag, none, _ in parameters], [value for *_, value in parameters]]


def same(before: list[object], after: list[object]) -> bool:
    return before[:2] == after[:2] and all(
        torch.equal(a, b)
        for a, b in zip(before[2], after[2], strict=True)  # type: ignore[call-overload]
    )


def test_every_method_of_the_table_says_what_it_is():
    for name, method in METHODS.items():
        assert name == method.name
        assert method.summary
        assert method.unit
        assert re.search(r"(19|20)\d\d|baseline", method.paper), f"{name} names no paper"
        assert "Cost" in (method.compute.__doc__ or ""), f"{name} hides its cost"
    assert len(METHODS) >= 35


def test_methods_are_named_and_found_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from camlucida.methods.registry import METHODS, find_method\n"
        "print(len(METHODS), find_method('gradcam').needs)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == [str(len(METHODS)), "('features', 'gradients')\n"]


def test_functions_are_recognized_also_inside_partial():
    options = partial(rise, samples=8)
    assert find_method(rise) == replace(METHODS["rise"], function=rise)
    assert find_method(options) == replace(METHODS["rise"], function=options)
    assert find_method(options).compute is options

    @wraps(rise)
    def own(forward_pass, targets):
        return rise(forward_pass, targets)

    assert find_method(own).paper == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_finite_on_the_right_grid_and_the_model_as_it_was(method: str, kind: str):
    case: Case = BY_NAME[kind]
    net, batch = case.net(torch.float32), case.batch(2, torch.float32)
    net.train()
    net.body.eval()
    before = state(net)
    made, refusal = None, ""
    try:
        made = cl.explain(batch, net, method, classes=2)
    except MethodError as error:
        refusal = str(error)
    assert same(before, state(net))
    if made is None:
        assert re.search(NEEDS.get(method, "never"), refusal, re.IGNORECASE), f"{method} refused {kind}: {refusal}"
        return
    assert np.isfinite(made.maps).all()
    if method not in OWN_GRID:
        assert made.grid == (case.shape[1:] if method in INPUT_MAPS else case.grid)
    decomposes = np.isfinite(made.bias).all()
    assert made.origin.unit == "logits per cell" or not decomposes
    assert np.isfinite(made.residual).all() == decomposes
    assert same(before, state(net))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_batch_of_three_is_three_batches_of_one(method: str):
    case = BY_NAME["class_token" if NEEDS.get(method) == "attention" else "hardswish"]
    net, batch = case.net(), case.batch(3)
    try:
        together = cl.explain(batch, net, method, classes=[1, 3])
    except MethodError:
        pytest.skip("not for this network; its own tests cover it")
    for i in range(3):
        alone = cl.explain(batch[i : i + 1], net, method, classes=[1, 3])
        scale = np.abs(together.maps[i]).max() + 1e-12
        assert np.abs(alone.maps[0] - together.maps[i]).max() <= 1e-6 * scale


@pytest.mark.parametrize("method", ["cam", "gradcam", "scorecam", "fullgrad", "guided-backprop", "opticam"])
def test_an_exception_in_the_model_leaves_it_as_it_was(method: str):
    net, batch = BY_NAME["hardswish" if method != "guided-backprop" else "gap_linear"].net(torch.float32), None
    batch = BY_NAME["hardswish"].batch(2, torch.float32)
    explainer = cl.Explainer(net, method=method)
    explainer(batch)
    net.train()
    before = state(net)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory, say")

    hook = net.head.register_forward_pre_hook(fail)
    with pytest.raises(CamlucidaError, match="out of memory"):
        explainer(batch)
    hook.remove()
    assert same(before, state(net))
    assert torch.is_grad_enabled()


def test_unknown_method_names_near_ones():
    with pytest.raises(MethodError, match=r"no method 'gradcm'; did you mean .*gradcam"):
        find_method("gradcm")


def test_a_method_of_ones_own_needs_no_registry():
    from camlucida.methods.forward_pass import Maps

    def brightest(forward_pass, targets):
        return Maps(forward_pass.features.mean(1, keepdim=True).expand(-1, targets.ids.shape[1], -1, -1), None)

    case = BY_NAME["gap_linear"]
    made = cl.explain(case.batch(2, torch.float32), case.net(torch.float32), brightest, classes=2)
    assert made.origin.method == "brightest"
    assert np.isnan(made.residual).all()
    assert made.grid == case.grid
