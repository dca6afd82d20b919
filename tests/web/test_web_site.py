"""Writing the site: whole or not at all, with a runtime whose every byte is known."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnx
from camlucida.errors import ExportError, ModelError, OutputError
from camlucida.web import page_files, runtime, write_site
from camlucida.web.runtime import RUNTIME_FILES, RuntimeFile, fetch_archive, runtime_files


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unpacked package of a few bytes, with its hashes for pins."""
    folder = tmp_path / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    files = []
    for file in RUNTIME_FILES:
        data = file.name.encode()
        (folder / file.path).write_bytes(data)
        files.append(RuntimeFile(file.path, hashlib.sha256(data).hexdigest(), file.name))
    monkeypatch.setattr(runtime, "RUNTIME_FILES", tuple(files))
    return folder


def archived(package: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as npm packs it, with files beside those that are needed, and one that would climb out."""
    import base64

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file in runtime.RUNTIME_FILES:
            archive.add(package / file.path, f"package/{file.path}")
        outside = tarfile.TarInfo("../outside")
        outside.size = 1
        archive.addfile(outside, io.BytesIO(b"x"))
    path = package.parent / "package.tgz"
    path.write_bytes(buffer.getvalue())
    digest = hashlib.sha512(buffer.getvalue()).digest()
    monkeypatch.setattr(runtime, "INTEGRITY", base64.b64encode(digest).decode())
    return path


def demo() -> onnx.ModelProto:
    from importlib import resources

    return onnx.load_from_string((resources.files("camlucida.models") / "demo.onnx").read_bytes())


def test_a_site_holds_the_page_the_model_and_what_the_page_must_know(package: Path, tmp_path: Path) -> None:
    out = write_site(tmp_path / "deep" / "site", runtime=package)
    config = json.loads((out / "config.json").read_text())
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {*page_files(), "cam.onnx", "config.json", *(f"ort/{file.name}" for file in RUNTIME_FILES)}
    assert config["sha256"] == hashlib.sha256((out / "cam.onnx").read_bytes()).hexdigest()
    assert config["bytes"] == (out / "cam.onnx").stat().st_size
    assert config["preprocess"]["size_hw"] == [160, 160]
    assert (config["input"], config["outputs"]) == ("images", ["logits", "maps", "bias"])
    assert (config["labels"][12], config["classes"], config["activation"]) == ("cat", 73, "softmax")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_archive_gives_the_same_files_and_leaves_its_others(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archived(package, monkeypatch)
    assert runtime_files(path) == runtime_files(package)
    assert not (tmp_path.parent / "outside").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda package: (package / RUNTIME_FILES[1].path).write_bytes(b"evil"),
            r"its dist/ort-wasm-simd-threaded\.wasm is not",
        ),
        (
            lambda package: (package / RUNTIME_FILES[2].path).unlink(),
            r"cannot be read \(No such file.*npm pack onnx",
        ),
    ],
)
def test_a_changed_runtime_is_refused_and_nothing_is_written(
    package: Path, tmp_path: Path, spoil: Any, message: str
) -> None:
    spoil(package)
    with pytest.raises(OutputError, match=message):
        write_site(tmp_path / "site", runtime=package)
    assert [path.name for path in tmp_path.iterdir()] == ["onnxruntime-web"]


def test_a_changed_archive_is_not_even_opened(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archived(package, monkeypatch)
    path.write_bytes(path.read_bytes() + b"\0")
    monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(OutputError, match=r"package\.tgz: not the archive of onnxruntime-web@.*--runtime"):
        runtime_files(path)


def test_without_npm_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(OutputError, match=r"fetched by npm, which is not here; get it with npm pack onnxruntime-web"):
        fetch_archive()


def test_where_npm_fails_its_first_error_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code E404' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda _: str(npm))
    with pytest.raises(OutputError, match=r"fetched by npm \(npm error code E404\); get it with"):
        fetch_archive()


def test_a_site_is_replaced_but_nothing_else_is(package: Path, tmp_path: Path) -> None:
    out = write_site(tmp_path / "site", runtime=package)
    (out / "stale.js").write_text("old")
    write_site(out, runtime=package)
    assert not (out / "stale.js").exists()
    (tmp_path / "empty").mkdir()
    write_site(tmp_path / "empty", runtime=package)
    for name, content in {"notes": "x", "config.json": '{"engine": "other"}'}.items():
        kept = tmp_path / f"kept-{name}"
        kept.mkdir()
        (kept / name).write_text(content)
        with pytest.raises(OutputError, match=rf"{kept.name}: is there already, and is not a site.*another folder"):
            write_site(kept, runtime=package)
        assert (kept / name).read_text() == content


def test_a_site_that_cannot_take_its_place_leaves_the_former_one(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_site(tmp_path / "site", runtime=package)
    before = sorted(out.rglob("*"))
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OutputError, match=r"site: cannot be written \(Permission denied\); choose another folder"):
        write_site(out, runtime=package)
    assert sorted(out.rglob("*")) == before
    assert {path.name for path in tmp_path.iterdir()} == {"site", "onnxruntime-web"}


def test_models_that_a_browser_cannot_run_are_refused(package: Path, tmp_path: Path) -> None:
    plain, batched = demo(), demo()
    del plain.graph.output[1:]
    batched.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    files = {"plain.onnx": plain.SerializeToString(), "batched.onnx": batched.SerializeToString(), "bad.onnx": b"x"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for name, error, message in [
        ("plain.onnx", ExportError, r"plain\.onnx: has outputs logits, and the page needs .*camlucida export"),
        ("batched.onnx", ExportError, r"batched\.onnx: takes 4 pictures of 3 channels at once; the page has one"),
        ("bad.onnx", ModelError, r"bad\.onnx: not a readable ONNX model"),
        ("absent.onnx", ModelError, r"absent\.onnx: no such file"),
        ("net.pt", ExportError, r"net\.pt: the page runs ONNX files; make one with camlucida export"),
    ]:
        with pytest.raises(error, match=message):
            write_site(tmp_path / "site", tmp_path / name, runtime=package)
    assert not (tmp_path / "site").exists()


def test_the_files_own_metadata_reaches_the_page(package: Path, tmp_path: Path) -> None:
    model = demo()
    kept = {prop.key: prop.value for prop in model.metadata_props if prop.key == "preprocess"}
    kept |= {"activation": "sigmoid", "preprocess": kept["preprocess"].replace("stretch", "pad")}
    del model.metadata_props[:]
    for key, value in kept.items():
        model.metadata_props.add(key=key, value=value)
    path = tmp_path / "my flowers.onnx"
    onnx.save(model, path)
    config = json.loads((write_site(tmp_path / "site", path, runtime=package) / "config.json").read_text())
    assert (config["name"], config["labels"], config["note"]) == ("my flowers", None, "")
    assert (config["activation"], config["preprocess"]["fit"], config["classes"]) == ("sigmoid", "pad", 73)
    np.testing.assert_allclose(config["preprocess"]["mean"], (0.485, 0.456, 0.406))


def test_the_command_writes_a_site(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer
    from typer.testing import CliRunner

    from camlucida.cli.web import web

    app = typer.Typer()
    app.command()(web)
    done = CliRunner().invoke(app, ["-o", str(tmp_path / "site"), "--runtime", str(package)])
    assert done.exit_code == 0
    assert re.search(r"site: \d+ MB; look at it with: python -m http\.server -d ", done.stdout)
    assert (tmp_path / "site" / "index.html").is_file()


def test_paths_may_be_strings(package: Path, tmp_path: Path) -> None:
    """As a script names them, without the command line's conversion."""
    model = tmp_path / "mine.onnx"
    onnx.save(demo(), model)
    out = write_site(str(tmp_path / "site"), str(model), runtime=str(package))
    assert json.loads((out / "config.json").read_text())["name"] == "mine"
