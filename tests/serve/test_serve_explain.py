"""The answers: field by field what `camlucida.explain` says of the same picture."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from serving import picture, post

import camlucida as cl
from camlucida.images.preprocess import IMAGENET_MEAN

ASKS = {
    "top five": ({}, 5),
    "top two": ({"classes": "2"}, 2),
    "all": ({"classes": "all"}, "all"),
    "names": ({"classes": "dog, cat"}, ["dog", "cat"]),
    "one name": ({"classes": "Sailing boat"}, ["sailing boat"]),
    "repeated": ({"classes": ["dog", "car"]}, ["dog", "car"]),
    "threshold": ({"classes": "3", "threshold": "0.6"}, 3),
}


def decoded(maps):
    values = np.frombuffer(base64.b64decode(maps["data"]), "<f2").reshape(maps["shape"])
    return values.astype(np.float64) * maps["scale"]


@pytest.fixture(scope="module")
def explainer():
    return cl.Explainer()


@pytest.mark.parametrize(("fields", "classes"), ASKS.values(), ids=ASKS)
def test_as_explain(client, explainer, fields, classes):
    image = picture(3, (75, 120), "JPEG")
    answer = post(client, image, **fields).json()
    expected = explainer(image, classes)
    assert list(answer) == ["model", "classes", "maps", "view", "note", "activation"]
    assert answer["model"] == "demo"
    assert answer["activation"] == expected.origin.activation
    assert answer["note"] == expected.origin.note
    assert answer["view"]["image_hw"] == [75, 120]
    assert answer["view"]["seen_xyxy"] == list(expected.views[0].seen_xyxy)
    rows = answer["classes"]
    assert [row["id"] for row in rows] == expected.classes[0].tolist()
    assert [row["name"] for row in rows] == list(expected.names[0])
    columns = {"logit": expected.scores, "probability": expected.probabilities, "bias": expected.bias}
    for name, values in columns.items():
        np.testing.assert_allclose([row[name] for row in rows], values[0], rtol=2e-5, atol=2e-6)
    assert max(row["residual"] for row in rows) < 1e-5
    boxes = [one[0].tolist() if len(one) else None for one in expected.boxes(float(fields.get("threshold", 0.2)))[0]]
    assert [row["box"] for row in rows] == boxes
    scale = answer["maps"]["scale"]
    assert scale == pytest.approx(np.abs(expected.maps).max(), rel=1e-5)
    np.testing.assert_allclose(decoded(answer["maps"]), expected.maps[0], atol=scale * 2**-11)
    total = decoded(answer["maps"]).sum((1, 2)) + [row["bias"] for row in rows]
    np.testing.assert_allclose(total, [row["logit"] for row in rows], atol=scale * 100 * 2**-11)


def test_json_says_the_same(client):
    image = picture(4)
    form = post(client, image, classes="dog,cat", threshold="0.3", maps="float16").json()
    body = {"image": base64.b64encode(image).decode(), "classes": ["dog", "cat"], "threshold": 0.3, "maps": "float16"}
    assert client.post("/v1/explain", json=body).json() == form
    for kind in (int, float):  # JSON knows no difference
        ids = [kind(row["id"]) for row in form["classes"]]
        assert client.post("/v1/explain", json=body | {"classes": ids}).json() == form


def test_png_maps(client, explainer):
    maps = post(client, classes="all", maps="png").json()["maps"]
    grey = np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in maps["data"]])
    assert list(grey.shape) == maps["shape"] == [73, 10, 10]
    values = (grey.astype(np.float64) - 128) / 127 * maps["scale"]
    np.testing.assert_allclose(values, explainer(picture(), "all").maps[0], atol=maps["scale"] / 127 * 0.501)


def test_no_maps(client):
    answer = post(client, maps="none").json()
    assert answer["maps"] is None
    assert answer["classes"][0]["box"]


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_kinds_of_pictures(client, kind):
    assert post(client, picture(1, kind=kind)).status_code == 200


def test_note_of_the_picture(client):
    frames = [Image.fromarray(np.full((20, 20), 60 * i, np.uint8)) for i in range(3)]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    assert "first frame of 3" in post(client, out.getvalue()).json()["note"]


def test_models(client):
    model = cl.open_model()
    (said,) = client.get("/v1/models").json()["models"]
    assert said["name"] == "demo"
    assert said["classes"] == list(model.class_names)
    assert said["input_hw"] == [160, 160]
    assert said["grid_hw"] == [10, 10]
    assert said["activation"] == "softmax"
    assert said["note"] == model.note
    assert said["preprocess"]["fit"] == "stretch"
    assert said["preprocess"]["mean"] == list(IMAGENET_MEAN)


def test_torch_models(rng):
    """Pictures are grouped by what they ask; answers are those of `explain`."""
    from serving import running
    from torch import nn

    net = nn.Sequential(nn.Conv2d(3, 8, 3, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    model = cl.open_model(net.eval())
    with running(model) as server, server.client() as client:
        for fields, classes in (({"classes": "2"}, 2), ({"classes": "class 3"}, [3]), ({"classes": "all"}, "all")):
            expected = cl.explain(picture(), model, classes=classes)
            answer = post(client, **fields).json()
            assert [row["id"] for row in answer["classes"]] == expected.classes[0].tolist()
            np.testing.assert_allclose(decoded(answer["maps"]), expected.maps[0], atol=answer["maps"]["scale"] * 2**-10)
