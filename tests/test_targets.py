"""What was asked, resolved against logits; probabilities; and every message."""

from __future__ import annotations

import numpy as np
import pytest

from camlucida.errors import TargetError
from camlucida.targets import Contrast, choose, class_name, find_class, probabilities

LOGITS = np.array([[0.1, 3.0, 2.0, -1.0], [5.0, 5.0, -2.0, 4.0]], np.float32)
LABELS = ["ant", "bee", "house cat, Felis catus", "dog"]
ONE = np.array([[0.7], [-0.2]], np.float32)


@pytest.mark.parametrize(
    ("classes", "ids", "names"),
    [
        (1, [[1], [0]], (("bee",), ("ant",))),
        (
            np.int64(2),
            [[1, 2], [0, 1]],
            (("bee", "house cat, Felis catus"), ("ant", "bee")),
        ),  # a tie: the lower id first
        ("all", [[0, 1, 2, 3]] * 2, (tuple(LABELS),) * 2),
        ([3, 0], [[3, 0]] * 2, (("dog", "ant"),) * 2),
        ((2,), [[2]] * 2, (("house cat, Felis catus",),) * 2),
        (np.array([3, 3]), [[3, 3]] * 2, (("dog", "dog"),) * 2),
        (np.array([[3], [1]], np.uint8), [[3], [1]], (("dog",), ("bee",))),
        ("bee", [[1]] * 2, (("bee",),) * 2),
        ("DOG", [[3]] * 2, (("dog",),) * 2),
        ("felis catus", [[2]] * 2, (("house cat, Felis catus",),) * 2),
        (["dog", 0], [[3, 0]] * 2, (("dog", "ant"),) * 2),
        (Contrast("dog", 0), [[-1]] * 2, (("dog - ant",),) * 2),
        ([Contrast(1, 2), "ant"], [[-1, 0]] * 2, (("bee - house cat, Felis catus", "ant"),) * 2),
    ],
)
def test_ids_names_and_scores(classes, ids, names):
    targets = choose(classes, LOGITS, LABELS)
    assert targets.ids.tolist() == ids
    assert targets.ids.dtype == np.int64
    assert targets.names == names
    scores = targets.of(LOGITS)
    for b, t in np.ndindex(targets.ids.shape):
        class_id = targets.ids[b, t]
        if class_id >= 0:
            assert scores[b, t] == LOGITS[b, class_id]
    if isinstance(classes, Contrast):
        np.testing.assert_array_equal(scores[:, 0], LOGITS[:, 3] - LOGITS[:, 0])


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_scores_get_the_logits_of_the_engine_that_runs(kind):
    given = LOGITS
    if kind == "torch":
        given = pytest.importorskip("torch").from_numpy(LOGITS)
    seen = []

    def margin(logits):
        seen.append(type(logits))
        return logits[:, 1] - logits[:, 0]

    targets = choose(margin, given, LABELS)
    assert targets.names == (("margin",),) * 2
    assert targets.ids.tolist() == [[-1]] * 2
    np.testing.assert_array_equal(np.asarray(targets.of(given)), LOGITS[:, 1:2] - LOGITS[:, :1])
    assert set(seen) == {type(given)}
    two = choose(lambda logits: logits[:, :2], given, None)
    assert two.names == (("<lambda> 0", "<lambda> 1"),) * 2


@pytest.mark.parametrize("classes", ["all", 1, [1, 0], np.array([[1], [0]]), Contrast(0, 1), [Contrast(0, 1), 1]])
@pytest.mark.parametrize("logits", [LOGITS, ONE], ids=["four", "one"])
def test_torch_and_numpy_score_alike(classes, logits):
    torch = pytest.importorskip("torch")
    targets = choose(classes, logits, None)
    np.testing.assert_allclose(targets.of(torch.from_numpy(logits)).numpy(), targets.of(logits), rtol=1e-7)


def test_a_single_logit_is_two_classes():
    targets = choose("all", ONE, None)
    np.testing.assert_allclose(targets.of(ONE), [[-0.7, 0.7], [0.2, -0.2]])
    assert choose(1, ONE, None).ids.tolist() == [[1], [0]]
    assert choose(2, ONE, ["healthy", "ill"]).names == (("ill", "healthy"), ("healthy", "ill"))
    assert choose("ill", ONE, ["healthy", "ill"]).ids.tolist() == [[1]] * 2
    assert choose("positive", ONE, None).ids.tolist() == [[1]] * 2
    assert choose("all", ONE, ["ill"]).names[0] == ("not ill", "ill")
    assert choose("ill", ONE, ["ill"]).ids.tolist() == [[1]] * 2


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (0, r"classes=0 asks for the top 0, but the model has 4 classes; for one class give its id in a list: \[0\]"),
        (5, r"classes=5 asks for the top 5, but the model has 4 classes"),
        (-1, r"classes=-1 asks for the top -1"),
        (True, r"expected a count, ids, names, a contrast, 'all' or a score, got True"),
        (None, r"expected a count, ids, names, a contrast, 'all' or a score, got None"),
        (2.0, r"expected a count, .*, got 2.0"),
        ([], r"classes: the list is empty; give at least one class"),
        ([4], r"class 4 does not exist; the model has classes 0 to 3"),
        ([-1], r"class -1 does not exist"),
        ([1.0], r"expected ids \(whole numbers\), names or contrasts, got 1.0"),
        ([True], r"expected ids \(whole numbers\), names or contrasts, got True"),
        ([None], r"got None"),
        (np.array([[0], [1], [2]]), r"expected integers of shape \(2, T\), got int64 \(3, 1\)"),
        (np.array([[0.0], [1.0]]), r"expected integers of shape \(2, T\), got float64 \(2, 1\)"),
        (np.array([[0], [4]]), r"class 4 does not exist"),
        ("beee", r"the model has no class 'beee' among its 4; did you mean 'bee'\?"),
        ("xyzzy", r"the model has no class 'xyzzy' among its 4; the first are ant, bee, house cat, Felis catus, dog"),
        (Contrast("bee", "xyzzy"), r"no class 'xyzzy'"),
        (Contrast(0, 9), r"class 9 does not exist"),
        (lambda logits: logits.sum(), r"the score gave shape \(\) for logits \(2, 4\); expected \(2,\) or \(2, T\)"),
        (lambda logits: logits[:1, 0], r"the score gave shape \(1,\)"),
        (lambda logits: logits[:, None, :], r"the score gave shape \(2, 1, 4\)"),
    ],
)
def test_messages(classes, message):
    with pytest.raises(TargetError, match=message) as caught:
        choose(classes, LOGITS, LABELS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("bee", ["bee", "ant", "bee"], r"class 'bee' is ambiguous: ids \[0, 2\] carry that name; give the id"),
        ("crane", ["crane, bird", "crane, machine"], r"class 'crane' is ambiguous: ids \[0, 1\]"),
        ("class 7", None, r"no class 'class 7' among its 3; did you mean 'class"),
    ],
)
def test_ambiguous_and_unknown_names(name, labels, message):
    with pytest.raises(TargetError, match=message):
        find_class(name, len(labels or "abc"), labels)


def test_an_exact_name_wins_over_one_in_another_case_and_over_a_synonym():
    labels = ["Crane", "crane", "bird, crane"]
    assert [find_class(name, 3, labels) for name in ("Crane", "crane", "BIRD")] == [0, 1, 2]
    assert find_class("class 2", 3, None) == 2


def test_labels_that_do_not_reach_are_numbers():
    assert [class_name(i, ["ant"], 3) for i in range(3)] == ["ant", "class 1", "class 2"]


def test_probabilities_equal_their_definitions():
    wide = LOGITS.astype(np.float64)
    softmax = [[np.exp(v) / sum(np.exp(u) for u in row) for v in row] for row in wide]
    np.testing.assert_allclose(probabilities(LOGITS, "softmax"), softmax, rtol=1e-6)
    np.testing.assert_allclose(probabilities(LOGITS, "sigmoid"), 1 / (1 + np.exp(-wide)), rtol=1e-6)
    one = 1 / (1 + np.exp(-ONE.astype(np.float64)))
    for activation in ("sigmoid", "softmax"):  # of one logit there is no other softmax
        np.testing.assert_allclose(probabilities(ONE, activation), np.concatenate((1 - one, one), 1), rtol=1e-6)
    assert np.isnan(probabilities(LOGITS, "none")).all()
    assert probabilities(ONE, "none").shape == (2, 2)


def test_probabilities_of_huge_logits_do_not_overflow():
    huge = np.array([[1e4, -1e4, 0]], np.float32)
    assert probabilities(huge, "softmax").tolist() == [[1, 0, 0]]
    assert probabilities(huge, "sigmoid").tolist() == [[1, 0, 0.5]]
