"""The page: drop a picture, see what the classifier looked at. The server shows it, or a site of plain files does."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from dataclasses import asdict
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from camlucida.errors import ExportError, OutputError
from camlucida.images.picture import shown
from camlucida.results.files import output_errors
from camlucida.targets import default_activation

MODEL = "cam.onnx"
SAMPLE = "sample.jpg"
_SUFFIXES = (".html", ".css", ".js", ".svg")


def page_files() -> dict[str, Traversable]:
    """The page's files and the sample picture, by the names under which the page asks for them.

    Beside them it asks for ``config.json``: ``{"engine": "server"}``, or what ``write_site`` writes; with
    ``"sample": "sample.jpg"`` it offers the sample.

    >>> sorted(page_files())[:3]
    ['answer.js', 'app.js', 'boxes.js']
    """
    files = {file.name: file for file in resources.files(__name__).iterdir() if file.name.endswith(_SUFFIXES)}
    return files | {SAMPLE: resources.files("camlucida.images") / "chelsea.jpg"}


def write_site(out: str | Path, model: str | Path | None = None, *, runtime: str | Path | None = None) -> Path:
    """Write the page as plain files that run the model in the browser, for any server of files.

    The folder takes its place when all of it is written; else nothing of it stays.

    Args:
        out: the folder; a site written before is replaced, any other folder that is not empty is refused.
        model: an ONNX file with outputs ``logits``, ``maps`` and ``bias``; None: the demonstration model.
        runtime: the npm package onnxruntime-web, as an archive or a folder; None fetches it (see ``runtime_files``).

    Returns:
        The folder.

    Raises:
        ModelError: the model is no such file.
        ExportError: browsers cannot run it.
        OutputError: the folder cannot be written, or the runtime cannot be had.
    """
    from camlucida.web.runtime import runtime_files

    folder = Path(out)
    _check_place(folder)
    content, config = _described(None if model is None else Path(model))
    files = {name: file.read_bytes() for name, file in page_files().items()}
    files |= {f"ort/{name}": data for name, data in runtime_files(Path(runtime) if runtime else None).items()}
    files |= {MODEL: content, "config.json": json.dumps(config, ensure_ascii=False, indent=1).encode() + b"\n"}
    _write(folder, files)
    return folder


def _described(model: Path | None) -> tuple[bytes, dict[str, Any]]:
    """A model's file, and what the page must know of it."""
    from camlucida.models.onnx_file import DEMO, open_demo, open_onnx
    from camlucida.onnx.external_data import ADVICE, content_of
    from camlucida.onnx.session import OnnxSession

    name = "demo" if model is None else shown(model.name)
    advice = f"{name}: %s; make one with camlucida export MODEL -o cam.onnx"
    if model is None:
        content = (resources.files("camlucida.models") / DEMO).read_bytes()
    elif model.suffix == ".onnx":
        whole = content_of(model, shown(model))
        if whole.folder is not None:
            raise ExportError(f"{name}: keeps weights in another file, which a page cannot read; {ADVICE}")
        content = whole.data
    else:
        raise ExportError(advice % "the page runs ONNX files")
    session = OnnxSession(content, name)
    if not {"logits", "maps", "bias"} <= session.outputs.keys():
        raise ExportError(
            advice % f"has outputs {', '.join(session.outputs)}, and the page needs logits, maps and bias"
        )
    if session.batch not in (None, 1) or session.channels != 3:
        shape = f"{session.batch or 'any number of'} pictures of {session.channels} channels at once"
        raise ExportError(f"{name}: takes {shape}; the page has one of three: export it for that")
    opened = open_demo() if model is None else open_onnx(str(model))
    (logits,) = session.run(["logits"], session.blank())
    width = logits.shape[1]
    config = {
        "engine": "browser",
        "model": MODEL,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "name": name.removesuffix(".onnx"),
        "input": session.input,
        "channels_last": session.channels_last,
        "outputs": [output for output in ("logits", "maps", "bias", "top_ids") if output in session.outputs],
        "classes": max(width, 2),
        "labels": list(opened.class_names) if opened.class_names else None,
        "preprocess": asdict(opened.preprocess),
        "activation": opened.activation or default_activation(width),
        "note": "" if model is not None else "This is the demonstration model, which knows only everyday things.",
        "sample": SAMPLE,
    }
    return content, config


def _check_place(out: Path) -> None:
    """Only what is empty, or a site of this page, may be replaced."""
    try:
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return
        if json.loads((out / "config.json").read_bytes()).get("engine") == "browser" and (out / MODEL).is_file():
            return
    except (OSError, ValueError, AttributeError):
        pass  # it is something else
    raise OutputError(f"{shown(out)}: is there already, and is not a site of this page; choose another folder")


def _write(out: Path, files: dict[str, bytes]) -> None:
    """All files into a folder beside its place, which is then moved there."""
    scratch = out.parent / f".camlucida-{secrets.token_hex(8)}.part"
    former = scratch.with_suffix(".old")
    try:
        with output_errors(out):
            for name, data in files.items():
                path = scratch / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            if out.exists():
                out.rename(former)
            try:
                scratch.rename(out)
            except OSError:
                if former.exists():
                    former.rename(out)
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)
