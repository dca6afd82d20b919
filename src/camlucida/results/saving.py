"""Saving explanations: overlays, raw maps, boxes in COCO's format and a manifest; each file whole or not at all."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import cv2
import numpy as np

from camlucida.drawing.overlay import Pixels
from camlucida.errors import OutputError
from camlucida.images.ahead import HELD, ahead
from camlucida.results.files import make_folder, output_errors, safe_name, unused_name, whole, write_whole
from camlucida.results.overlays import drawn
from camlucida.results.picture_record import PictureRecord, class_record, picture_record
from camlucida.results.versions import versions

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
        make_folder(folder)
        with output_errors(folder):
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

    def records(self, explanations: Iterable[Explanation]) -> Generator[PictureRecord]:
        """Draw and write every picture, in other threads; its record comes when its files are there.

        Yields:
            One record a picture, in order (see ``picture_record.record_of``).

        Raises:
            OutputError: a file cannot be written.
        """
        size = 1  # bytes of the latest picture's pixels

        def named() -> Iterator[tuple[Explanation, str, int]]:
            nonlocal size
            for explanation in explanations:
                self._origin = asdict(explanation.origin)
                for i in range(len(explanation)):
                    single = explanation[i]
                    self.count += 1
                    name = unused_name(_stem(single, self.count), self._names)
                    size = single.pictures[0].pixels.nbytes if single.pictures else 1
                    yield single, name, self.count

        for future in ahead(self._write, named(), lambda: min(PENDING, 1 + HELD // size)):
            record, image_id = future.result()
            self._note(record, image_id)
            yield record

    def _write(self, work: tuple[Explanation, str, int]) -> tuple[PictureRecord, int]:
        """Write every file of one picture."""
        single, name, image_id = work
        classes: list[PictureRecord] = []
        parts: dict[int, int] = {}
        for t in range(single.maps.shape[1]):
            evidence = single.evidence(0, t) if single.views else None
            classes.append(class_record(single, 0, t, evidence, self._threshold))
            if evidence is None or not single.pictures:
                continue
            box = classes[-1]["box"]
            pixels = drawn(single, 0, t, evidence, [box] if box else None, colormap=self._colormap, signed=self._signed)
            part = unused_name(safe_name(single.names[0][t]).replace(".", "_") or "class", parts)
            write_whole(self.folder / f"{name}.{part}.png", png(pixels))
        arrays = {field: getattr(single, field)[0] for field in _ARRAYS} | {"names": np.array(single.names[0])}
        if single.views:
            arrays |= {"image_hw": np.array(single.views[0].image_hw), "seen_xyxy": np.array(single.views[0].seen_xyxy)}
        with whole(self.folder / f"{name}.npz") as file:
            np.savez(file, **arrays)
        return picture_record(single, 0, classes), image_id

    def _note(self, record: PictureRecord, image_id: int) -> None:
        """Put one picture's boxes aside for the end."""
        height, width = record["image_hw"] or (0, 0)
        image = {"id": image_id, "file_name": record["picture"], "height": height, "width": width}
        with output_errors(self.folder):
            self._images_file.write(json.dumps(image).encode() + b"\n")
            for entry in record["classes"]:
                # COCO counts from 1; what is no class of the model (a contrast) gets a number far from them.
                known = entry["id"] >= 0
                number = entry["id"] + 1 if known else 1_000_001 + len(self._categories)
                category = self._categories.setdefault(
                    entry["id"] if known else entry["name"], {"id": number, "name": entry["name"]}
                )
                if entry["box"] is None:
                    continue
                self._annotations += 1
                x0, y0, x1, y1 = entry["box"]
                annotation = {
                    "id": self._annotations, "image_id": image_id, "category_id": category["id"], "iscrowd": 0,
                    "bbox": [x0, y0, x1 - x0, y1 - y0], "area": entry["area"],
                    "score": entry["score"] if entry["probability"] is None else entry["probability"],
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


def png(pixels: Pixels) -> bytes:
    """Encode a picture as PNG, for speed: one filter for all rows, Huffman coding alone.

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


def _stem(single: Explanation, number: int) -> str:
    return (safe_name(Path(single.pictures[0].source).stem) if single.pictures else "") or f"picture-{number}"


def _joined(lines: IO[bytes]) -> Iterator[bytes]:
    lines.seek(0)
    first = True
    for line in lines:
        yield line if first else b"," + line
        first = False
