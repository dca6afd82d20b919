"""Methods on noisy inputs and on paths of inputs against loops from the papers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_methods_gradient import close, maps_of  # noqa: E402

import reference_gradients as slow  # noqa: E402
from camlucida.errors import MethodError  # noqa: E402
from camlucida.explainer import Explainer  # noqa: E402
from camlucida.methods import inputs, path  # noqa: E402
from camlucida.methods.gradient import gradcam, gradcam_plus_plus  # noqa: E402
from camlucida.methods.noisy_inputs import noisy  # noqa: E402
from nets import BY_NAME  # noqa: E402

ids = {"ids": lambda case: case.name}
FLAT = slow.CURVED[0]


@pytest.mark.parametrize("case", slow.CURVED, **ids)
def test_smoothgradcam_plus_plus_equals_the_formula_with_the_clean_activations(case):
    net, x = case.net(), case.batch(2)
    compute = partial(path.smoothgradcam_plus_plus, samples=3, noise=0.2)
    maps, bias = maps_of(net, x, compute, [1, 3])
    assert bias is None
    for b, t in np.ndindex(2, 2):
        clean, _ = slow.known(case, net, x[b], (1, 3)[t])
        passes = [slow.known(case, net, one, (1, 3)[t]) for one in slow.noisy(x[b], 3, 0.2)]
        close(maps[b, t], slow.smooth_plus_plus(clean, [g for _, g in passes]), 1e-8)
        last = slow.smooth_plus_plus(passes[-1][0], [g for _, g in passes])
        assert np.abs(maps[b, t] - last).max() > 1e-3 * np.abs(last).max()  # not those of the last noisy pass


def test_without_noise_smoothgradcam_plus_plus_is_gradcam_plus_plus():
    net, x = FLAT.net(), FLAT.batch(2)
    compute = partial(path.smoothgradcam_plus_plus, samples=2, noise=0.0)
    close(maps_of(net, x, compute)[0], maps_of(net, x, gradcam_plus_plus)[0])


@pytest.mark.parametrize("baseline", [0.0, -1.5])
@pytest.mark.parametrize("case", slow.CURVED, **ids)
def test_integrated_gradcam_equals_the_riemann_sum(case, baseline):
    net, x = case.net(), case.batch(2)
    maps, bias = maps_of(net, x, partial(path.integrated_gradcam, steps=4, baseline=baseline), [1, 3])
    assert bias is None
    for b, t in np.ndindex(2, 2):
        close(maps[b, t], slow.integrated_gradcam(case, net, x[b], (1, 3)[t], 4, baseline), 1e-8)


def test_one_step_of_integrated_gradcam_from_features_of_zero_is_rectified_gradcam():
    case = BY_NAME["gap_linear"]
    net, x = case.net(), case.batch(2)
    with torch.no_grad():
        for module in net.body:
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
            if hasattr(module, "running_mean"):
                module.running_mean.zero_()
    compute = partial(path.integrated_gradcam, steps=1)
    close(maps_of(net, x, compute)[0], np.maximum(maps_of(net, x, gradcam)[0], 0))


def test_noise_has_the_asked_spread_and_is_the_same_for_every_picture_and_type():
    x = torch.stack((torch.linspace(0, 1, 3 * 40 * 50), torch.linspace(-3, 7, 3 * 40 * 50))).reshape(2, 3, 40, 50)
    copies = list(noisy(x, 3, 0.1, 5))
    assert len(copies) == 3
    for one in copies:
        noise = one - x
        torch.testing.assert_close(noise[1], 10 * noise[0], rtol=1e-3, atol=1e-5)
        assert float(noise[0].std()) == pytest.approx(0.1, rel=0.05)
    assert not torch.equal(copies[0], copies[1])
    torch.testing.assert_close(list(noisy(x[1:], 3, 0.1, 5))[2], copies[2][1:], rtol=0, atol=0)
    torch.testing.assert_close(list(noisy(x.double(), 3, 0.1, 5))[1].float(), copies[1], rtol=1e-5, atol=1e-6)
    assert not torch.equal(next(noisy(x, 1, 0.1, 6)), copies[0])


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (partial(path.smoothgradcam_plus_plus, samples=0), "samples: expected a whole number of at least 1, got 0"),
        (partial(path.smoothgradcam_plus_plus, noise=-1), "noise: expected a share of the range of at least 0, got -1"),
        (partial(path.integrated_gradcam, steps=0), "steps: expected a whole number of at least 1, got 0"),
        (partial(inputs.smoothgrad, samples=0), "samples: expected a whole number of at least 1, got 0"),
        (partial(inputs.integrated_gradients, steps=-1), "steps: expected a whole number of at least 1, got -1"),
    ],
)
def test_wrong_options_are_refused(compute, message):
    with pytest.raises(MethodError, match=message):
        Explainer(FLAT.net(), method=compute)(FLAT.batch(1), [0])
