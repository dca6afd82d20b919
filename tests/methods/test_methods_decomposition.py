"""Eigen-CAM, KPCA-CAM, FEM and Deep Feature Factorization against slow versions written from the papers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

import nets  # noqa: E402
import reference  # noqa: E402
from camlucida.errors import MethodError  # noqa: E402
from camlucida.explainer import Explainer  # noqa: E402
from camlucida.methods.decomposition import concepts, evidence, factorize  # noqa: E402
from camlucida.methods.registry import find_method  # noqa: E402
from camlucida.pytorch.engine import TorchEngine  # noqa: E402
from camlucida.pytorch.state import evaluating  # noqa: E402
from camlucida.pytorch.torch_pass import TorchPass  # noqa: E402
from camlucida.targets import choose  # noqa: E402

NAMES = ("eigencam", "kpcacam", "fem", "dff")
CLASS_FREE = NAMES[:3]
CASES = [
    nets.BY_NAME[name] for name in ("gap_linear", "signal", "volume", "token_mean", "layer_norm", "vgg", "class_token")
]


def run_engine(net: nn.Module, x: Tensor) -> TorchPass:
    """The features are named, so that nothing here depends on finding them."""
    return TorchEngine(net, net.body).run(x)


def maps(name: str, forward_pass: TorchPass, classes: object, **options: object) -> np.ndarray:
    with torch.no_grad(), evaluating(forward_pass.model):
        targets = choose(classes, forward_pass.logits.numpy(), None)
        made = find_method(name).compute(forward_pass, targets, **options)
    assert made.bias is None
    return made.maps.numpy()


def of_body(case: nets.Case, net: nn.Module, x: Tensor) -> np.ndarray:
    """Features (B, cells, C), by running the body."""
    with torch.no_grad():
        features = case.on_grid(net.body(x)).numpy()
    return features.reshape(*features.shape[:2], -1).transpose(0, 2, 1)


def eigencam(features: np.ndarray) -> np.ndarray:
    """A v₁ by NumPy's SVD, turned to go with the mean activation."""
    _, _, right = np.linalg.svd(features)
    made = features @ right[0]
    return made if made @ features.mean(1) >= 0 else -made


def kpcacam(features: np.ndarray, kernel: str = "sigmoid") -> np.ndarray:
    """Kernel PCA, pair of cells by pair of cells."""
    n, channels = features.shape
    x = features - features.mean(0)
    kernels = {
        "sigmoid": lambda a, b: np.tanh(a @ b / channels + 1),
        "poly": lambda a, b: (a @ b / channels + 1) ** 3,
        "rbf": lambda a, b: np.exp(-np.sum((a - b) ** 2) / channels),
        "cosine": lambda a, b: a @ b / np.sqrt((a @ a) * (b @ b)),
        "linear": lambda a, b: a @ b,
    }
    gram = np.array([[kernels[kernel](x[i], x[j]) for j in range(n)] for i in range(n)])
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(centre @ gram @ centre)
    made = np.sqrt(values[-1]) * vectors[:, -1]
    return made if made @ features.mean(1) >= 0 else -made


def fem(features: np.ndarray, sigmas: float = 2.0) -> np.ndarray:
    """Channel by channel, cell by cell."""
    made = np.zeros(len(features))
    for channel in features.T:
        mean, deviation = channel.mean(), channel.std()
        for cell, value in enumerate(channel):
            made[cell] += mean if value >= mean + sigmas * deviation else 0
    return made


REFERENCES = {"eigencam": eigencam, "kpcacam": kpcacam, "fem": fem}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", CLASS_FREE)
def test_equals_the_paper(name: str, case: nets.Case) -> None:
    net, x = case.net(), case.batch(3)
    made = maps(name, run_engine(net, x), [2, 0])
    assert made.shape == (3, 2, *case.grid)
    expected = np.stack([REFERENCES[name](features) for features in of_body(case, net, x)])
    for t in range(2):
        np.testing.assert_allclose(made[:, t].reshape(3, -1), expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("kernel", ["sigmoid", "poly", "rbf", "cosine", "linear"])
def test_kernels(kernel: str) -> None:
    case = nets.BY_NAME["gap_linear"]
    net, x = case.net(), case.batch()
    made = maps("kpcacam", run_engine(net, x), 1, kernel=kernel)
    expected = np.stack([kpcacam(features, kernel) for features in of_body(case, net, x)])
    np.testing.assert_allclose(made.reshape(2, -1), expected, rtol=1e-6, atol=1e-9)


def test_more_channels_than_cells_and_fewer_make_the_same_eigencam() -> None:
    """The smaller Gram matrix is decomposed: both ways against the SVD."""
    for channels in (3, 40):
        torch.manual_seed(0)
        net = nets.pooled(nets.linear(channels), body=nets.conv_body(channels=channels)).eval().double()
        x = nets.BY_NAME["gap_linear"].batch()
        with torch.no_grad():
            features = net.body(x).flatten(2).mT.numpy()
        made = maps("eigencam", run_engine(net, x), 1).reshape(2, -1)
        np.testing.assert_allclose(made, np.stack([eigencam(one) for one in features]), rtol=1e-6, atol=1e-12)


def test_the_sign_of_eigencam_does_not_depend_on_the_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trap of other libraries: the map turns over with the arbitrary sign of a singular vector."""
    case = nets.BY_NAME["gap_linear"]
    forward_pass = run_engine(case.net(), case.batch())
    made = {name: maps(name, forward_pass, 1) for name in ("eigencam", "kpcacam")}
    assert (made["eigencam"] >= 0).all(), "features without negative values"
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: (eigh(matrix)[0], -eigh(matrix)[1]))
    for name, before in made.items():
        np.testing.assert_array_equal(maps(name, forward_pass, 1), before)


def test_features_that_are_zero_give_maps_that_are_zero() -> None:
    case = nets.BY_NAME["gap_linear"]
    net = case.net()
    for parameter in net.body.parameters():
        nn.init.zeros_(parameter)
    forward_pass = run_engine(net, case.batch())
    for name in NAMES:
        np.testing.assert_array_equal(maps(name, forward_pass, 1), 0)


def error_after(matrices: Tensor, rank: int, iterations: int) -> np.ndarray:
    where, what = factorize(matrices, rank, iterations)
    assert (where >= 0).all()
    assert (what >= 0).all()
    return (matrices - where @ what).flatten(1).norm(dim=1).numpy()


@pytest.mark.parametrize("shape", [(2, 12, 30), (2, 30, 12)])
def test_factorization_never_gets_worse(shape: tuple[int, int, int]) -> None:
    matrices = torch.rand(shape, dtype=torch.float64)
    errors = np.array([error_after(matrices, 4, iterations) for iterations in (0, 1, 2, 3, 5, 8, 20, 60, 200)])
    assert (np.diff(errors, axis=0) <= 1e-12).all()
    best = np.sqrt(np.linalg.svd(matrices.numpy(), compute_uv=False)[:, 4:] ** 2 @ np.ones(8))
    assert (errors[-1] >= best).all(), "the SVD's error is a bound"
    assert (errors[-1] <= 1.25 * best).all()


def test_factorization_is_a_stationary_point() -> None:
    """Karush-Kuhn-Tucker: the slope is zero where a factor is positive, and not negative where it is zero."""
    matrices = torch.rand(1, 9, 14, dtype=torch.float64)
    where, what = factorize(matrices, 3, 2000)
    for slope, factor in (((where @ what - matrices) @ what.mT, where), (where.mT @ (where @ what - matrices), what)):
        assert float((slope * factor).abs().max()) < 1e-6
        assert float(slope.min()) > -1e-6


def test_factorization_finds_parts_that_do_not_overlap() -> None:
    """Known answer: three parts, each with its own cells and channels."""
    case = nets.BY_NAME["gap_linear"]
    forward_pass = run_engine(case.net(), case.batch(1))
    features = torch.zeros(1, 6, 4, 6, dtype=torch.float64)
    features[0, :2, :2, :3] = torch.tensor([3.0, 4.0])[:, None, None]
    features[0, 2:4, 2:, :3] = torch.tensor([1.0, 1.0])[:, None, None]
    features[0, 4:, :2, 3:] = torch.tensor([6.0, 8.0])[:, None, None]
    forward_pass.features = features
    found = concepts(forward_pass, rank=3)
    expected = [[0, 0, 0, 0, 0.6, 0.8], [0.6, 0.8, 0, 0, 0, 0], [0, 0, 0.5**0.5, 0.5**0.5, 0, 0]]
    np.testing.assert_allclose(found.directions[0].numpy(), expected, atol=1e-9)
    assert [float(one.max()) for one in found.maps[0]] == pytest.approx([10, 5, 2**0.5])
    np.testing.assert_allclose(
        (found.maps[0].flatten(1).T @ found.directions[0]).T.reshape(6, 4, 6), features[0], atol=1e-9
    )
    np.testing.assert_allclose(concepts(forward_pass, rank=50).directions.shape[1], 6)


@pytest.mark.parametrize("name", ["gap_linear", "sum_pool", "layer_norm", "token_mean", "volume"])
def test_dff_is_the_activation_map_of_its_own_reconstruction(name: str) -> None:
    """Behind heads that are affine (at this input's statistics), with weights folded by hand."""
    case = nets.BY_NAME[name]
    net, x = case.net(), case.batch()
    forward_pass = run_engine(net, x)
    made = maps("dff", forward_pass, [3, 1], rank=3)
    found, known = concepts(forward_pass, rank=3), reference.known(case, net, x)
    rebuilt = torch.einsum("brl,brc->bcl", found.maps.flatten(2), found.directions).reshape(forward_pass.features.shape)
    expected = reference.cam(known._replace(features=rebuilt.numpy()))[:, [3, 1]]
    np.testing.assert_allclose(made, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


def test_dff_with_all_concepts_is_the_class_activation_map() -> None:
    case = nets.BY_NAME["gap_linear"]
    net, x = case.net(), case.batch()
    forward_pass = run_engine(net, x)
    expected = reference.cam(reference.known(case, net, x))
    seen = [np.abs(maps("dff", forward_pass, "all", rank=rank) - expected).max() for rank in (1, 3, 6)]
    assert seen[2] < 0.2 * seen[1] < 0.2 * seen[0]


@pytest.mark.parametrize("name", ["vgg", "class_token"])
def test_dff_evidence_is_of_each_concept_alone(name: str) -> None:
    """Behind other heads, by running the network's own head on each part."""
    case = nets.BY_NAME[name]
    net, x = case.net(), case.batch()
    forward_pass = run_engine(net, x)
    found = concepts(forward_pass, rank=2)
    targets = choose([1, 4], forward_pass.logits.numpy(), None)
    with torch.no_grad():
        told = evidence(forward_pass, targets, found).numpy()
        whole = net.body(x)
        for b in range(2):
            for r in range(-1, 2):
                part = torch.zeros_like(forward_pass.features[:1])
                if r >= 0:
                    part = (found.maps[b, r].flatten()[None] * found.directions[b, r][:, None]).reshape(part.shape)
                if case.prefix:
                    cells = part.flatten(2).transpose(1, 2)
                    part = torch.cat((whole[b : b + 1, : case.prefix], cells), 1)
                scores = net.head(part)[0, [1, 4]].numpy()
                if r < 0:
                    nothing = scores
                else:
                    np.testing.assert_allclose(told[b, :, r], scores - nothing, rtol=1e-6, atol=1e-12)
    made = maps("dff", forward_pass, [1, 4], rank=2)
    shares = found.maps / found.maps.flatten(2).sum(2)[..., None, None]
    np.testing.assert_allclose(made, np.einsum("btr,brhw->bthw", told, shares.numpy()), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_picture_alone_and_classes_in_any_order(name: str, dtype: torch.dtype) -> None:
    case = nets.BY_NAME["gap_linear"]
    net, x = case.net(dtype), case.batch(3, dtype)
    together = maps(name, run_engine(net, x), [0, 3, 1])
    assert together.dtype == (np.float32 if dtype == torch.float32 else np.float64)
    close = partial(
        np.testing.assert_allclose,
        rtol=1e-4 if dtype == torch.float32 else 1e-9,
        atol=1e-5 if dtype == torch.float32 else 1e-12,
    )
    for b in range(3):
        close(maps(name, run_engine(net, x[b : b + 1]), [0, 3, 1])[0], together[b])
    close(maps(name, run_engine(net, x), [1, 0, 3]), together[:, [2, 0, 1]])
    close(maps(name, run_engine(net, x), "all")[:, [0, 3, 1]], together)
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", nets.CASES, ids=lambda case: case.name)
def test_finite_for_every_head_and_layout(name: str, case: nets.Case) -> None:
    net = case.net(torch.float32)
    made = maps(name, run_engine(net, case.batch(2, torch.float32)), 1)
    assert made.shape == (2, 1, *case.grid)
    assert np.isfinite(made).all()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_through_the_public_door() -> None:
    case = nets.BY_NAME["gap_linear"]
    ex = Explainer(case.net(torch.float32), method="eigencam")(case.batch(2, torch.float32), classes=2)
    assert ex.maps.shape == (2, 2, 4, 6)
    assert ex.origin.unit == "activation"
    assert np.isnan(ex.residual).all()


def test_wrong_options() -> None:
    case = nets.BY_NAME["gap_linear"]
    forward_pass = run_engine(case.net(), case.batch())
    with pytest.raises(MethodError, match="no kernel 'gauss'; expected sigmoid, rbf"):
        maps("kpcacam", forward_pass, 1, kernel="gauss")
    with pytest.raises(MethodError, match="rank must be at least 1, got 0"):
        maps("dff", forward_pass, 1, rank=0)
