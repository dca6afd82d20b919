"""Fixtures for every test: the shared pictures, seeded random numbers, and a watch on torch's global state."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

SEED = 0


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of labelled pictures: $CAMLUCIDA_DATA, else ``shared/data`` beside the checkout; skips without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CAMLUCIDA_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"no pictures at {folder}: name their folder with CAMLUCIDA_DATA")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run and do not depend on other tests."""
    return np.random.default_rng(SEED)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same global seeds, whatever ran before it."""
    np.random.seed(SEED)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(SEED)


@pytest.fixture(autouse=True)
def torch_state() -> Iterator[None]:
    """Fail a test that leaves torch changed (gradient mode, default dtype, determinism, threads), and set it right."""
    before = _torch_state()
    yield
    after = _torch_state()
    if before is None or after is None or before == after:
        return
    _set_torch_state(before)
    changed = ", ".join(f"{name}: {before[name]} -> {after[name]}" for name in before if before[name] != after[name])
    pytest.fail(f"the test left torch's global state changed: {changed}")


def _torch_state() -> dict[str, object] | None:
    """What code may switch for the whole process, or None where torch was not imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    return {
        "gradients": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
    }


def _set_torch_state(state: dict[str, object]) -> None:
    torch = sys.modules["torch"]
    torch.set_grad_enabled(state["gradients"])
    torch.set_default_dtype(state["default dtype"])
    torch.use_deterministic_algorithms(state["deterministic"])
    torch.set_num_threads(state["threads"])
