"""What a user says of a model's pictures: a TOML file beside it, or options; held against the input that is run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import camlucida as cl
from camlucida.errors import ModelError
from camlucida.explainer import Explainer
from camlucida.images.preprocess import Preprocess

onnx = pytest.importorskip("onnx")
import onnxruntime  # noqa: E402
from wild_networks import COLOUR, SIZE, network  # noqa: E402

from camlucida.export.exporting import ExportOptions, export  # noqa: E402
from commands import caller  # noqa: E402

PIXELS = np.full((*SIZE, 3), COLOUR, np.uint8)
BGR = PIXELS[..., ::-1].astype(np.float32)
TOLD = {
    'mean = [104, 117, 123]\nscale = 255\norder = "bgr"': BGR - (104, 117, 123),
    "scale = 255": PIXELS.astype(np.float32),
    "mean = [0.5]\nstd = [0.5]": PIXELS / 127.5 - 1,
    'order = "bgr"': (BGR / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225),
    "mean = [0, 0, 0]\nstd = [1, 1, 1]": PIXELS / 255,
    "std = [0.5, 0.25, 0.125]": PIXELS / 255 / (0.5, 0.25, 0.125),
    'fit = "stretch"\ncrop_fraction = 1.0\nscale = 1.0': PIXELS / 255,
}
OPTIONS = {
    ("--mean", "104", "117", "123", "--scale", "255", "--bgr"): BGR - (104, 117, 123),
    ("--scale", "255"): PIXELS.astype(np.float32),
    ("--mean", "0.5", "--std", "0.5"): PIXELS / 127.5 - 1,
    ("--bgr",): (BGR / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225),
    ("--mean", "0,0,0", "--std", "1,1,1"): PIXELS / 255,
}


@pytest.fixture
def path(tmp_path):
    onnx.save(network(gain=30).model, tmp_path / "net.onnx")
    Image.fromarray(PIXELS).save(tmp_path / "picture.png")
    return tmp_path / "net.onnx"


def truth(path, values):
    """Logits of a truly prepared picture, by plain ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"pictures": values.transpose(2, 0, 1)[None].astype(np.float32)})[0]


@pytest.mark.parametrize("text", TOLD)
def test_a_file_beside_the_model_says_how_pictures_are_prepared(path, text):
    path.with_suffix(".toml").write_text(text)
    explainer = Explainer(path, method="occlusion")
    ex = explainer(PIXELS, [0])
    np.testing.assert_allclose(ex.logits, truth(path, TOLD[text]), rtol=1e-4, atol=1e-4)
    assert (ex.origin.preprocess, ex.origin.note) == ("stated", "")
    export(path, path.with_name("cam.onnx"))
    np.testing.assert_allclose(Explainer(path.with_name("cam.onnx"))(PIXELS).logits, ex.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("given", OPTIONS, ids=" ".join)
def test_options_say_it_to_every_command(path, monkeypatch, capsys, given):
    run = caller(monkeypatch, capsys)
    wanted = truth(path, OPTIONS[given])[0]
    found = json.loads(
        run("map", path.with_name("picture.png"), "-m", path, "--method", "occlusion", "--json", *given).out
    )
    first = found["classes"][0]
    assert first["id"] == wanted.argmax()
    assert first["score"] == pytest.approx(wanted.max(), abs=1e-3)
    told = run("info", path, "--json", *given)
    assert json.loads(told.out)["preprocessing"].startswith("given: ")
    assert run("export", path, "-o", path.with_name("cam.onnx"), *given).code == 0
    np.testing.assert_allclose(Explainer(path.with_name("cam.onnx"))(PIXELS).logits[0], wanted, rtol=1e-4, atol=1e-3)


def test_what_is_assumed_is_said_once_in_a_line(path, monkeypatch, capsys):
    run = caller(monkeypatch, capsys)
    said = "how its pictures are prepared is not stated; assumed: RGB, 0 to 1, ImageNet's mean and std, 40×56 pixels"
    ended = run("map", path.with_name("picture.png"), "-m", path, "--method", "occlusion", "--json")
    assert [line for line in ended.err.splitlines() if said in line]
    assert said in json.loads(run("info", path, "--json").out)["preprocessing"]
    ex = Explainer(path, method="occlusion")(PIXELS, [0])
    assert (ex.origin.preprocess, said in ex.origin.note) == ("assumed", True)
    ex.save(path.with_name("out"))
    assert json.loads((path.with_name("out") / "manifest.json").read_text())["preprocess"] == "assumed"
    own = Explainer(path, method="occlusion", preprocess=Preprocess(SIZE))(PIXELS, [0])
    assert (own.origin.preprocess, own.origin.note) == ("given", "")
    ready = Explainer(path, method="occlusion")(np.zeros((1, 3, *SIZE), np.float32), [0])
    assert (ready.origin.preprocess, ready.origin.note) == ("", "")


def test_what_was_given_travels_with_the_exported_file(path):
    export(path, path.with_name("cam.onnx"), ExportOptions(mean=(1, 2, 3), std=(4, 5, 6), scale=255, order="bgr"))
    model = cl.open_model(path.with_name("cam.onnx"))
    assert model.preprocess_source == "stated"
    assert (model.preprocess.mean, model.preprocess.std) == ((1, 2, 3), (4, 5, 6))
    assert (model.preprocess.scale, model.preprocess.order) == (255, "bgr")


def test_names_activation_and_output_stand_beside_the_model_too(path):
    path.with_suffix(".toml").write_text(
        'class_names = ["a", "b", "c", "d"]\nactivation = "sigmoid"\noutput = "scores"\n'
    )
    model = cl.open_model(path)
    assert (model.class_names, model.activation) == (("a", "b", "c", "d"), "sigmoid")
    assert model.preprocess_source == "assumed"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mean = [", r"net.toml: cannot be read as TOML"),
        ("means = [1, 2, 3]", r"net.toml: does not know 'means'; expected some of size, fit, .*output"),
        ("mean = 'x'", r"net.toml: expected mean a list of numbers, got x"),
        ("mean = [0.1, 0.2]\nstd = [1, 1]", r"takes pictures of 3 channels; give as many means"),
        ("mean = [104, 117, 123]", r"net.toml: expected mean a number for each channel, of -1 to 1; .* say scale=255"),
        ("std = [0, 0, 0]", r"net.toml: expected std"),
        ("scale = 'big'", r"net.toml: expected scale a text or a number"),
        ("order = 'grb'", r"net.toml: expected order one of rgb, bgr"),
        ("size = [224, 224]", r"takes pictures of 40×56 pixels, not 224×224"),
        ("size = [1e999, 3]", r"net.toml: expected size_hw"),
        ("class_names = 'ant'", r"net.toml: expected class_names a list of texts"),
        ("activation = 'tanh'", r"net.toml: expected activation one of softmax"),
        ("output = [1]", r"net.toml: expected output a name or a number"),
        ("fit = 'cut'", r"net.toml: expected fit one of"),
        ("#" * 2**20 + "\n", r"net.toml: larger than 1 MiB"),
    ],
)
def test_files_beside_a_model_that_say_something_else(path, text, message):
    path.with_suffix(".toml").write_text(text)
    with pytest.raises(ModelError, match=message) as caught:
        cl.open_model(path)
    assert "\n" not in str(caught.value)
