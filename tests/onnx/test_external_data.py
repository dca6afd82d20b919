"""Weights in a second file: found wherever a tensor can stand, followed beside the model alone, from every folder."""

from __future__ import annotations

import os
from itertools import pairwise

import numpy as np
import pytest

import camlucida as cl
from camlucida.errors import CamlucidaError, ModelError
from camlucida.explainer import Explainer
from camlucida.onnx import external_data
from camlucida.onnx.external_data import LARGEST_FILE, check_external_data, content_of, external_tensors
from camlucida.web import write_site

onnx = pytest.importorskip("onnx")
from external_files import PLACES, WEIGHT, classifier, external, pictures, truth, written  # noqa: E402

from camlucida.export.exporting import export  # noqa: E402
from camlucida.onnx.load import tensors  # noqa: E402
from commands import caller  # noqa: E402


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Stand in a folder whose file of the same name would give other weights."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "weights.bin").write_bytes((WEIGHT * -7 + 3).tobytes())
    monkeypatch.chdir(here)
    return here


def by_onnx(model):
    """What onnx's own classes say: each tensor with its places."""
    return sorted(
        (each.name, tuple(each.dims), each.data_type, tuple((one.key, one.value) for one in each.external_data))
        for each in tensors(model)
        if each.data_location == onnx.TensorProto.EXTERNAL or each.external_data
    )


def by_bytes(content):
    found = external_tensors(content, "net")
    return sorted((each.name, each.dims, each.data_type, each.entries) for each in found)


@pytest.fixture
def run(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


@pytest.mark.parametrize("place", PLACES)
def test_the_scan_finds_what_onnxs_own_reader_finds(place):
    model = classifier(PLACES[place], checksum="abc")
    assert by_bytes(model.SerializeToString()) == by_onnx(model) != []


@pytest.mark.parametrize("seed", range(20))
def test_the_scan_finds_external_tensors_among_others(seed):
    rng = np.random.default_rng(seed)
    model = classifier(list(PLACES.values())[seed % len(PLACES)])
    for number in range(rng.integers(1, 30)):
        tensor = external(f"w{number}", f"part{number}.bin", int(rng.integers(0, 2**40)))
        if rng.random() < 0.5:
            tensor = onnx.numpy_helper.from_array(rng.normal(size=rng.integers(0, 5, 2)), f"location{number}")
        if rng.random() < 0.3:
            model.graph.sparse_initializer.add().values.CopyFrom(tensor)
        elif rng.random() < 0.3:
            model.training_info.add().initialization.initializer.append(tensor)
            continue  # onnx.load's walk leaves training out; the scan must not
        else:
            model.graph.initializer.append(tensor)
    found = by_bytes(model.SerializeToString())
    assert [one for one in found if one in by_onnx(model)] == by_onnx(model)
    inside = {each.name for each in tensors(model) if each.data_location == onnx.TensorProto.DEFAULT}
    assert not inside & {name for name, *_ in found}


def test_a_model_with_its_weights_inside_keeps_nothing_elsewhere(tmp_path):
    path = written(tmp_path)
    onnx.save(onnx.load(path), tmp_path / "one.onnx")
    content = content_of(tmp_path / "one.onnx", "one.onnx")
    assert content.folder is None
    assert external_tensors(content.data, "one") == []


def test_tensors_in_training_graphs_are_found_too():
    model = classifier(PLACES["initializer"])
    model.training_info.add().algorithm.initializer.append(external("hidden", "../secret.bin"))
    assert "hidden" in [name for name, *_ in by_bytes(model.SerializeToString())]


def test_a_location_without_its_flag_counts():
    """A field may be split in two, which protobuf joins: flag in one part, place in the other."""
    tensor = external("weight", "/etc/passwd")
    tensor.ClearField("data_location")
    model = classifier(PLACES["initializer"])
    model.graph.initializer.append(tensor)
    with pytest.raises(ModelError, match="outside the model's folder"):
        check_external_data(model.SerializeToString(), None, "net")


# --- Followed beside the model, from wherever one stands --------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_weights_beside_the_model_are_read_from_every_folder(tmp_path, elsewhere, place):
    path = written(tmp_path / "models", place)
    logits, _ = truth(pictures())
    relative = os.path.relpath(path)
    for name in (path, relative):
        np.testing.assert_allclose(
            Explainer(name, method="occlusion")(pictures(), [0]).logits, logits, rtol=0, atol=1e-4
        )


def test_methods_cut_a_model_whose_weights_lie_beside_it(tmp_path, elsewhere):
    path = written(tmp_path / "models")
    found = Explainer(path, method="scorecam")(pictures(), [1])
    onnx.save(onnx.load(path), tmp_path / "one.onnx")
    np.testing.assert_allclose(found.maps, Explainer(tmp_path / "one.onnx", method="scorecam")(pictures(), [1]).maps,
                               atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_the_exported_model_has_its_weights_inside(tmp_path, elsewhere, place):
    path = written(tmp_path / "models", place)
    if "branch" in place:  # an If in the head is not read
        with pytest.raises(CamlucidaError, match=r"logits come out of If \("):
            export(path, tmp_path / "cam.onnx")
        return
    export(path, tmp_path / "cam.onnx")
    assert content_of(tmp_path / "cam.onnx", "cam.onnx").folder is None
    ex = cl.explain(pictures(), str(tmp_path / "cam.onnx"), classes="all")
    logits, maps = truth(pictures())
    np.testing.assert_allclose(ex.logits, logits, atol=1e-5)
    np.testing.assert_allclose(ex.maps, maps, atol=1e-5)


def test_every_command_reads_the_same_weights(run, tmp_path, elsewhere):
    path = written(tmp_path / "models")
    assert run("export", path, "-o", tmp_path / "cam.onnx")[0] == 0
    code, out, _ = run("map", "-m", path, "--method", "occlusion", "--json", "--class", "1")
    assert code == 0
    assert '"id": 1' in out


def test_a_server_opens_them_and_a_page_says_why_not(tmp_path, elsewhere):
    pytest.importorskip("starlette")
    from camlucida.serve.app import create_app

    export(written(tmp_path / "models"), tmp_path / "cam.onnx")
    path = tmp_path / "models" / "cam.onnx"
    onnx.save(onnx.load(tmp_path / "cam.onnx"), path, save_as_external_data=True, location="w.data", size_threshold=0)
    (elsewhere / "w.data").write_bytes(bytes(path.with_name("w.data").stat().st_size))
    explainer = create_app(path).state.batcher.explainer
    np.testing.assert_allclose(explainer(pictures(), "all").maps, truth(pictures())[1], atol=1e-5)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("largest", [None, 10])
def test_the_bytes_that_are_run_are_what_onnx_itself_reads(tmp_path, monkeypatch, place, largest):
    path = written(tmp_path, place)
    if largest:  # too large for one message: small tensors are taken in, the others are followed
        monkeypatch.setattr(external_data, "LARGEST_WHOLE", largest)
        monkeypatch.setattr(external_data, "_SMALL", 0)
    content = content_of(path, "net")
    model = onnx.ModelProto.FromString(content.data)
    if largest:
        assert (content.folder, content.data) == (path.parent, path.read_bytes())
        return
    assert content.folder is None
    expected = onnx.ModelProto.FromString(path.read_bytes())
    for tensor in tensors(expected):
        if tensor.external_data:
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            tensor.raw_data = WEIGHT.tobytes()
    assert model == expected


@pytest.mark.parametrize("place", ["initializer", "branch", "function"])
def test_weights_too_large_for_one_message_are_followed_where_they_lie(tmp_path, elsewhere, monkeypatch, place):
    monkeypatch.setattr(external_data, "LARGEST_WHOLE", 10)
    monkeypatch.setattr(external_data, "_SMALL", 10)
    path = written(tmp_path / "models", place)
    logits, _ = truth(pictures())
    np.testing.assert_allclose(Explainer(path, method="occlusion")(pictures(), [0]).logits, logits, atol=1e-4)
    with pytest.raises(CamlucidaError, match="keeps weights in another file, which a page cannot read"):
        write_site(tmp_path / "site", path)


# --- Not followed -----------------------------------------------------------------------------------------------------

BAD = {
    "above": ({"location": "../weights.bin"}, "outside the model's folder"),
    "above, by a detour": ({"location": "sub/../../weights.bin"}, "outside the model's folder"),
    "inside, by a detour": ({"location": "sub/../weights.bin"}, "outside the model's folder"),
    "absolute": ({"location": "/etc/hostname"}, "outside the model's folder"),
    "a drive": ({"location": "C:weights.bin"}, "outside the model's folder"),
    "backslashes": ({"location": "..\\weights.bin"}, "outside the model's folder"),
    "nowhere": ({"location": ""}, "outside the model's folder"),
    "no location": ({"location": None, "extra": "location"}, "outside the model's folder"),
    "a zero byte": ({"location": "weights.bin\0"}, "outside the model's folder"),
    "memory of the process": ({"location": "*/_ORT_MEM_ADDR_/*", "offset": 4096}, "outside the model's folder"),
    "the folder itself": ({"location": "."}, "which is not beside the model"),
    "a long name": ({"location": "w" * 400}, "which is not beside the model"),
    "absent": ({"location": "other.bin"}, "which is not beside the model; put it there"),
    "beyond the end": ({"offset": 4}, "bytes that 'weights.bin' does not hold"),
    "before the beginning": ({"offset": -4}, "does not hold"),
    "a huge offset": ({"offset": 10**30}, "that is not a number"),
    "no number": ({"offset": "0x0"}, "that is not a number"),
    "too short": ({"length": 4}, "does not hold"),
    "too long": ({"length": 10**9}, "does not hold"),
    "twice": ({"location": "weights.bin", "extra": "1"}, None),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("place", ["initializer", "branch", "function"])
def test_what_is_not_followed(tmp_path, elsewhere, case, place):
    options, message = BAD[case]
    path = written(tmp_path / "models", place, **options)
    if message is None:
        model = onnx.load(path, load_external_data=False)
        for tensor in tensors(model):
            if tensor.external_data:
                tensor.external_data[-1].key = "location"  # a second place under the same key
        path.write_bytes(model.SerializeToString())
        message = "outside the model's folder"
    for opened in (lambda: cl.open_model(path), lambda: export(path, tmp_path / "cam.onnx")):
        with pytest.raises(CamlucidaError, match=message) as caught:
            opened()
        assert "\n" not in str(caught.value)
        assert "net.onnx" in str(caught.value)
    assert not (tmp_path / "cam.onnx").exists()


@pytest.mark.parametrize("kind", ["link", "link to a folder", "folder", "pipe"])
def test_only_plain_files_are_followed(tmp_path, elsewhere, kind):
    location = "sub/weights.bin" if kind == "link to a folder" else "weights.bin"
    path = written(tmp_path / "models", location=location)
    data = path.with_name("weights.bin")
    data.rename(tmp_path / "weights.bin")
    if kind == "link":
        data.symlink_to(tmp_path / "weights.bin")
    elif kind == "link to a folder":
        (path.parent / "sub").symlink_to(tmp_path)
    elif kind == "folder":
        data.mkdir()
    else:
        os.mkfifo(data)
    for opened in (lambda: cl.open_model(path), lambda: export(path, tmp_path / "cam.onnx")):
        with pytest.raises(CamlucidaError, match="behind the link" if "link" in kind else "not beside the model"):
            opened()


def test_a_folder_below_the_models_is_beside_it(tmp_path, elsewhere):
    path = written(tmp_path / "models", location="sub/weights.bin")
    (path.parent / "sub").mkdir()
    path.with_name("weights.bin").rename(path.parent / "sub" / "weights.bin")
    logits, _ = truth(pictures())
    np.testing.assert_allclose(Explainer(path, method="occlusion")(pictures(), [0]).logits, logits, atol=1e-4)


def test_many_claims_on_few_bytes_are_refused(tmp_path):
    path = written(tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(1000))
    model = onnx.load(path, load_external_data=False)
    for offset in range(100):
        model.graph.initializer.append(external(f"w{offset}", offset=offset))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"its tensors claim .* bytes of files that hold 1000"):
        cl.open_model(path)


# --- Damage -----------------------------------------------------------------------------------------------------------


def test_a_cut_or_garbled_file_ends_in_one_line(tmp_path):
    whole = classifier(PLACES["function_with_a_branch"]).SerializeToString()
    rng = np.random.default_rng(0)
    parts = [whole[: len(whole) * i // 40] for i in range(40)]
    for _ in range(200):
        garbled = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            garbled[place] = rng.integers(0, 256)
        parts.append(bytes(garbled))
    for content in parts:
        said = ""
        try:
            assert len(external_tensors(content, "net.onnx")) <= 4
        except ModelError as error:
            said = str(error)
        assert not said or said.startswith("net.onnx: not a readable ONNX model")


def test_messages_inside_messages_end_somewhere():
    content = b"\x2a\x0a\x42\x08location"  # an initializer of that name
    for field in [b"\x32", b"\x2a", b"\x0a"] * 100:  # graph of an attribute of a node
        content = field + _size(len(content)) + content
    with pytest.raises(ModelError, match="nested or long beyond any classifier"):
        external_tensors(b"\x3a" + _size(len(content)) + content, "net")


def _size(number):
    parts = [number >> shift & 127 for shift in range(0, 35, 7) if number >> shift]
    return bytes([*(part | 128 for part, _ in pairwise(parts)), parts[-1]])


def test_other_formats_under_the_same_ending(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"\x20\0\0\0ORTM" + bytes(100))
    with pytest.raises(ModelError, match="ONNX Runtime's own format; give the ONNX file that it was made from"):
        cl.open_model(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="no such file"):
        content_of(tmp_path, "folder")
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(ModelError, match="larger than 2 GiB"):
        cl.open_model(tmp_path / "large.onnx")
