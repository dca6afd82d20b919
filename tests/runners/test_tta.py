"""Maps averaged over views: against a loop over inputs turned by hand, and by what must not change."""

import numpy as np
import pytest
import torch

import camlucida as cl
from camlucida.errors import MethodError
from camlucida.runners.tta import averaged


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, 2, 1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(6, 5),
    ).eval()  # fmt: skip


def by_hand(net, x, ids, turns):
    """Means over views of maps and logits, one view after another."""
    maps, scores = [], []
    for turn in range(turns):
        for mirrored in (False, True):
            seen = torch.rot90(x, turn, (2, 3))
            seen = seen.flip(3) if mirrored else seen
            features = net[1](net[0](seen))
            every = torch.einsum("kc,bcyx->bkyx", net[4].weight, features) / features[0, 0].numel()
            every = every.flip(3) if mirrored else every
            maps.append(torch.rot90(every, -turn, (2, 3)))
            scores.append(net(seen))
    rows = torch.arange(len(x))[:, None]
    return torch.stack(maps).mean(0)[rows, ids].detach().numpy(), torch.stack(scores).mean(0)[
        rows, ids
    ].detach().numpy()


@pytest.mark.parametrize(("views", "turns"), [("flips", 1), ("dihedral", 4)])
def test_means_of_views(net, views, turns):
    x = torch.randn(3, 3, 16, 16)
    ex = cl.explain(x, net, classes=2, tta=views)
    maps, scores = by_hand(net, x, torch.tensor(ex.classes.tolist()), turns)
    np.testing.assert_allclose(ex.maps, maps, atol=1e-6)
    np.testing.assert_allclose(ex.scores, scores, atol=1e-6)
    assert ex.residual.max() < 1e-5
    np.testing.assert_array_equal(ex.logits, cl.explain(x, net).logits)


def test_a_turned_picture_has_a_turned_map(net):
    x = torch.randn(1, 3, 16, 16)
    upright = cl.explain(x, net, classes=[3], tta="dihedral").maps
    turned = cl.explain(x.rot90(1, (2, 3)).flip(2), net, classes=[3], tta="dihedral").maps
    np.testing.assert_allclose(turned, np.flip(np.rot90(upright, 1, (2, 3)), 2), atol=1e-6)


def test_views_of_the_bundled_model_and_of_all_classes():
    one, flips = (cl.explain(cl.sample(), tta=views) for views in ("one", "flips"))
    assert flips.names == one.names
    assert 0.5 < np.corrcoef(one.maps.ravel(), flips.maps.ravel())[0, 1] < 1
    every = cl.explain(cl.sample(), classes="all", tta="flips")
    np.testing.assert_allclose(every.maps[0, one.classes[0, 0]], flips.maps[0, 0], atol=1e-5)


def test_what_has_no_such_views_is_refused(net):
    with pytest.raises(MethodError, match=r"tta: expected one of one, flips, dihedral; got 'sides'"):
        averaged(net, "sides")
    with pytest.raises(MethodError, match=r"expected square pictures .* got \(1, 3, 16, 32\)"):
        cl.explain(torch.randn(1, 3, 16, 32), net, tta="dihedral")
