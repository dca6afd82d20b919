"""Decoding every picture and mask of a dataset once, to find those that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

from camlucida.data.reading import ErrorCollector
from camlucida.data.record import Dataset, Record
from camlucida.errors import DataError, ImageError


def verified(
    dataset: Dataset,
    *,
    broken: Literal["refuse", "skip"] = "refuse",
    on_broken: Callable[[str], None] | None = None,
    threads: int = 4,
) -> Dataset:
    """A dataset whose pictures and masks were all decoded; ``open_dataset`` decodes none.

    A record is broken if its picture or a mask cannot be read, if a mask has another size than the annotations state,
    or if the size that they state has other proportions than the picture (turned, or cut).

    Args:
        dataset: what to check.
        broken: "refuse" it if a record is broken, after all of them were named; or "skip" the records.
        on_broken: called with every broken record. If None, skipped ones give one warning.
        threads: pictures decoded at once.

    Raises:
        DataError: a record is broken, and they are refused.

    >>> from camlucida.data import open_dataset
    >>> len(verified(open_dataset("synthetic:shapes?count=10")).records)
    10
    """
    errors = ErrorCollector(broken, on_broken)
    with ThreadPoolExecutor(threads) as pool:
        faults = list(pool.map(_fault, dataset.records))
    for fault in faults:
        if fault:
            errors(f"{dataset.name}: {fault}")
    errors.close()
    kept = (record for record, fault in zip(dataset.records, faults, strict=True) if not fault)
    return replace(dataset, records=tuple(kept))


def _fault(record: Record) -> str:
    """What is wrong with a record; "" if nothing is."""
    try:
        height, width = record.example.read().pixels.shape[:2]
        record.truth.masks_at(record.truth.size_hw or (height, width))
    except (ImageError, DataError) as error:
        return str(error)
    if record.truth.size_hw is not None:
        stated_height, stated_width = record.truth.size_hw
        if abs(stated_height * width - stated_width * height) > max(height, width, stated_height, stated_width):
            sizes = f"{width}×{height} pixels, its annotations are for {stated_width}×{stated_height}"
            return f"{record.example.id}: has {sizes}; annotate it anew, or leave it out"
    return ""
