"""The bundled model: light to load, right about the sample, exact for every class, the same in any batch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import camlucida as cl
from camlucida.explanation import Explanation


@pytest.fixture(scope="module")
def explainer() -> cl.Explainer:
    return cl.Explainer()


@pytest.fixture(scope="module")
def every(explainer: cl.Explainer) -> Explanation:
    """Five different pictures, all classes."""
    pixels = cl.sample().pixels
    noise = np.random.default_rng(3).integers(0, 256, (90, 120, 3), np.uint8)
    return explainer([pixels, pixels[:, ::-1].copy(), pixels[:150, :200].copy(), 255 - pixels, noise], "all")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ("numpy", "torch", "cv2", "PIL", "onnxruntime", "typer", "rich")
    assert run(f"import camlucida, sys; dir(camlucida); print([m for m in {heavy} if m in sys.modules])") == "[]"


def test_the_command_line_loads_neither_torch_nor_a_model_to_show_its_help() -> None:
    heavy = "('numpy', 'torch', 'cv2', 'onnxruntime')"
    code = f"import camlucida.cli, sys; print([m for m in {heavy} if m in sys.modules])"
    assert run(code) == "[]"


def test_it_runs_where_torch_is_not_installed() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import camlucida as cl\n"
        "ex = cl.explain(cl.sample(), classes=3); ex.overlay(0); ex.boxes(); print(ex.names[0][0])\n"
        "for ask in (lambda: cl.with_maps(None), lambda: cl.explain(cl.sample(), model='net.py:f')):\n"
        "    try: ask()\n"
        "    except cl.CamlucidaError as error: print(error)\n"
    )
    said = run(code).splitlines()
    assert said[:2] == ["cat", "this needs PyTorch: pip install 'camlucida[torch]'"]
    assert len(said) == 3


def test_what_it_says_of_the_sample(explainer: cl.Explainer) -> None:
    ex = explainer(cl.sample(), 5)
    assert ex.names[0][0] == "cat"
    assert ex.grid == (10, 10)
    assert ex.residual.max() < 1e-5
    assert 0.2 < ex.probabilities[0, 0] <= 1
    assert (np.diff(ex.probabilities[0]) <= 0).all()
    assert ex.seen(0).all()
    cat = ex.heatmap(0)
    face, corner = cat[60:200, 90:280].mean(), cat[-60:, -60:].mean()
    assert face > corner  # its face lies left of the middle


def test_labels_are_unique_names(explainer: cl.Explainer) -> None:
    assert explainer.class_names is not None
    assert len(set(map(str.casefold, explainer.class_names))) == len(explainer.class_names) == 73
    assert all(label == label.strip() and label.isprintable() for label in explainer.class_names)
    assert {"cat", "dog"} < set(explainer.class_names)


def test_maps_of_all_classes_sum_to_their_logits(every: Explanation) -> None:
    assert every.maps.shape == (5, 73, 10, 10)
    total = every.maps.astype(np.float64).sum((2, 3)) + every.bias
    spread = np.ptp(every.logits, axis=1, keepdims=True)
    assert (np.abs(total - every.logits) / spread).max() < 1e-5
    assert np.allclose(every.scores, every.logits)
    assert np.allclose(every.probabilities.sum(1), 1, atol=1e-5)
    assert every.logits.std(0).min() > 0  # no class is deaf


def test_a_picture_is_explained_alike_in_any_batch(explainer: cl.Explainer, every: Explanation) -> None:
    for i, picture in enumerate(every.pictures):
        alone = explainer(picture, "all")
        assert np.allclose(alone.logits[0], every.logits[i], atol=1e-4)
        assert np.allclose(alone.maps[0], every.maps[i], atol=1e-5)


def test_chosen_classes_and_contrasts_are_those_of_all(explainer: cl.Explainer, every: Explanation) -> None:
    cat, dog = (explainer.class_names.index(name) for name in ("cat", "dog"))  # type: ignore[union-attr]
    chosen = explainer(list(every.pictures), ["dog", cat, cl.Contrast("cat", "dog")])
    assert np.allclose(chosen.maps[:, 0], every.maps[:, dog], atol=1e-5)
    assert np.allclose(chosen.maps[:, 1], every.maps[:, cat], atol=1e-5)
    assert np.allclose(chosen.maps[:, 2], every.maps[:, cat] - every.maps[:, dog], atol=1e-5)
    assert np.allclose(chosen.bias[:, 2], every.bias[:, cat] - every.bias[:, dog], atol=1e-5)
    assert chosen.residual.max() < 1e-5
