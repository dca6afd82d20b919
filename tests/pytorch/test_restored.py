"""A model comes back exactly as it was given: after success, after a failure at any moment, from under two threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from camlucida.errors import CamlucidaError  # noqa: E402
from camlucida.explainer import Explainer  # noqa: E402
from camlucida.pytorch.state import evaluating  # noqa: E402
from nets import BY_NAME, Call  # noqa: E402

CASE = BY_NAME["gap_batchnorm"]
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


class FaultError(Exception):
    """What a failing model raises."""


def lived_in():
    """A network in the middle of somebody's work: mixed modes, frozen parts, gradients, hooks, moved statistics."""
    net = CASE.net(torch.float32)
    net.train()
    net.body[1].eval()  # a frozen BatchNorm
    net.head[3].eval()
    net.body[0].weight.requires_grad_(False)
    net(CASE.batch(4, torch.float32)).square().mean().backward()
    calls = []
    net.body[2].register_forward_hook(lambda *_: calls.append("forward"))
    net.head[3].register_forward_pre_hook(lambda *_: calls.append("pre"))
    return net, calls


def state(net):
    """Everything that a caller could see of a model, with the identities of its tensors."""
    seen = {"gradients": torch.is_grad_enabled(), "inference": torch.is_inference_mode_enabled()}
    for name, module in net.named_modules():
        seen[name, "training"] = module.training
        seen[name, "attributes"] = sorted(vars(module))
        for hooks in HOOKS:
            seen[name, hooks] = list(getattr(module, hooks).items())
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        seen[name, "tensor"] = (id(tensor), tensor._version, tensor.requires_grad, tensor.detach().clone().tolist())
        grad = tensor.grad
        seen[name, "grad"] = None if grad is None else (id(grad), grad._version, grad.clone().tolist())
    return seen


ASKED = {
    "top": 1,
    "all": "all",
    "score": lambda logits: logits.softmax(1)[:, 1],
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("layer", [None, "body.2"])
def test_after_success(asked, layer):
    net, calls = lived_in()
    before = state(net)
    explainer = Explainer(net, layer=layer)
    for _ in range(3):
        explainer(CASE.batch(3, torch.float32), ASKED[asked])
        assert state(net) == before
    assert calls.count("forward") >= 3  # the caller's own hooks ran


@pytest.mark.parametrize("part", ["body", "head"])
def test_modules_with_backward_hooks_of_the_callers(part):
    net, _ = lived_in()
    wanted = Explainer(net)(CASE.batch(2, torch.float32))
    for module in getattr(net, part):
        module.register_full_backward_hook(lambda *_: None)
    before = state(net)
    assert (Explainer(net)(CASE.batch(2, torch.float32)).maps == wanted.maps).all()
    assert state(net) == before


@pytest.mark.parametrize("fails_at", range(1, 4))
@pytest.mark.parametrize("where", ["body", "head"])
@pytest.mark.parametrize("layer", [None, "body.2"])
def test_after_an_exception_in_any_pass(fails_at, where, layer):
    """The first pass finds the split, the later ones are explained."""
    net, _ = lived_in()
    passes = 0

    def bomb(x):
        nonlocal passes
        passes += 1
        if passes == fails_at:
            raise FaultError
        return x

    part = getattr(net, where)
    part.add_module("bomb", Call(bomb))
    before = state(net)
    explainer = Explainer(net, layer=layer)
    calls = (explainer(CASE.batch(2, torch.float32)) for _ in range(4))
    with pytest.raises(CamlucidaError, match="FaultError") as caught:
        list(calls)
    assert isinstance(caught.value.__cause__, FaultError)
    assert passes == fails_at
    assert state(net) == before
    explainer(CASE.batch(2, torch.float32))  # and it still works
    assert state(net) == before


def test_after_an_interrupt():
    net, _ = lived_in()

    def interrupt(x):
        raise KeyboardInterrupt

    net.head.add_module("interrupt", Call(interrupt))
    before = state(net)
    with pytest.raises(KeyboardInterrupt):
        Explainer(net)(CASE.batch(2, torch.float32))
    assert state(net) == before


def test_after_a_score_that_fails():
    net, _ = lived_in()
    before = state(net)

    def score(logits):
        raise FaultError

    with pytest.raises(FaultError):
        Explainer(net)(CASE.batch(2, torch.float32), score)
    assert state(net) == before


def test_after_two_threads_overlapped():
    """Inside a pass the model is in evaluation mode until the last thread is out; then its own modes come back."""
    net, _ = lived_in()
    meet = threading.Barrier(2, timeout=10)
    modes = []
    inside = Call(lambda x: x)

    def watch(x):
        if not inside.quiet:
            meet.wait()  # both are inside
            modes.append([module.training for module in net.modules()])
            meet.wait()
        return x

    inside.function, inside.quiet = watch, True
    net.body.add_module("watch", inside)
    explainer = Explainer(net)
    explainer(CASE.batch(2, torch.float32))
    before = state(net)
    inside.quiet = False
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: explainer(CASE.batch(2, torch.float32)), range(2)))
    inside.quiet = True
    assert not any(map(any, modes))
    assert len(modes) == 2
    assert state(net) == before


def test_the_first_thread_out_does_not_switch_the_mode_under_the_second():
    net, _ = lived_in()
    before = state(net)
    first, second = evaluating(net), evaluating(net)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(module.training for module in net.modules())
    second.__exit__(None, None, None)
    assert state(net) == before


@pytest.mark.parametrize("first_out", ["whole", "part"])
@pytest.mark.parametrize("first_in", ["whole", "part"])
def test_a_model_and_a_part_of_it_may_overlap(first_in, first_out):
    net, _ = lived_in()
    before = state(net)
    inside = {"whole": evaluating(net), "part": evaluating(net.body)}
    last_in, last_out = ("part" if name == "whole" else "whole" for name in (first_in, first_out))
    for name in (first_in, last_in):
        inside[name].__enter__()
    inside[first_out].__exit__(None, None, None)
    still = net if last_out == "whole" else net.body
    assert not any(module.training for module in still.modules())
    inside[last_out].__exit__(None, None, None)
    assert state(net) == before


def test_a_module_may_keep_its_own_rule_about_modes():
    """Modes are set without calling ``train()``, which some modules override."""

    class Stubborn(nn.BatchNorm2d):
        def train(self, mode=True):
            raise FaultError

    net = CASE.net(torch.float32).train()
    net.body.add_module("stubborn", Stubborn(6))
    Explainer(net)(CASE.batch(2, torch.float32))
    assert net.body.stubborn.training
