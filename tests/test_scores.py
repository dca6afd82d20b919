"""Scores beyond classes and models read out as logits, against autograd through the plain model."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import camlucida as cl  # noqa: E402
from camlucida.errors import CamlucidaError, ModelError, TargetError  # noqa: E402
from camlucida.pytorch.readouts import overlaps  # noqa: E402
from nets import BY_NAME, Call, conv_body, pooled  # noqa: E402

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [4.0, 4.0, -4.0]], dtype=torch.float64)


def gradcam_by_hand(score, features):
    """Σ_k mean(g_k) A_k, from a score that autograd knows as a function of the features."""
    (gradient,) = torch.autograd.grad(score.sum(), features)
    return (gradient.mean((2, 3), keepdim=True) * features).sum(1).detach().numpy()


def hirescam_by_hand(score, features):
    (gradient,) = torch.autograd.grad(score.sum(), features)
    return (gradient * features).sum(1).detach().numpy()


BY_HAND = {"gradcam": gradcam_by_hand, "hirescam": hirescam_by_hand}


def close(got, wanted, tolerance=1e-6):
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= tolerance * max(np.abs(wanted).max(), 1e-30)


# --- scores on the logits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_id", [0, 1, 2])
def test_probability_and_log_odds_of_many_classes(class_id):
    p = (LOGITS.exp() / LOGITS.exp().sum(1, keepdim=True))[:, class_id]
    assert torch.allclose(cl.probability(class_id)(LOGITS), p, rtol=1e-12)
    assert torch.allclose(cl.log_odds(class_id)(LOGITS), (p / (1 - p)).log(), rtol=1e-12)
    several = 1 / (1 + (-LOGITS[:, class_id]).exp())
    assert torch.allclose(cl.probability(class_id, "sigmoid")(LOGITS), several, rtol=1e-12)


def test_of_a_single_logit():
    one = torch.tensor([[0.3], [-2.0]], dtype=torch.float64)
    for activation in ("softmax", "sigmoid"):
        assert torch.allclose(cl.probability(1, activation)(one), one[:, 0].sigmoid())
        assert torch.allclose(cl.probability(0, activation)(one), 1 - one[:, 0].sigmoid())
    assert torch.allclose(cl.log_odds(1)(one), one[:, 0])
    assert torch.allclose(cl.log_odds(0)(one), -one[:, 0])


def test_log_odds_do_not_saturate():
    sure = torch.tensor([[200.0, 0.0]], requires_grad=True)
    assert cl.log_odds(0)(sure).item() == 200
    (gradient,) = torch.autograd.grad(cl.log_odds(0)(sure).sum(), sure)
    assert gradient.tolist() == [[1, -1]]


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
@pytest.mark.parametrize("make", [cl.probability, cl.log_odds])
def test_maps_of_scores(make, method):
    case = BY_NAME["gap_linear"]
    net, x = case.net(), case.batch(2)
    made = cl.explain(x, net, method, make(2))
    features = net.body(x).detach().requires_grad_()
    close(made.maps[:, 0], BY_HAND[method](make(2)(net.head(features)), features))
    assert np.allclose(made.scores[:, 0], make(2)(net(x)).detach())
    assert made.names[0] == (make(2).__name__,)
    assert "class 2" in made.names[0][0]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: cl.probability(3)(LOGITS), "class 3 does not exist; the model has classes 0 to 2"),
        (lambda: cl.log_odds(-1)(LOGITS), "class -1 does not exist; the model has classes 0 to 2"),
        (lambda: cl.log_odds(2)(LOGITS[:, :1]), "class 2 does not exist; the model has classes 0 to 1"),
        (lambda: cl.probability("cat")(LOGITS), "class 'cat' does not exist"),
        (lambda: cl.probability(True)(LOGITS), "class True does not exist"),
        (lambda: cl.probability(0, "none"), "expected activation 'softmax' or 'sigmoid', got 'none'"),
        (lambda: cl.explain(cl.sample(), classes=cl.log_odds(0)), "not linear in the logits, so it needs gradients"),
    ],
)
def test_scores_that_are_none(call, match):
    with pytest.raises(TargetError, match=match):
        call()


# --- similarity -------------------------------------------------------------------------------------------------------


class Named(dict):
    """As a Hugging Face output: a mapping with attributes."""

    __getattr__ = dict.get


ENCODERS = {
    "tensor": lambda e: e,
    "tuple": lambda e: (e[:, :2], e),
    "image_embeds": lambda e: Named(last_hidden_state=e[:, None], image_embeds=e, pooler_output=e + 1),
    "pooler_output": lambda e: Named(last_hidden_state=e[:, :, None, None] + 1, pooler_output=e[:, :, None, None]),
}


def encoder(out="tensor"):
    torch.manual_seed(1)
    body = nn.Sequential(conv_body(), nn.Conv2d(6, 6, 1))
    return pooled(nn.Linear(6, 4), Call(ENCODERS[out]), body=body).eval().double()


REFERENCES = torch.randn(3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 7


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
@pytest.mark.parametrize("layer", [None, "encoder.body.0"])
@pytest.mark.parametrize("out", list(ENCODERS))
def test_similarity(out, layer, method):
    plain, x = encoder(), BY_NAME["gap_linear"].batch(2)
    made = cl.explain(x, cl.Similarity(encoder(out), REFERENCES, scale=5), method, "all", layer=layer)
    for r in range(3):
        features = (plain.body[0] if layer else plain.body)(x).detach().requires_grad_()
        embedded = plain.head(plain.body[1](features) if layer else features)
        score = 5 * F.cosine_similarity(embedded, REFERENCES[r][None])
        assert np.allclose(made.scores[:, r], score.detach(), atol=1e-6)
        close(made.maps[:, r], BY_HAND[method](score, features))


def test_a_picture_is_like_itself():
    net, x = pooled(nn.Linear(6, 4, bias=False)).eval().double(), BY_NAME["gap_linear"].batch(1)
    made = cl.explain(x, cl.Similarity(net, net(x)), "cam", [1])
    assert made.scores == pytest.approx(1)
    assert made.residual == pytest.approx(0, abs=1e-6)
    assert "normalization" in made.origin.head


@pytest.mark.parametrize(
    ("references", "match"),
    [
        (torch.ones(4), r"expected references \(R, D\), floating; got torch.float32 \(4,\)"),
        (torch.ones(2, 4, dtype=torch.int64), "got torch.int64"),
        (torch.ones(0, 4), r"got torch.float32 \(0, 4\)"),
        (torch.tensor([[1.0, 1.0], [0.0, 0.0]]), "a reference is zero or not finite"),
        (torch.tensor([[1.0, float("nan")]]), "a reference is zero or not finite"),
    ],
)
def test_references_that_are_none(references, match):
    with pytest.raises(ModelError, match=match):
        cl.Similarity(nn.Flatten(), references)


def test_embeddings_of_another_width_are_named():
    net = cl.Similarity(encoder("tuple"), torch.ones(2, 5))
    with pytest.raises(ModelError, match=r"embeddings \(B, 5\) like the references; .* shapes \(2, 2\), \(2, 4\)"):
        cl.explain(BY_NAME["gap_linear"].batch(2), net)


# --- segmentation -----------------------------------------------------------------------------------------------------


class Segmenter(nn.Module):
    def __init__(self, out) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.backbone, self.classifier, self.out = conv_body(), nn.Conv2d(6, 5, 3, 1, 1), out

    def forward(self, x):
        return self.out(F.interpolate(self.classifier(self.backbone(x)), x.shape[2:], mode="bilinear"))


SEGMENTERS = {
    "tensor": lambda s: s,
    "torchvision": lambda s: {"aux": s + 1, "out": s},
    "huggingface": lambda s: Named(loss=None, logits=s),
}
MASK = torch.zeros(16, 24, dtype=torch.bool)
MASK[3:9, 10:20] = True


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
@pytest.mark.parametrize("out", list(SEGMENTERS))
def test_mask_score_at_a_named_layer(out, method):
    net, x = Segmenter(SEGMENTERS[out]).eval().double(), BY_NAME["gap_linear"].batch(3)
    made = cl.explain(x, cl.MaskScore(net, MASK), method, [1, 4], layer="segmenter.backbone")
    for t, class_id in enumerate((1, 4)):
        features = net.backbone(x).detach().requires_grad_()
        score = F.interpolate(net.classifier(features), (16, 24), mode="bilinear")[:, class_id][:, MASK].sum(1)
        assert np.allclose(made.scores[:, t], score.detach(), rtol=1e-5)
        close(made.maps[:, t], BY_HAND[method](score, features))


def test_the_default_features_of_a_segmenter_are_its_class_maps():
    net, x = Segmenter(SEGMENTERS["tensor"]).eval().double(), BY_NAME["gap_linear"].batch(2)
    made = cl.explain(x, cl.MaskScore(net, MASK), "cam", [1])
    assert np.allclose(made.maps[:, 0], (net(x)[:, 1] * MASK).detach(), atol=1e-6)
    assert made.residual.max() <= 1e-5


def test_a_mask_of_weights():
    net, x = Segmenter(SEGMENTERS["tensor"]).eval().double(), BY_NAME["gap_linear"].batch(2)
    weights = torch.rand(16, 24)
    assert torch.allclose(cl.MaskScore(net, weights)(x), (net(x) * weights).sum((2, 3)))


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (torch.ones(1, 4, 4), r"expected a mask \(h, w\) with a pixel in it, got \(1, 4, 4\)"),
        (torch.zeros(4, 4), r"got \(4, 4\) of zeros"),
        (torch.ones(8, 12), r"logits \(B, K, 8, 12\), the mask's size; .* \(2, 5, 16, 24\); resize the mask"),
    ],
)
def test_masks_that_are_none(mask, match):
    with pytest.raises(ModelError, match=match):
        cl.explain(BY_NAME["gap_linear"].batch(2, torch.float32),
                   cl.MaskScore(Segmenter(SEGMENTERS["tensor"]), mask), "gradcam", [1])  # fmt: skip


# --- detection --------------------------------------------------------------------------------------------------------


class Detector(nn.Module):
    """Like torchvision's: pictures one by one before and after the backbone, a threshold, suppression, own lists."""

    def __init__(self, threshold=0.3) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.backbone, self.head, self.threshold = conv_body(), nn.Conv2d(6, 3 + 4, 1), threshold

    def forward(self, pictures):
        made = self.head(self.backbone(torch.stack([(picture - 0.1) * 2 for picture in pictures])))
        return [self._found(one) for one in made.flatten(2).mT]

    def _found(self, cells):  # (24, 7)
        scores, labels = cells[:, :3].softmax(1).max(1)
        corner = torch.stack((torch.arange(24) % 6 * 4.0, torch.arange(24) // 6 * 4.0), 1).to(cells)
        boxes = torch.cat((corner, corner + 4 + cells[:, 3:5].sigmoid() * 4), 1)
        chosen = scores > self.threshold
        boxes, scores, labels = boxes[chosen], scores[chosen], labels[chosen]
        shared, kept = overlaps(boxes, boxes).tolist(), []
        for i in scores.argsort(descending=True).tolist():
            if all(shared[i][k] < 0.3 for k in kept):
                kept.append(i)
        kept = torch.tensor(kept, dtype=torch.int64)
        return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}


def asked(net, x):
    """Boxes to ask for: a detection a bit off, one of another label, and a place where nothing is."""
    found = net(list(x))[0]
    boxes = torch.stack((found["boxes"][0] + 0.2, found["boxes"][1], torch.tensor([90.0, 90, 95, 95])))
    labels = [int(found["labels"][0]), int(found["labels"][1] + 1) % 3, 0]
    return boxes.detach(), labels


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_box_scores_of_any_number_of_pictures(method, size):
    net, x = Detector().eval(), BY_NAME["gap_linear"].batch(5, torch.float32)[:size]
    boxes, labels = asked(net, x)
    readout = cl.BoxScore(net, boxes, labels)
    assert readout(x)[0, 0] == net(list(x))[0]["scores"][0]
    assert readout(x)[:, 2].tolist() == [0] * size
    explainer = cl.Explainer(readout, method=method, layer="detector.backbone", activation="none")
    made = explainer(x, "all")
    for n, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        for i in range(size):
            features = net.backbone((x[i : i + 1] - 0.1) * 2).detach().requires_grad_()
            found = net._found(net.head(features).flatten(2).mT[0])
            score, overlap = features.sum() * 0, 0.5
            for one, is_label, its in zip(found["boxes"], found["labels"], found["scores"], strict=True):
                here = float(overlaps(box[None], one[None]).detach())
                if is_label == label and here >= overlap:
                    score, overlap = its + features.sum() * 0, here + 1e-12
            assert made.scores[i, n] == pytest.approx(score.item(), abs=1e-6)
            wanted = BY_HAND[method](score, features)[0]
            assert np.abs(made.maps[i, n] - wanted).max() <= 1e-6 + 1e-4 * np.abs(wanted).max()


def test_batches_of_changing_size_and_pictures():
    net, x = Detector().eval(), BY_NAME["gap_linear"].batch(4, torch.float32)
    boxes, labels = asked(net, x)
    explainer = cl.Explainer(cl.BoxScore(net, boxes, labels), method="gradcam", layer="detector.backbone")
    together = explainer(x, "all").maps
    for part in (slice(0, 1), slice(1, 4), slice(3, 4), slice(2, 4)):
        assert np.abs(explainer(x[part], "all").maps - together[part]).max() <= 1e-6


def test_a_detector_that_finds_nothing_scores_zero():
    net, x = Detector(threshold=1.1).eval(), BY_NAME["gap_linear"].batch(2, torch.float32)
    made = cl.explain(
        x, cl.BoxScore(net, torch.tensor([[0.0, 0, 4, 4]]), [1]), "gradcam", [1], layer="detector.backbone"
    )
    assert not made.scores.any()
    assert not made.maps.any()


def test_overlaps_worked_out():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 2]])
    others = torch.tensor([[2.0, 2, 6, 6], [0, 0, 4, 4], [4, 0, 8, 4], [1, 1, 1, 3]])
    assert torch.allclose(overlaps(boxes, others), torch.tensor([[4 / 28, 1, 0, 0], [0, 0.25, 0, 0]]))


@pytest.mark.parametrize(
    ("boxes", "labels", "iou", "match"),
    [
        (torch.ones(4), [1], 0.5, r"expected boxes \(n, 4\) and labels \(n,\); got \(4,\) and \(1,\)"),
        (torch.ones(0, 4), [], 0.5, r"got \(0, 4\) and \(0,\)"),
        (torch.tensor([[0.0, 0, 4, 4]]), [1, 2], 0.5, r"got \(1, 4\) and \(2,\)"),
        (torch.tensor([[0.0, 0, 0, 4]]), [1], 0.5, "one is empty"),
        (torch.tensor([[0.0, 0, 4, 4]]), [1], 0.0, r"expected iou in \(0, 1\], got 0"),
    ],
)
def test_boxes_that_are_none(boxes, labels, iou, match):
    with pytest.raises(ModelError, match=match):
        cl.BoxScore(Detector(), boxes, labels, iou)


@pytest.mark.parametrize(
    ("output", "match"),
    [(lambda x: x[0], "gave Tensor"), (lambda x: [{"boxes": one} for one in x], "gave list tensors of shapes")],
)
def test_no_detections_are_named(output, match):
    net = cl.BoxScore(Call(output), torch.tensor([[0.0, 0, 4, 4]]), [1])
    with pytest.raises(
        CamlucidaError, match=f"a mapping with boxes, scores and labels for each of 2 pictures; .*{match}"
    ):
        cl.explain(BY_NAME["gap_linear"].batch(2, torch.float32), net)


def test_the_readouts_do_not_change_what_they_are_given():
    references, mask, boxes = torch.full((1, 4), 2.0), MASK.clone(), torch.tensor([[0.0, 0, 4, 4]])
    cl.Similarity(nn.Flatten(), references)
    cl.MaskScore(nn.Identity(), mask).mask.zero_()
    cl.BoxScore(Detector(), boxes, [1]).boxes.zero_()
    assert references.tolist() == [[2.0] * 4]
    assert torch.equal(mask, MASK)
    assert boxes.tolist() == [[0, 0, 4, 4]]
