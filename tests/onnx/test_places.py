"""Where cells lie is looked at: files that flip, turn or shift pictures are refused, or lie over what drives them."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

from camlucida.errors import CamlucidaError, ExportError
from camlucida.explainer import Explainer

onnx = pytest.importorskip("onnx")
import onnxruntime  # noqa: E402
from moved_classifiers import BEFORE, RIGHT, SIZE, STRIDE, classifier, driven  # noqa: E402

from camlucida.export.exporting import export  # noqa: E402


@pytest.mark.parametrize("how", RIGHT)
def test_cells_of_an_exported_file_lie_over_what_drives_them(tmp_path, how):
    onnx.save(classifier(how), tmp_path / "net.onnx")
    export(tmp_path / "net.onnx", tmp_path / "cam.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "cam.onnx", providers=["CPUExecutionProvider"])
    for row, column in ((1, 1), (1, 4), (4, 2), (3, 3)):
        change = driven(session, row, column)
        assert np.unravel_index(change.argmax(), change.shape) == (row, column)


@pytest.mark.parametrize("how", [how for how in BEFORE if how not in (*RIGHT, "transposed")])
def test_files_whose_cells_lie_elsewhere_are_not_exported(tmp_path, how):
    onnx.save(classifier(how), tmp_path / "net.onnx")
    with pytest.raises(ExportError, match=r"do not lie over the parts of the picture .* turns, flips or shuffles"):
        export(tmp_path / "net.onnx", tmp_path / "cam.onnx")
    assert not (tmp_path / "cam.onnx").exists()


def test_a_transposed_picture_is_not_exported(tmp_path):
    onnx.save(classifier("transposed"), tmp_path / "net.onnx")
    with pytest.raises(ExportError, match=r"(?s)do not lie over the parts of the picture .*Transpose"):
        export(tmp_path / "net.onnx", tmp_path / "cam.onnx")


def test_mirrored_features_are_not_exported(tmp_path):
    onnx.save(classifier("mirrored", behind=True), tmp_path / "net.onnx")
    with pytest.raises(ExportError, match=r"do not lie over the parts of the picture"):
        export(tmp_path / "net.onnx", tmp_path / "cam.onnx")


@pytest.mark.parametrize("how", BEFORE)
def test_methods_lay_features_over_what_drives_them_or_refuse(tmp_path, how):
    pytest.importorskip("torch")
    onnx.save(classifier(how), tmp_path / "net.onnx")
    explainer = Explainer(tmp_path / "net.onnx", method="fem")
    picture = np.random.default_rng(0).normal(size=(1, 3, SIZE, SIZE)).astype(np.float32) * 0.01
    picture[:, :, STRIDE : 2 * STRIDE, 4 * STRIDE : 5 * STRIDE] += 20 * np.random.default_rng(1).normal(
        size=(STRIDE, STRIDE)
    )
    found = None
    with suppress(CamlucidaError):
        found = explainer(picture, [0]).maps[0, 0]
    if found is None:
        assert how not in RIGHT
        return
    strongest = np.unravel_index(np.abs(found).argmax(), found.shape)
    rows, columns = found.shape
    assert (strongest[0] * 6 // rows, strongest[1] * 6 // columns) == (1, 4), how
