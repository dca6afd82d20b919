"""Networks of every kind that issue 11 names, each with a truth that knows nothing of the library."""

from __future__ import annotations

import nets_branches
import nets_grids
import nets_heads
import nets_outputs
import nets_running
from verdicts import Entry

ENTRIES: list[Entry] = [
    *nets_branches.ENTRIES, *nets_heads.ENTRIES, *nets_outputs.ENTRIES, *nets_grids.ENTRIES, *nets_running.ENTRIES,
]  # fmt: skip

KINDS = {
    "A1": "evidence from several branches",
    "A2": "cells elsewhere than they seem",
    "A3": "heads without a gradient",
    "A4": "norms in the head",
    "B5": "outputs that are activated",
    "B6": "several outputs",
    "C7": "grids of other proportions",
    "C8": "poolings like tokens",
    "C9": "frames and columns",
    "D10": "batches of a fixed size",
    "D11": "precision inside the pass",
    "D12": "several arguments",
    "D13": "hidden or special calls",
    "D14": "not a classifier, or other channels",
}
