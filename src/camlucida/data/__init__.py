"""Labelled pictures from the layouts of the field, as one record type: one visible registry of sources."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from camlucida.errors import DataError

if TYPE_CHECKING:
    from camlucida.data.checking import verified
    from camlucida.data.record import Dataset, Example, Record, Truth

__all__ = ["DATA_SOURCES", "DataSource", "Dataset", "Example", "Record", "Truth", "known_sources", "open_dataset",
           "verified"]  # fmt: skip


@dataclass(frozen=True)
class DataSource:
    """A layout of labelled pictures.

    Attributes:
        pattern: how its names look; what is before the colon is its kind.
        summary: what it is.
        reader: ``module:function`` that reads one, ``(place, errors) -> Dataset``: the place is what is behind the
            colon, ``errors`` is called with every broken record (see ``reading.ErrorCollector``), and a place that is
            missing or has no such layout raises a DataError.
        signs: by which a bare path is recognized: patterns of names under it, all of which must match something; or,
            for a file, its ending.
        columns: its classes stand in a column that can be chosen (``label``).
    """

    pattern: str
    summary: str
    reader: str
    signs: tuple[str, ...] = ()
    columns: bool = False

    @property
    def kind(self) -> str:
        """What its names begin with."""
        return self.pattern.partition(":")[0]

    def recognizes(self, path: Path) -> bool:
        """Whether a bare path has the signs of this layout."""
        if path.is_file():
            return any(sign.startswith("*.") and path.match(sign) for sign in self.signs)
        wanted = [sign for sign in self.signs if not sign.startswith("*.")]
        return bool(wanted) and all(next(path.glob(sign), None) is not None for sign in wanted)


DATA_SOURCES = (
    DataSource("synthetic:NAME?OPTIONS", "made on the fly, with exact masks: shapes on clutter",
               "camlucida.data.synthetic:read_synthetic"),
    DataSource("csv:PATH", "annotations.csv: a row a box, masks/ beside images/",
               "camlucida.data.csv_file:read_csv", ("annotations.csv", "*.csv"), columns=True),
    DataSource("coco:FILE.json@PICTURES", "COCO's instances: one file, or a folder with annotations/instances_*.json",
               "camlucida.data.coco:read_coco", ("annotations/instances_*.json", "*.json")),
    DataSource("voc:PATH", "PASCAL VOC: JPEGImages/, Annotations/, ImageSets/Main/",
               "camlucida.data.voc:read_voc", ("Annotations/*.xml", "JPEGImages")),
    DataSource("cub:PATH", "CUB-200-2011 as distributed: images.txt and its sisters",
               "camlucida.data.cub:read_cub", ("images.txt", "image_class_labels.txt", "bounding_boxes.txt")),
    DataSource("ilsvrc:PATH", "ILSVRC as distributed: Data/CLS-LOC/, Annotations/CLS-LOC/",
               "camlucida.data.ilsvrc:read_ilsvrc", ("Data/CLS-LOC", "Annotations/CLS-LOC")),
    DataSource("wsol:METADATA@PICTURES", "the public WSOL benchmark's metadata: CUB, ILSVRC, OpenImages-30k",
               "camlucida.data.wsol:read_wsol", ("*/image_ids.txt", "*/class_labels.txt")),
    DataSource("folder:PATH", "CLASS/ or SPLIT/CLASS/, also below images/",
               "camlucida.data.class_folders:read_folder", ("*/",)),
)  # fmt: skip
"""Add your own: a line here, and its reader. A bare path is of the first kind that recognizes it."""


def open_dataset(
    source: str | Path,
    *,
    broken: Literal["refuse", "skip"] = "refuse",
    on_broken: Callable[[str], None] | None = None,
    label: str = "label",
) -> Dataset:
    """Open labelled pictures; no picture is decoded.

    Args:
        source: ``KIND:PLACE`` as in ``DATA_SOURCES``, or a bare path, recognized by what lies in it.
        broken: "refuse" a set with broken records, after all of them were named; or "skip" the records.
        on_broken: called with every broken record, "FILE:LINE: what is wrong". If None, skipped ones give one warning.
        label: the column of a CSV that names the class.

    Raises:
        DataError: there is no such kind or place, it is not readable, or has broken records and they are refused.

    >>> digits = open_dataset("synthetic:shapes?count=20&size=48")
    >>> len(digits.records), digits.examples[0].read().pixels.shape
    (20, (48, 48, 3))
    """
    from camlucida.data.reading import ErrorCollector

    if broken not in ("refuse", "skip"):
        raise DataError(f"broken: expected 'refuse' or 'skip', got {broken!r}")
    kind, place = _recognized(str(source))
    errors = ErrorCollector(broken, on_broken)
    options: dict[str, Any] = {}
    if kind.columns:
        options["label"] = label
    elif label != "label":
        raise DataError(f"{source}: {kind.kind} has no columns to choose a label from; leave label={label!r} out")
    module, _, function = kind.reader.partition(":")
    dataset: Dataset = getattr(importlib.import_module(module), function)(place, errors, **options)
    errors.close()
    if not dataset.records:
        raise DataError(f"{source}: no picture in it; check that it is {kind.pattern} ({kind.summary})")
    return dataset


def known_sources() -> Sequence[str]:
    """How the names of datasets look."""
    return [source.pattern for source in DATA_SOURCES]


def _recognized(source: str) -> tuple[DataSource, str]:
    kind, _, place = source.partition(":")
    for known in DATA_SOURCES:
        if place and kind == known.kind:
            return known, place
    path = Path(source)
    if not path.exists():
        names = ", ".join(known_sources())
        raise DataError(
            f"{source}: no such folder or file, and no such kind of data; expected a path or one of {names}"
        )
    for known in DATA_SOURCES:
        if known.recognizes(path):
            return known, source
    raise DataError(f"{source}: layout not recognized; name it, as one of {', '.join(known_sources())}")


def __getattr__(name: str) -> Any:
    """Load the record types, and the check of pictures, when first used."""
    if name in ("Dataset", "Example", "Record", "Truth"):
        return getattr(importlib.import_module("camlucida.data.record"), name)
    if name == "verified":
        return importlib.import_module("camlucida.data.checking").verified
    raise AttributeError(f"module 'camlucida.data' has no attribute {name!r}")
