"""``with_maps``: the maps as outputs of a module, in eager mode, compiled, exported, and trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import camlucida as cl
from camlucida.errors import ModelError
from camlucida.pytorch.with_maps import with_maps
from nets import BY_NAME, EXACT, Case


@pytest.mark.parametrize("case", [param for param in EXACT if "binary" not in param.id])
def test_equals_explain_and_sums_to_the_logits(case: Case):
    net, batch = case.net(torch.float32), case.batch(3, torch.float32)
    if case.name == "rms_norm_by_hand":
        with pytest.raises(ModelError, match="use explain"):
            with_maps(net, batch[:2])
        return
    both = with_maps(net, batch[:2])
    with torch.no_grad():
        logits, maps = both(batch)
        total = maps.flatten(2).sum(2) + both.bias
    explained = cl.explain(batch, net, classes="all")
    spread = float(np.ptp(explained.logits)) or 1.0
    assert np.abs(logits.numpy() - explained.logits).max() <= 1e-6 * spread
    assert np.abs(maps.numpy() - explained.maps).max() <= 1e-5 * spread
    assert float((total - logits).abs().max()) <= 1e-5 * spread


@pytest.mark.parametrize("name", ["hardswish", "class_token", "max_pool"])
def test_heads_that_are_not_affine_are_refused_in_words(name: str):
    case = BY_NAME[name]
    with pytest.raises(ModelError, match=r"with_maps needs an affine head; this one is .*use explain instead"):
        with_maps(case.net(torch.float32), case.batch(2, torch.float32))


def test_weights_are_the_networks_own_and_may_train_on():
    case = BY_NAME["gap_linear"]
    net, batch = case.net(torch.float32), case.batch(2, torch.float32)
    both = with_maps(net, batch)
    linear = next(module for module in net.modules() if isinstance(module, nn.Linear))
    assert both.weight is linear.weight
    assert both.bias is linear.bias
    logits, _ = both(batch)
    optimizer = torch.optim.SGD(net.parameters(), 0.5)
    torch.nn.functional.cross_entropy(logits, torch.tensor([1, 2])).backward()
    optimizer.step()
    with torch.no_grad():
        logits, maps = both(batch)
    assert torch.allclose(maps.sum((2, 3)) + both.bias, logits, atol=1e-5)


@pytest.mark.parametrize("name", ["gap_linear", "layer_norm", "nhwc"])
def test_compiled_and_exported_give_the_same(name: str):
    case = BY_NAME[name]
    net, batch = case.net(torch.float32), case.batch(3, torch.float32)
    both = with_maps(net, batch[:2]).eval()
    with torch.no_grad():
        wanted = both(batch)
        compiled = torch.compile(both, backend="eager")(batch)
        batch_axis = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(both, (batch,), dynamic_shapes={"images": {0: batch_axis}})
        exported = program.module()(batch[:1])
    for a, b in zip(wanted, compiled, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    for a, b in zip(wanted, exported, strict=True):
        assert torch.allclose(a[:1], b, atol=1e-6)


def test_the_network_is_not_changed():
    case = BY_NAME["gap_linear"]
    net, batch = case.net(torch.float32), case.batch(2, torch.float32)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with_maps(net, batch)
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
