"""ONNX files as others write them, each tiny and each with its truth: explained exactly, refused in words, or said."""

from __future__ import annotations

from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx")
from wild_entries import e18, e19  # noqa: E402
from wild_external import e15  # noqa: E402
from wild_formats import e17  # noqa: E402
from wild_judging import observe  # noqa: E402
from wild_networks import Entry  # noqa: E402
from wild_pictures import e16  # noqa: E402

ENTRIES = [*e15(), *e16(), *e17(), *e18(), *e19()]


@pytest.mark.parametrize("entry", ENTRIES, ids=[f"{one.item}-{one.name}" for one in ENTRIES])
def test_entry(entry: Entry, tmp_path: Path) -> None:
    seen = observe(entry, tmp_path)
    assert seen.kinds & set(entry.wanted), f"wanted {' or '.join(entry.wanted)}: {'; '.join(seen.why)} [{seen.first}]"


@pytest.mark.parametrize("cwd", ["downloads", "elsewhere", ""])
@pytest.mark.parametrize("name", ["beside the model", "below the working folder alone", "in a branch, beside",
                                  "beside, other bytes below the working folder", "in the folder above"])  # fmt: skip
def test_one_behaviour_from_every_folder(name: str, cwd: str, tmp_path: Path) -> None:
    entry = next(one for one in ENTRIES if one.name == name)
    seen = observe(entry, tmp_path, cwd)
    assert seen.kinds & set(entry.wanted), f"from {cwd or 'above'}: {'; '.join(seen.why)} [{seen.first}]"
