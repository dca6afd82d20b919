"""Writing results: overlays, raw maps, boxes in COCO's format and a manifest; each file whole or not at all."""

from __future__ import annotations

import contextlib
import json
import platform
import re
import secrets
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import cv2
import numpy as np

import camlucida
from camlucida.drawing import overlay as draw
from camlucida.errors import OutputError
from camlucida.images.ahead import HELD, ahead
from camlucida.images.picture import shown
from camlucida.results.picture_record import Record, class_record, joined

if TYPE_CHECKING:
    from camlucida.explanation import Explanation

PENDING = 16
"""Pictures that may wait to be drawn; more would only fill memory."""

# Half the time of OpenCV's default compression, for files a fifth larger.
_FAST_PNG = (
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_AVG,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY,
)

_ARRAYS = ("logits", "classes", "scores", "maps", "bias", "residual")


class Saver:
    """Writes explanations as they come: for each picture ``NAME.CLASS.png`` and ``NAME.npz``; at the end
    ``boxes.coco.json`` and ``manifest.json``.

    Used in ``with``: if the block fails, or there was no picture, no boxes and no manifest are written; no half-written
    file is left in any case. Memory holds a few pictures, and of each picture's name a number.

    Args:
        folder: made if missing.
        threshold: of the boxes, a share of each map's maximum.
        colormap: of the overlays.
        signed: draw negative evidence too.

    Raises:
        OutputError: the folder cannot be made or written.
    """

    def __init__(
        self, folder: Path, *, threshold: float = 0.2, colormap: str | None = None, signed: bool = False
    ) -> None:
        self.folder = folder
        self.count = 0
        self._threshold, self._colormap, self._signed = threshold, colormap, signed
        self._names: dict[int, int] = {}
        self._categories: dict[int | str, dict[str, Any]] = {}  # by id, or by name for what is no class of the model
        self._annotations = 0
        self._origin: dict[str, Any] = {}
        made_folder(folder)
        with _told(folder):
            # These have no names: nothing is left of them, however the process ends.
            self._images_file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            self._annotations_file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.count:
                self._finish()
        finally:
            for lines in (self._images_file, self._annotations_file):
                with contextlib.suppress(OSError):  # what is still buffered is no longer wanted
                    lines.close()

    def records(self, explanations: Iterable[Explanation]) -> Generator[Record]:
        """Draw and write every picture, in other threads; its record comes when its files are there.

        Yields:
            One record a picture, in order (see ``record.record_of``).

        Raises:
            OutputError: a file cannot be written.
        """
        size = 1  # bytes of the latest picture's pixels

        def named() -> Iterator[tuple[Explanation, str, int]]:
            nonlocal size
            for explanation in explanations:
                self._origin = asdict(explanation.origin)
                for i in range(len(explanation)):
                    one = explanation[i]
                    self.count += 1
                    name = _free(_stem(one, self.count), self._names)
                    size = one.pictures[0].pixels.nbytes if one.pictures else 1
                    yield one, name, self.count

        for future in ahead(self._write, named(), lambda: min(PENDING, 1 + HELD // size)):
            record, image_id = future.result()
            self._note(record, image_id)
            yield record

    def _write(self, work: tuple[Explanation, str, int]) -> tuple[Record, int]:
        """Every file of one picture."""
        one, name, image_id = work
        classes: list[Record] = []
        parts: dict[int, int] = {}
        for t in range(one.maps.shape[1]):
            evidence = one.evidence(0, t) if one.views else None
            classes.append(class_record(one, 0, t, evidence, self._threshold))
            if evidence is None or not one.pictures:
                continue
            seen, box = one.seen(0), classes[-1]["box"]
            drawn = draw.overlay(
                one.pictures[0].pixels, one.heatmap(0, t) if self._signed else evidence, colormap=self._colormap,
                signed=self._signed, seen=None if seen.all() else seen, boxes=[box] if box else None,
                caption=one.caption(0, t), unit=one.origin.unit if self._signed else None,
            )  # fmt: skip
            part = _free(safe(one.names[0][t]).replace(".", "_") or "class", parts)
            write_whole(self.folder / f"{name}.{part}.png", png(drawn))
        arrays = {field: getattr(one, field)[0] for field in _ARRAYS} | {"names": np.array(one.names[0])}
        if one.views:
            arrays |= {"image_hw": np.array(one.views[0].image_hw), "seen_xyxy": np.array(one.views[0].seen_xyxy)}
        with whole(self.folder / f"{name}.npz") as file:
            np.savez(file, **arrays)
        return joined(one, 0, classes), image_id

    def _note(self, record: Record, image_id: int) -> None:
        """Put one picture's boxes aside for the end."""
        height, width = record["image_hw"] or (0, 0)
        image = {"id": image_id, "file_name": record["picture"], "height": height, "width": width}
        with _told(self.folder):
            self._images_file.write(json.dumps(image).encode() + b"\n")
            for one in record["classes"]:
                # COCO counts from 1; what is no class of the model (a contrast) gets a number far from them.
                known = one["id"] >= 0
                number = one["id"] + 1 if known else 1_000_001 + len(self._categories)
                category = self._categories.setdefault(
                    one["id"] if known else one["name"], {"id": number, "name": one["name"]}
                )
                if one["box"] is None:
                    continue
                self._annotations += 1
                x0, y0, x1, y1 = one["box"]
                annotation = {
                    "id": self._annotations, "image_id": image_id, "category_id": category["id"], "iscrowd": 0,
                    "bbox": [x0, y0, x1 - x0, y1 - y0], "area": one["area"],
                    "score": one["score"] if one["probability"] is None else one["probability"],
                }  # fmt: skip
                self._annotations_file.write(json.dumps(annotation).encode() + b"\n")

    def _finish(self) -> None:
        with whole(self.folder / "boxes.coco.json") as out:
            out.write(b'{"info": {"description": "boxes from class activation maps by camlucida"},\n"images": [\n')
            out.writelines(_joined(self._images_file))
            out.write(b'],\n"annotations": [\n')
            out.writelines(_joined(self._annotations_file))
            out.write(b'],\n"categories": ' + json.dumps(list(self._categories.values())).encode() + b"}\n")
        manifest = {"pictures": self.count, **self._origin, "threshold": self._threshold, "versions": versions()}
        write_whole(self.folder / "manifest.json", json.dumps(manifest, indent=2).encode() + b"\n")


def save(explanation: Explanation, folder: Path, *, threshold: float = 0.2, colormap: str | None = None) -> Path:
    """Write one explanation (see ``Explanation.save``)."""
    with Saver(folder, threshold=threshold, colormap=colormap) as saver:
        for _ in saver.records([explanation]):
            pass
    return folder


def made_folder(folder: Path) -> None:
    """Make a folder for results if it is not there.

    Raises:
        OutputError: it is a file, or cannot be made.
    """
    with _told(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise OutputError(f"{shown(folder)}: a file, not a folder; choose another for the results") from None


def png(pixels: draw.Picture) -> bytes:
    """A picture as PNG, encoded for speed: one filter for all rows, Huffman coding alone.

    Args:
        pixels: uint8 H×W×3, RGB.

    Raises:
        OutputError: it cannot be encoded.

    >>> png(np.zeros((8, 8, 3), np.uint8))[1:4]
    b'PNG'
    """
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), _FAST_PNG)
    if not done:
        raise OutputError(f"a picture of {pixels.shape} could not be encoded as PNG")
    return bytes(data)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that takes its place only when all of it is written; else nothing of it stays.

    Raises:
        OutputError: it cannot be written.
    """
    with _told(path):
        scratch = _scratch(path.parent)
        try:
            with scratch:
                yield scratch
            Path(scratch.name).replace(path)
        except BaseException:
            Path(scratch.name).unlink(missing_ok=True)
            raise


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place, then move it there (see ``whole``)."""
    with whole(path) as file:
        file.write(data)


def safe(name: str) -> str:
    r"""A name that is one plain, visible file name of at most 80 bytes; empty where nothing is left.

    >>> safe("../a b/ü:c"), safe("cat - dog"), safe("...")
    ('a_b_ü_c', 'cat_-_dog', '')
    """
    return re.sub(r"[^\w.-]+", "_", name).strip("._").encode()[:80].decode(errors="ignore")


def versions() -> dict[str, str]:
    """Versions of what had a part in the result."""
    found = {"python": platform.python_version(), "camlucida": camlucida.__version__}
    for package in ("numpy", "onnxruntime", "torch", "timm", "torchvision", "transformers"):
        module = sys.modules.get(package)
        if module is not None:
            found[package] = str(getattr(module, "__version__", "?"))
    return found


def _stem(one: Explanation, number: int) -> str:
    return (safe(Path(one.pictures[0].source).stem) if one.pictures else "") or f"picture-{number}"


def _free(name: str, used: dict[int, int]) -> str:
    """This name, or with a number behind it where it is used already (also in other letter case).

    Args:
        name: as wished.
        used: hash of each used name -> how often it was wished; extended.

    >>> used: dict[int, int] = {}
    >>> [_free(name, used) for name in ("a", "A", "a-2", "b", "a")]
    ['a', 'A-2', 'a-2-2', 'b', 'a-3']
    """
    free = name
    while (key := hash(free.casefold())) in used:
        base = hash(name.casefold())
        used[base] += 1
        free = f"{name}-{used[base]}"
    used[key] = 1
    return free


def _joined(lines: IO[bytes]) -> Iterator[bytes]:
    lines.seek(0)
    first = True
    for line in lines:
        yield line if first else b"," + line
        first = False


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise OutputError(f"{shown(path)}: cannot be written ({why}); choose another folder") from error


def _scratch(folder: Path) -> IO[bytes]:
    """A new file of a name that nobody else uses, with the permissions that the umask leaves."""
    return (folder / f".camlucida-{secrets.token_hex(8)}.part").open("x+b")
