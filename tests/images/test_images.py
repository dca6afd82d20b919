"""Pictures in every mode and format against values worked out by hand; a corpus of bad ones, each refused by name."""

from __future__ import annotations

import inspect
import io
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bad_inputs import bmp, chunk, encoded, noise, png, tiff, write_corpus
from camlucida.errors import ImageError
from camlucida.images import picture as images
from camlucida.images.finding import SUFFIXES, find
from camlucida.images.picture import read, shown

# --- good pictures ----------------------------------------------------------------------------------------------------


def _image(mode: str, rows: list, dtype: type = np.uint8) -> Image.Image:
    image = Image.fromarray(np.array(rows, dtype))
    return image.convert(mode) if mode else image


def _palette(transparency: object = None) -> bytes:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    return encoded("PNG", image, **({} if transparency is None else {"transparency": transparency}))


def _ycbcr_jpeg() -> bytes:
    return encoded("JPEG", Image.new("RGB", (16, 16), (200, 30, 60)), quality=100, subsampling=0)


def _cmyk_jpeg() -> bytes:
    return encoded("JPEG", Image.new("CMYK", (16, 16), (255, 0, 0, 0)), quality=100, subsampling=0)


def _deep_tiff(bits: int, packed: bytes, photometric: int) -> bytes:
    """Three pixels in one row of deep grey."""
    tags = [(256, 3, 1, 3), (257, 3, 1, 1), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, photometric)]
    tags += [(273, 4, 1, 8 + 2 + 12 * 8 + 4), (277, 3, 1, 1), (279, 4, 1, len(packed))]
    return tiff(tags) + packed


GREY16 = [[0, 128, 129], [257, 65535, 33000]]  # / 257 = 0, 0.498, 0.502, 1, 255, 128.4
GREY8 = [[0, 0, 1], [1, 255, 128]]
RED, BLUE, WHITE = [255, 0, 0], [0, 0, 255], [255, 255, 255]


@pytest.mark.parametrize(
    ("data", "expected", "within"),
    [
        pytest.param(encoded("PNG", _image("1", [[0, 255]])), [[0, 255]], 0, id="1"),
        pytest.param(encoded("PNG", _image("L", [[0, 7, 255]])), [[0, 7, 255]], 0, id="L"),
        pytest.param(encoded("PNG", Image.new("LA", (1, 1), (100, 51))), [[224]], 0, id="LA: 0.2·100 + 0.8·255"),
        pytest.param(png(2, 1, b"\0\x09\x0a", 0, after=chunk(b"tRNS", b"\0\x09")), [[255, 10]], 0, id="L with a key"),
        pytest.param(
            png(2, 1, b"\0\x01\x02\x03\x04\x05\x06", 2, after=chunk(b"tRNS", b"\0\1\0\2\0\3")),
            [[WHITE, [4, 5, 6]]],
            0,
            id="RGB with a key",
        ),
        pytest.param(_palette(), [[[10, 20, 30], [200, 100, 0], BLUE]], 0, id="P"),
        pytest.param(_palette(1), [[[10, 20, 30], WHITE, BLUE]], 0, id="P with a transparent entry"),
        pytest.param(
            _palette(bytes([255, 102, 0])), [[[10, 20, 30], [233, 193, 153], WHITE]], 0, id="P with alphas: 0.4·c + 153"
        ),
        pytest.param(encoded("PNG", _image("", [[RED, BLUE]])), [[RED, BLUE]], 0, id="RGB"),
        pytest.param(
            encoded("PNG", Image.new("RGBA", (2, 1), (0, 100, 250, 51))), [[[204, 224, 254]] * 2], 0, id="RGBA"
        ),
        pytest.param(encoded("WEBP", Image.new("RGBA", (1, 1), (9, 9, 9, 0)), lossless=True), [[255]], 0, id="WebP"),
        pytest.param(encoded("TIFF", Image.new("CMYK", (1, 1), (255, 0, 0, 51))), [[[0, 204, 204]]], 0, id="CMYK"),
        pytest.param(_cmyk_jpeg(), np.full((16, 16, 3), (0, 255, 255)), 2, id="CMYK JPEG"),
        pytest.param(_ycbcr_jpeg(), np.full((16, 16, 3), (200, 30, 60)), 2, id="YCbCr JPEG"),
        pytest.param(encoded("PNG", _image("", GREY16, np.uint16)), GREY8, 0, id="I;16 PNG"),
        pytest.param(encoded("TIFF", _image("", GREY16, np.uint16)), GREY8, 0, id="I;16 TIFF"),
        pytest.param(encoded("TIFF", _image("", GREY16, np.dtype(">u2"))), GREY8, 0, id="I;16B TIFF"),
        pytest.param(b"P5\n2 1\n65535\n\x80\xe8\xff\xff", [[128, 255]], 0, id="16-bit PGM"),
        pytest.param(png(2, 1, b"\0\x00\x05\xff\xff", 0, 16, chunk(b"tRNS", b"\0\5")), [[255, 255]], 0, id="I;16, key"),
        pytest.param(_deep_tiff(16, b"\0\0\xff\xff\0\x80", 0), [[255, 0, 127]], 0, id="16-bit TIFF, white is zero"),
        pytest.param(_deep_tiff(12, b"\x00\x0f\xff\x80\x80", 1), [[0, 255, 128]], 0, id="12-bit TIFF"),
        pytest.param(png(1, 1, b"\0\xff\xff\x80\x80\x00\x00", 2, 16), [[[255, 128, 0]]], 0, id="16-bit RGB PNG"),
        pytest.param(encoded("TIFF", _image("", [[0, 0.5, 1]], np.float32)), [[0, 128, 255]], 0, id="F TIFF"),
        pytest.param(encoded("BMP", _image("", [[RED, BLUE]])), [[RED, BLUE]], 0, id="BMP"),
        pytest.param(bmp(1, -2, data=b"\0\0\xff\0\xff\0\0\0"), [[RED], [BLUE]], 0, id="BMP, top row first"),
        pytest.param(b"P3 1 1 255 1 2 3\n", [[[1, 2, 3]]], 0, id="PPM in text"),
    ],
)
def test_every_mode_comes_out_as_rgb(data: bytes, expected: list, within: int) -> None:
    picture = read(data)
    wanted = np.array(expected)
    wanted = wanted if wanted.ndim == 3 else np.repeat(wanted[:, :, None], 3, axis=2)
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.shape == wanted.shape
    assert np.abs(picture.pixels.astype(int) - wanted).max() <= within
    assert (picture.source, picture.note) == ("bytes", "")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBX", "RGBA", "CMYK", "HSV"])
def test_pil_images_that_are_black(mode: str) -> None:
    assert read(Image.new(mode, (3, 2), "black")).pixels.tolist() == [[[0, 0, 0]] * 3] * 2


@pytest.mark.parametrize("mode", ["La", "PA", "RGBa", "RGBA", "LA"])
def test_pil_images_that_are_transparent(mode: str) -> None:
    assert read(Image.new(mode, (3, 2))).pixels.tolist() == [[WHITE] * 3] * 2


UPRIGHT = np.array([[1, 2, 3], [4, 5, 6]], np.uint8) * 40
STORED = {  # EXIF 2.3, tag 0x0112: where the 0th row and the 0th column of what is stored lie in the visual picture
    1: [[1, 2, 3], [4, 5, 6]],  # top, left
    2: [[3, 2, 1], [6, 5, 4]],  # top, right
    3: [[6, 5, 4], [3, 2, 1]],  # bottom, right
    4: [[4, 5, 6], [1, 2, 3]],  # bottom, left
    5: [[1, 4], [2, 5], [3, 6]],  # left, top
    6: [[3, 6], [2, 5], [1, 4]],  # right, top
    7: [[6, 3], [5, 2], [4, 1]],  # right, bottom
    8: [[4, 1], [5, 2], [6, 3]],  # left, bottom
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.kron(np.array(STORED[orientation], np.uint8) * 40, np.ones((16, 16), np.uint8))
    options = {"quality": 100} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    data = encoded(format, Image.fromarray(stored).convert("RGB"), exif=exif, **options)
    expected = np.kron(UPRIGHT, np.ones((16, 16), np.uint8)).astype(int)
    for source in (data, Image.open(io.BytesIO(data))):
        pixels = read(source).pixels
        assert pixels.shape == (32, 48, 3)
        assert pixels.flags.c_contiguous
        assert np.abs(pixels - expected[:, :, None]).max() <= 1


@pytest.mark.parametrize("exif", [b"II*\0\x08\0\0\0\xff\xff", b"rubbish", b"MM\0*\0\0\0\x08\0\0\0\0\0\0"])
def test_a_damaged_exif_block_does_not_cost_the_picture(exif: bytes) -> None:
    data = encoded("PNG", Image.new("RGB", (2, 1), "red"), exif=b"Exif\0\0" + exif)
    assert read(data).pixels.tolist() == [[RED, RED]]


@pytest.mark.parametrize(
    ("format", "note"),
    [(format, "first frame of 3") for format in ("GIF", "PNG", "WEBP")] + [("TIFF", "first frame of several")],
)
def test_first_frame_and_a_note(format: str, note: str) -> None:
    frames = [Image.new("RGB", (4, 2), colour) for colour in ("red", "blue", "white")]
    options = {"lossless": True} if format == "WEBP" else {}
    picture = read(encoded(format, frames[0], save_all=True, append_images=frames[1:], **options))
    assert picture.note == note
    assert picture.pixels.tolist() == [[RED] * 4] * 2


def test_avif() -> None:
    pytest.importorskip("PIL.AvifImagePlugin", reason="Pillow reads AVIF from 11.3 on")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    picture = read(encoded("AVIF", frames[0], save_all=True, append_images=frames[1:], quality=100))
    assert picture.note == "first frame of 2"
    assert np.abs(picture.pixels.astype(int) - RED).max() <= 2


def test_avif_with_a_pillow_that_cannot_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", None)
    with pytest.raises(
        ImageError, match=r"^bytes: this Pillow cannot read AVIF; update it or convert the picture to PNG"
    ):
        read(b"\0\0\0\x1cftypavif" + b"\0" * 30)


def test_a_pil_image_is_read_at_the_frame_it_stands_at() -> None:
    frames = [Image.new("RGB", (4, 2), colour) for colour in ("red", "blue", "white")]
    with Image.open(io.BytesIO(encoded("GIF", frames[0], save_all=True, append_images=frames[1:]))) as image:
        image.seek(1)
        picture = read(image)
        assert image.tell() == 1
    assert picture.note == "frame 2 of 3"
    assert picture.pixels[0, 0].tolist() == BLUE


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[1, 2]], np.uint8), [[[1, 1, 1], [2, 2, 2]]]),
        (np.array([[[1], [2]]], np.uint8), [[[1, 1, 1], [2, 2, 2]]]),
        (np.array([[[1, 2, 3]]], np.uint8), [[[1, 2, 3]]]),
        (np.array([[[0, 100, 250, 51]]], np.uint8), [[[204, 224, 254]]]),
        (np.arange(6, dtype=np.uint8).reshape(3, 2, 1).transpose(1, 2, 0)[::-1], [[[1, 3, 5]], [[0, 2, 4]]]),
    ],
)
def test_arrays(array: np.ndarray, expected: list) -> None:
    before = array.copy()
    picture = read(array)
    assert picture.pixels.tolist() == expected
    picture.pixels[:] = 9  # the caller's array is another memory
    assert np.array_equal(array, before)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((2, 3, 3), np.float32), r"^array: expected uint8 .*, got float32 of shape 2×3×3; convert"),
        (np.zeros((2, 3), bool), "got bool of shape 2×3"),
        (np.zeros((1, 2, 3, 3), np.uint8), "got uint8 of shape 1×2×3×3"),
        (np.zeros((0, 3, 3), np.uint8), "got uint8 of shape 0×3×3"),
        (np.uint8(3) * np.ones((), np.uint8), r"got uint8 of shape \(\)"),
        (
            np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)),
            r"^array: 10000×10000 pixels, more than the limit",
        ),
    ],
)
def test_arrays_refused(array: np.ndarray, match: str) -> None:
    with pytest.raises(ImageError, match=match):
        read(np.asarray(array))


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (Image.new("RGB", (0, 5)), "^image: 0×5 pixels, nothing to see"),
        (_image("", [[-1.0, 0.5]], np.float32), r"^image: float grey from -1 to 0.5, expected 0 to 1; convert"),
        (_image("", [[0, 200.0]], np.float32), "float grey from 0 to 200, expected 0 to 1"),
        (_image("", [[0, np.nan]], np.float32), "float grey from nan to nan, expected 0 to 1"),
        (_image("", [[0, 70000]], np.int32), "integer grey from 0 to 70000, expected 16 bits, 0 to 65535"),
        (encoded("TIFF", _image("", [[0, 200]], np.int32)), "^bytes: integer grey from 0 to 200, expected 16 bits"),
        (None, "^NoneType: not a picture; expected a path, bytes"),
        (3, "^int: not a picture"),
        ("a\0b.png", r"^a\\x00b.png: cannot be opened \(embedded null"),
        ("x" * 5000, r"cannot be opened \(File name too long\)"),
        ("nowhere/a.png", "^nowhere/a.png: no such file; check the path"),
    ],
)
def test_other_sources_refused(source: object, match: str) -> None:
    with pytest.raises(ImageError, match=match):
        read(source)  # type: ignore[arg-type]


def test_limits_hold_at_the_border(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded("PNG", Image.new("RGB", (5, 4)))
    (tmp_path / "a.png").write_bytes(data)
    monkeypatch.setattr(images, "MAX_PIXELS", 20)
    monkeypatch.setattr(images, "MAX_BYTES", len(data))
    assert read(tmp_path / "a.png").pixels.shape == (4, 5, 3)
    monkeypatch.setattr(images, "MAX_BYTES", len(data) - 1)
    with pytest.raises(ImageError, match=f"a.png: {len(data)} bytes, more than the limit of {len(data) - 1}"):
        read(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 19)
    with pytest.raises(ImageError, match=r"^bytes: 5×4 pixels, more than the limit"):
        read(data)


def test_what_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").touch()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match=r"a.png: cannot be opened \(Permission denied\); check the path and its"):
        read(tmp_path / "a.png")


# --- bad pictures -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("bad")
    return folder, write_corpus(folder)


@pytest.mark.parametrize("action", ["error", "ignore"])
def test_every_bad_input_is_refused_by_name_on_one_line(bad: tuple[Path, dict[str, str]], action: str) -> None:
    folder, corpus = bad
    assert len(corpus) >= 40
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        for name, reason in corpus.items():
            with pytest.raises(ImageError) as caught:
                pytest.fail(f"{name} ({reason}) was read: {read(folder / name)}")
            message = str(caught.value)
            assert message.startswith(shown(folder / name) + ": ")
            assert message.isprintable(), message
            assert "; " in message, message


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bomb.png", "60000×60000 pixels, more than the limit of 89 million; scale it down"),
        ("frame_bomb.gif", "its pixels are more than the limit of 89 million"),
        ("empty.jpg", "empty; fetch it again"),
        ("script.png", r"not a picture in a known format \(JPEG, PNG"),
        ("half.jpg", r"damaged \(image file is truncated"),
        ("header.png", r"damaged \(cut short or garbled\)"),
        ("crc_data.png", r"damaged \(broken PNG file \(bad header checksum in b'IDAT'\)\)"),
        ("folder.jpg", "a folder, not a picture"),
        ("dangling.png", "a link to nothing; check the path"),
        ("loop.png", r"cannot be opened \(Too many levels of symbolic links\)"),
        ("pipe.png", "not a regular file; give a picture file"),
        ("device.png", "not a regular file; give a picture file"),
    ],
)
def test_what_the_refusal_says(bad: tuple[Path, dict[str, str]], name: str, says: str) -> None:
    with pytest.raises(ImageError, match=f"{name}: {says}"):
        read(bad[0] / name)


def test_the_corpus_is_the_same_each_time(tmp_path: Path) -> None:
    assert write_corpus(tmp_path / "a") == write_corpus(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_picture_cut_anywhere_is_read_in_full_or_refused() -> None:
    for format in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        data = encoded(format, noise(16, 16))
        whole = read(data).pixels
        for length in range(0, len(data), 7):
            try:
                assert np.array_equal(read(data[:length]).pixels, whole), (format, length)
            except ImageError:
                continue


def test_threads_do_not_disturb_each_other(bad: tuple[Path, dict[str, str]]) -> None:
    good = encoded("PNG", noise())
    limit, expected = Image.MAX_IMAGE_PIXELS, read(good).pixels

    def work(source: str | bytes) -> bool:
        try:
            return np.array_equal(read(source).pixels, expected)
        except ImageError:
            return source is not good

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, [source for name in bad[1] for source in (str(bad[0] / name), good)]))
    assert limit == Image.MAX_IMAGE_PIXELS


# --- finding them -----------------------------------------------------------------------------------------------------


def _tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def _names(folder: Path, *paths: str | Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in find(paths)]


def test_folders_are_walked_in_order(tmp_path: Path) -> None:
    _tree(tmp_path, "b.jpg", "a/2.PNG", "a/10.png", "a/notes.txt", "c/d/e.tiff", ".x.png", ".git/x.png", "none/x.csv")
    assert _names(tmp_path, tmp_path) == ["a/10.png", "a/2.PNG", "b.jpg", "c/d/e.tiff"]
    assert list(find(str(tmp_path / "a"))) == [tmp_path / "a/10.png", tmp_path / "a/2.PNG"]
    assert _names(tmp_path, tmp_path / "c", tmp_path / "b.jpg") == ["c/d/e.tiff", "b.jpg"]
    assert all(suffix == suffix.lower() for suffix in SUFFIXES)


def test_a_file_given_by_name_is_taken_as_it_is(tmp_path: Path) -> None:
    _tree(tmp_path, "notes.txt", ".hidden", "[ab]*.png", "a.png")
    (tmp_path / "gone.png").symlink_to("nowhere")
    names = ["notes.txt", ".hidden", "[ab]*.png", "gone.png"]
    assert _names(tmp_path, *(tmp_path / name for name in names)) == names


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tree(tmp_path, "x1.png", "x2.png", "x.txt", ".x.png", "a/y1.png", "a/.b/y.png", "a/c/y2.png", "b/y3.png")
    assert _names(tmp_path, tmp_path / "x?.png") == ["x1.png", "x2.png"]
    assert _names(tmp_path, tmp_path / "*") == ["a/c/y2.png", "a/y1.png", "b/y3.png", "x1.png", "x2.png"]
    assert _names(tmp_path, tmp_path / "[ab]") == ["a/c/y2.png", "a/y1.png", "b/y3.png"]
    assert sorted(_names(tmp_path, tmp_path / "**/y*.png")) == ["a/c/y2.png", "a/y1.png", "b/y3.png"]
    assert sorted(_names(tmp_path, tmp_path / "**/*")) == ["a/c/y2.png", "a/y1.png", "b/y3.png", "x1.png", "x2.png"]
    monkeypatch.chdir(tmp_path)
    assert list(find("x*.png")) == [Path("x1.png"), Path("x2.png")]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone.png", "gone.png: no such file or folder; check the path"),
        ("*.gif", r"\*.gif: no picture in it; looked for names in .*\.png"),
        ("empty", "empty: no picture in it; looked for names in"),
        ("x" * 300, "x: no such file or folder"),
        ("a\0b", r"a\\x00b: no such file or folder"),
    ],
)
def test_nothing_found_is_said_before_the_first_path_is_given_out(tmp_path: Path, name: str, says: str) -> None:
    _tree(tmp_path, "a.png", "empty/notes.txt")
    with pytest.raises(ImageError, match=says):
        find([tmp_path / "a.png", tmp_path / name])


def test_no_paths_at_all() -> None:
    with pytest.raises(ImageError, match="no pictures given; name files, folders or patterns"):
        find([])


def test_links_do_not_lead_out_of_a_folder_nor_round_in_it(tmp_path: Path) -> None:
    inside = _tree(tmp_path / "in", "a.png", "b/c.png")
    outside = _tree(tmp_path / "out", "secret.png")
    for link, target in {
        "round": inside,
        "b/up": inside,
        "away": outside,
        "away.png": outside / "secret.png",
        "readme": outside / "secret.png",
        "same.png": inside / "a.png",
        "gone.png": inside / "nowhere.png",
        "self.png": inside / "self.png",
    }.items():
        (inside / link).symlink_to(target)
    (inside / "album.jpg").mkdir()
    skipped: dict[str, str] = {}
    found = find(inside, lambda path, why: skipped.__setitem__(str(path.relative_to(inside)), why))
    assert [str(path.relative_to(inside)) for path in found] == ["a.png", "b/c.png", "gone.png", "same.png", "self.png"]
    assert skipped == {
        "album.jpg": "an empty folder, not a picture",
        "away": "a link that leads out of the folder",
        "away.png": "a link that leads out of the folder",
        "b/up": "a link to a folder",
        "round": "a link to a folder",
    }
    assert sorted(_names(inside, inside / "**/c.png")) == ["b/c.png"]
    (tmp_path / "entry").symlink_to(inside)  # a link given by name is followed
    assert next(find(tmp_path / "entry")) == tmp_path / "entry/a.png"


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tree(tmp_path, "a.png", "locked/b.png")
    scandir = os.scandir

    def guarded(folder: Path) -> object:
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    skipped: list[tuple[str, str]] = []
    assert list(find(tmp_path, lambda path, why: skipped.append((path.name, why)))) == [tmp_path / "a.png"]
    assert skipped == [("locked", "cannot be listed (Permission denied)")]


def test_folders_nested_deeper_than_python_recurses(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 200)
    deep.mkdir(parents=True)
    (deep / "a.png").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        found = list(find(tmp_path))
    finally:
        sys.setrecursionlimit(limit)
    assert found == [deep / "a.png"]


@pytest.mark.parametrize("name", ["a\nb.png", "a\x1b[31mb.png", "\u202egnp.png", "caf\udce9.png"])
def test_names_are_shown_on_one_line(name: str) -> None:
    assert shown(name).isprintable()
    assert shown(name) != name
    assert shown("grün 猫.png") == "grün 猫.png"
