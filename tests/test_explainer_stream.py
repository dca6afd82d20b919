"""Explaining many files: order, errors, how much is held in memory, and what happens when it is cut short."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import camlucida as cl
from camlucida import explainer as module
from camlucida.errors import ImageError
from camlucida.images import ahead as ahead_module
from camlucida.images import batches as batches_module
from camlucida.images.picture import Picture, read


@pytest.fixture(scope="module")
def explainer() -> cl.Explainer:
    return cl.Explainer()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eleven pictures of different sizes."""
    place = tmp_path_factory.mktemp("pictures")
    whole = Image.fromarray(cl.sample().pixels)
    for i in range(11):
        whole.crop((9 * i, 0, 200 + 9 * i, 150)).resize((40 + i, 30)).save(place / f"{i:02d}.png")
    return sorted(place.iterdir())


def refuse(error: ImageError) -> None:
    raise AssertionError(f"no error was expected: {error}")


@pytest.mark.parametrize("batch", [1, 4, 11, 50])
def test_the_order_is_that_of_the_files_and_batches_change_nothing(
    explainer: cl.Explainer, paths: list[Path], batch: int
) -> None:
    parts = list(explainer.stream(iter(paths), 2, on_error=refuse, batch=batch))
    assert [len(part) for part in parts] == [min(batch, 11 - start) for start in range(0, 11, batch)]
    alone = explainer(paths, 2)
    assert [picture.source for part in parts for picture in part.pictures] == [str(path) for path in paths]
    assert [view for part in parts for view in part.views] == list(alone.views)
    assert [names for part in parts for names in part.names] == list(alone.names)
    assert np.allclose(np.concatenate([part.maps for part in parts]), alone.maps, atol=1e-5)
    assert np.allclose(np.concatenate([part.logits for part in parts]), alone.logits, atol=1e-4)


def test_errors_are_told_in_order_in_the_callers_thread(
    explainer: cl.Explainer, paths: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no")
    told: list[tuple[str, bool]] = []

    def on_error(error: ImageError) -> None:
        told.append((str(error).partition(":")[0], threading.current_thread() is threading.main_thread()))

    mixed = [tmp_path / "bad.png", *paths[:5], tmp_path / "gone.png", *paths[5:], tmp_path]
    parts = list(explainer.stream(mixed, on_error=on_error, batch=3))
    assert told == [(str(tmp_path / "bad.png"), True), (str(tmp_path / "gone.png"), True), (str(tmp_path), True)]
    assert [len(part) for part in parts] == [3, 3, 3, 2]
    assert [picture.source for part in parts for picture in part.pictures] == [str(path) for path in paths]


def test_only_bad_files(explainer: cl.Explainer, tmp_path: Path) -> None:
    told: list[ImageError] = []
    assert list(explainer.stream([tmp_path] * 40, on_error=told.append)) == []
    assert len(told) == 40
    assert list(explainer.stream([], on_error=refuse)) == []


def test_without_a_collector_the_first_error_is_raised(
    explainer: cl.Explainer, paths: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no")
    assert sum(len(part) for part in explainer.stream(paths)) == 11
    parts = explainer.stream([*paths[:2], tmp_path / "bad.png", *paths[2:]], batch=2)
    assert len(next(parts)) == 2
    with pytest.raises(ImageError, match=r"bad\.png: not a picture"):
        next(parts)


def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the pictures that were read and are still in memory; the answer is the most there ever were."""
    alive: weakref.WeakSet[Picture] = weakref.WeakSet()
    lock, most = threading.Lock(), [0]

    def counting(path: str | Path) -> Picture:
        picture = read(path)
        with lock:
            alive.add(picture)
            most[0] = max(most[0], len(alive))
        return picture

    monkeypatch.setattr(module, "read", counting)
    return lambda: most[0]


def test_few_pictures_are_in_memory_at_a_time(
    explainer: cl.Explainer, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    most = counted(monkeypatch)
    seen = sum(len(part) for part in explainer.stream(paths * 12, on_error=refuse, batch=4))
    assert seen == 132
    assert most() <= 3 * 4 + ahead_module.WORKERS  # one batch held by the caller, one in the model, one ahead


def test_large_pictures_come_in_small_batches(
    explainer: cl.Explainer, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    most = counted(monkeypatch)
    monkeypatch.setattr(batches_module, "HELD", 2 * 30 * 40 * 3)  # of 11 pictures of 3600 to 4500 bytes
    parts = list(map(len, explainer.stream(paths * 5, on_error=refuse, batch=50)))
    assert sum(parts) == 55
    assert max(parts) == 2
    assert most() <= 3 * 3 + ahead_module.WORKERS


def test_a_consumer_that_stops_stops_the_reading(
    explainer: cl.Explainer, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, looked = threading.active_count(), []
    monkeypatch.setattr(module, "read", lambda path: looked.append(path) or read(path))
    explained = explainer.stream(paths * 100, on_error=refuse, batch=2)
    next(explained)
    explained.close()
    assert threading.active_count() == before
    assert len(looked) <= 8


def test_what_is_no_picture_error_is_not_hidden(
    explainer: cl.Explainer, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = threading.active_count()

    def broken(path: str | Path) -> Picture:
        raise RuntimeError(f"a bug, seen at {Path(path).name}")

    monkeypatch.setattr(module, "read", broken)
    with pytest.raises(RuntimeError, match=r"a bug, seen at 00\.png"):
        list(explainer.stream(paths, on_error=refuse))
    assert threading.active_count() == before


def test_an_error_in_the_callback_ends_it(explainer: cl.Explainer, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no error was expected"):
        list(explainer.stream([tmp_path], on_error=refuse))
