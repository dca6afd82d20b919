"""Linear probes: against scikit-learn asked directly, maps that sum to its decision, and the paper's three rows."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import camlucida as cl
from camlucida.data.record import Dataset, Example, Record, Truth
from camlucida.errors import TrainingError
from camlucida.training.config import TrainConfig
from camlucida.training.finegrained import fine_grained
from camlucida.training.linear_probe import fit_linear, pooled_features, probe, probe_base, with_linear
from camlucida.training.network import make_network
from camlucida.training.run_folder import Run, write_record, write_weights

SIZE = 32


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run folder of an untrained network, whose random features tell colours apart."""
    folder = tmp_path_factory.mktemp("base")
    config = TrainConfig(backbone="small:8-16", head="gmp", size=SIZE, stride=4)
    network = make_network(config, 3).eval()
    write_weights(folder, network)
    write_record(folder, Run(config, ("a", "b", "c"), False, cl.Preprocess((SIZE, SIZE), "stretch"), (), "complete"))
    return str(folder)


def coloured(index, count=3):
    """A grey picture, noisy, with a square of its class's colour; and the square."""
    rng = np.random.default_rng(index)
    x, y = rng.integers(2, 38, 2)
    pixels = rng.integers(90, 120, (64, 64, 3)).astype(np.uint8)
    pixels[y : y + 24, x : x + 24, index % count] = 250
    return pixels, [x, y, x + 24, y + 24]


def dataset(first, count, *, boxes=True, classes=3):
    records = []
    for index in range(first, first + count):
        pixels, box = coloured(index, classes)
        example = Example(f"{index}", None, (index % classes,), lambda pixels=pixels: pixels)
        truth = Truth(np.array([box], float), np.array([index % classes])) if boxes else Truth()
        records.append(Record(example, truth, "train" if first == 0 else "test"))
    return Dataset("coloured", tuple(["red", "green", "blue"][:classes]), tuple(records))


@pytest.mark.parametrize("classes", [2, 3])
def test_weights_are_those_of_scikit_learn_on_standardized_features(classes):
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 5, (90, 6)).astype(np.float32), np.arange(90) % classes
    x[:, 2] = 7  # a feature that never changes must not be divided by its deviation
    x[np.arange(90), y] += 9
    made = fit_linear(x, y, classes=classes, classifier="logistic")
    scaler = StandardScaler().fit(x.astype(np.float64))
    expected = LogisticRegression(C=made.strength, max_iter=5000).fit(scaler.transform(x.astype(np.float64)), y)
    logits = x @ made.weight.T + made.bias
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(shares, expected.predict_proba(scaler.transform(x.astype(np.float64))), atol=1e-5)


def test_the_strength_is_chosen_on_what_was_held_out():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 60)).astype(np.float32), np.arange(40) % 2
    x[:, 0] += 1.5 * y
    held = rng.normal(size=(400, 60)).astype(np.float32), np.arange(400) % 2
    held[0][:, 0] += 1.5 * held[1]
    chosen = fit_linear(x, y, held, classes=2, classifier="logistic")
    from camlucida.training import linear_probe as module

    scores = {}
    for strength in module.STRENGTHS:
        fitted = LogisticRegression(C=strength, max_iter=5000).fit(StandardScaler().fit_transform(x), y)
        scores[strength] = fitted.score(StandardScaler().fit(x).transform(held[0]), held[1])
    assert scores[chosen.strength] == pytest.approx(max(scores.values()), abs=1e-9)
    assert min(scores.values()) < max(scores.values())


def test_a_probe_opens_as_a_run_and_its_maps_sum_to_its_decision(base, tmp_path):
    train, test = dataset(0, 60), dataset(100, 30)
    out = tmp_path / "probe"
    found = probe(base, train.examples, (), test.examples, train.classes, out)
    assert found.test > 0.9
    assert np.isnan(found.val)
    ex = cl.explain([record.example.read() for record in test.records], str(out), classes="all")
    assert ex.residual.max() < 1e-4
    assert (ex.logits.argmax(1) == [record.example.labels[0] for record in test.records]).mean() == found.test
    network, _, preprocess = probe_base(base, 0, 0)
    features = pooled_features(network, preprocess, (record.example.read() for record in train.records))
    linear = fit_linear(features, np.arange(60) % 3, classes=3)
    own = with_linear(network, linear)
    expected = torch.tensor(features @ linear.weight.T + linear.bias).float()
    batch = np.stack([preprocess(record.example.read().pixels)[0] for record in train.records])
    torch.testing.assert_close(own(torch.from_numpy(batch)).detach(), expected, atol=1e-4, rtol=1e-4)


def test_the_three_rows_of_fine_grained_recognition(base):
    train, test = dataset(0, 60), dataset(100, 30)
    rows = fine_grained(base, train, test, classifier="logistic")
    assert rows.pictures == 30
    assert rows.true_crop == 1.0  # a crop to the square is all colour
    assert min(rows.whole, rows.map_crop) > 0.5
    assert 0 <= rows.box_iou <= 1
    without = fine_grained(base, dataset(0, 60, boxes=False), dataset(100, 30, boxes=False), classifier="logistic")
    assert without.whole == rows.whole
    assert without.map_crop == rows.map_crop
    assert np.isnan(without.true_crop)


def test_what_cannot_be_probed_is_refused(base, tmp_path):
    two = Example("both", None, (0, 1), lambda: coloured(0)[0])
    with pytest.raises(TrainingError, match=r"both: has 2 classes; a linear probe needs exactly one each"):
        probe(base, (two,), (), (), ("red", "green"), tmp_path / "no")
    with pytest.raises(TrainingError, match=r"with examples of each; none of class \[2\]"):
        fit_linear(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]), classes=3)
    with pytest.raises(TrainingError, match=r"classifier: expected one of logistic, svm, got 'tree'"):
        fit_linear(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]), classes=2, classifier="tree")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(TrainingError, match=r"full: is not empty; choose another folder"):
        probe(base, (), (), (), ("red", "green"), tmp_path / "full")
    assert not (tmp_path / "no").exists()
