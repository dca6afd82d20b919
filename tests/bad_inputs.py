"""A corpus of bad pictures: every entry must be refused with an `ImageError` that names it, and none may hang."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def noise(height: int = 64, width: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8))


def encoded(format: str, image: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (image or noise()).save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes | None, colour: int = 2, depth: int = 8, after: bytes = b"") -> bytes:
    """A PNG with this header and this (uncompressed) pixel stream, which need not belong together."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = b"" if pixels is None else chunk(b"IDAT", zlib.compress(pixels))
    return SIGNATURE + header + after + body + chunk(b"IEND", b"")


def bmp(width: int, height: int, bits: int = 24, data: bytes = b"\0" * 64) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(data), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + header + data


def gif(width: int, height: int, frame_hw: tuple[int, int] = (1, 1)) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, frame_hw[1], frame_hw[0], 0) + b"\x02\x02\x44\x01\x00"
    return screen + frame + b";"


def tiff(tags: list[tuple[int, int, int, int]], next_ifd: int = 0) -> bytes:
    """A little-endian TIFF of one directory at byte 8; tags are (tag, type, count, value)."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", next_ifd)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def _cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def _webp_bomb() -> bytes:
    """An extended header that claims the largest canvas, 16384×16384, over a 64×64 picture."""
    still = encoded("WEBP", lossless=True)[12:]
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + (b"\xff\x3f\x00" * 2) + still
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _pickled() -> bytes:
    return pickle.dumps({"weights": list(range(10))})


def _array_file() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((4, 4, 3), np.uint8))
    return file.getvalue()


def _zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.txt"), "hello")
    return file.getvalue()


def _files() -> dict[str, tuple[bytes, str]]:
    jpeg, flat_png = encoded("JPEG"), encoded("PNG")
    webp, tif = encoded("WEBP"), encoded("TIFF")
    idat = flat_png.index(b"IDAT")
    frames = [noise(), Image.new("RGB", (64, 64), "red")]
    apng = encoded("PNG", frames[0], save_all=True, append_images=frames[1:])
    moving_gif = encoded("GIF", frames[0], save_all=True, append_images=frames[1:])
    size_tags = [(256, 4, 1, 60000), (257, 4, 1, 60000)]
    rgb_tags = [(258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 60000)]
    rng = np.random.default_rng(11)
    return {
        "empty.jpg": (b"", "zero bytes"),
        "zeros.png": (b"\0" * 4096, "zeros only"),
        "text.jpg": (b"this is not a picture\n", "text"),
        "page.png": (b"<!DOCTYPE html><html><body>404 not found</body></html>", "an error page saved as a picture"),
        "vector.png": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "SVG"),
        "print.jpg": (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n%%EOF\n", "PDF"),
        "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "EPS, a program"),
        "archive.png": (_zipped(), "a zip archive"),
        "pickle.png": (_pickled(), "a pickle"),
        "array.png": (_array_file(), "an npy file"),
        "program.jpg": (b"\x7fELF\x02\x01\x01" + b"\0" * 57, "an ELF program"),
        "icon.png": (b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0" + b"\xff" * 64, "ICO garbage"),
        "random.webp": (rng.bytes(3000), "random bytes"),
        "magic.jpg": (b"\xff\xd8\xff\xe0" + rng.bytes(3000), "random bytes behind a JPEG's first four"),
        "magic.png": (SIGNATURE + rng.bytes(3000), "random bytes behind a PNG's signature"),
        "magic.gif": (b"GIF89a" + rng.bytes(2), "a GIF's signature and two bytes"),
        "magic.tif": (b"II*\0" + rng.bytes(3000), "random bytes behind a TIFF's first four"),
        "magic.webp": (b"RIFF\x10\0\0\0WEBPVP8 " + rng.bytes(16), "random bytes behind a WebP's first twelve"),
        "magic.avif": (b"\0\0\0\x1cftypavif" + rng.bytes(300), "random bytes behind an AVIF's first twelve"),
        "start.jpg": (b"\xff\xd8\xff", "three bytes of a JPEG"),
        "header.jpg": (jpeg[: jpeg.index(b"\xff\xda") + 4], "JPEG cut behind its header"),
        "tables.jpg": (jpeg[:100], "JPEG cut within its tables"),
        "half.jpg": (_cut(jpeg, 0.5), "JPEG cut in the middle"),
        "cut.jpg": (_cut(jpeg, 0.9), "JPEG cut near its end"),
        "flat.jpg": (jpeg.replace(jpeg[jpeg.index(b"\xff\xc0") + 5 :][:4], b"\0\0\0\0", 1), "JPEG of 0×0 pixels"),
        "bomb.jpg": (
            jpeg.replace(jpeg[jpeg.index(b"\xff\xc0") + 5 :][:4], b"\xff\xdc\xff\xdc", 1),
            "JPEG of 65500×65500 pixels",
        ),
        "half.png": (_cut(flat_png, 0.5), "PNG cut in the middle"),
        "signature.png": (SIGNATURE, "a PNG's signature only"),
        "header.png": (flat_png[:33], "PNG cut behind its header"),
        "tail.png": (flat_png[:-40], "PNG cut near its end"),
        "crc_header.png": (flipped(flat_png, 30), "PNG with a wrong checksum of the header"),
        "crc_data.png": (flipped(flat_png, idat + 2000), "PNG with a flipped byte in its data"),
        "no_data.png": (png(4, 4, None), "PNG without pixels"),
        "short_data.png": (png(64, 64, b"\0" * 100), "PNG with too few pixels"),
        "no_zlib.png": (
            SIGNATURE + png(4, 4, None)[8:33] + chunk(b"IDAT", rng.bytes(60)) + chunk(b"IEND", b""),
            "PNG whose pixel stream is no zlib stream",
        ),
        "no_width.png": (png(0, 4, b""), "PNG of 0×4 pixels"),
        "odd_mode.png": (png(4, 4, b"\0" * 64, colour=5), "PNG of an unknown colour type"),
        "bomb.png": (png(60000, 60000, b"\0" * 100), "PNG that claims 60000×60000 pixels"),
        "text_bomb.png": (
            png(4, 4, b"\0" * 52, after=chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * (1 << 26)))),
            "PNG with 64 MiB of text in 64 kB",
        ),
        "bomb.gif": (gif(65535, 65535), "GIF that claims 65535×65535 pixels"),
        "frame_bomb.gif": (gif(1, 1, (65535, 65535)), "GIF whose frame claims 65535×65535 pixels"),
        "no_frame.gif": (gif(4, 4)[:19] + b";", "GIF without a frame"),
        "first_frame.gif": (moving_gif[:1200], "animated GIF cut in its first frame"),
        "first_frame.apng": (apng[:2000], "animated PNG cut in its first frame"),
        "bomb.bmp": (bmp(60000, 60000), "BMP that claims 60000×60000 pixels"),
        "negative.bmp": (bmp(-8, 8), "BMP of negative width"),
        "lowest.bmp": (bmp(8, -(2**31)), "BMP of the most negative height"),
        "short.bmp": (bmp(64, 64), "BMP with too few pixels"),
        "odd_bits.bmp": (bmp(8, 8, bits=13), "BMP of 13 bits a pixel"),
        "header.bmp": (bmp(8, 8)[:20], "BMP cut in its header"),
        "garbage.tif": (tiff([(n * 7919 % 65536, n % 20, 2**31, 2**31 + n) for n in range(50)]), "garbage tags"),
        "loop.tif": (tiff([(254, 4, 1, 0)], next_ifd=8), "TIFF directories in a loop, no picture"),
        "no_directory.tif": (b"II*\0\xff\xff\xff\x7f", "TIFF whose directory lies past its end"),
        "bomb.tif": (tiff(size_tags + rgb_tags), "TIFF that claims 60000×60000 pixels"),
        "half.tif": (tif[:8], "TIFF cut behind its header"),
        "header.webp": (webp[:30], "WebP cut in its header"),
        "half.webp": (_cut(webp, 0.5), "WebP cut in the middle"),
        "bomb.webp": (_webp_bomb(), "WebP that claims 16384×16384 pixels"),
        "bomb.ppm": (b"P6\n900000 900000\n255\n" + b"\0" * 30, "PPM that claims 900000×900000 pixels"),
        "huge_number.ppm": (b"P6\n99999999999999999999 1\n255\n", "PPM with a number of 20 digits"),
        "short.ppm": (b"P6\n64 64\n255\n" + b"\0" * 30, "PPM with too few pixels"),
        "short.pgm": (b"P2\n4 4\n255\n1 2 3\n", "PGM in text with too few pixels"),
        "words.pgm": (b"P2\n2 2\n255\none two three four\n", "PGM of words"),
        "line\nbreak\x1b[31m.png": (b"no", "text, and a name with a line break and a terminal's colour code"),
        "[a-z]*.png": (b"no", "text, and a name that reads like a pattern"),
    }


def _specials() -> dict[str, tuple[Callable[[Path], object], str]]:
    return {
        "folder.jpg": (Path.mkdir, "a folder"),
        "dangling.png": (lambda path: path.symlink_to("nowhere.png"), "a link to nothing"),
        "loop.png": (lambda path: path.symlink_to("loop.png"), "a link to itself"),
        "ping.png": (lambda path: path.symlink_to("pong.png"), "one of two links to each other"),
        "pong.png": (lambda path: path.symlink_to("ping.png"), "the other of two links to each other"),
        "pipe.png": (os.mkfifo, "a FIFO: to open it would wait for ever"),
        "device.png": (lambda path: path.symlink_to("/dev/zero"), "a link to a device without end"),
    }


def write_corpus(folder: Path) -> dict[str, str]:
    """Write bad inputs of about 70 kinds into a folder; the same ones each time.

    Returns:
        Name -> what is bad about it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reasons = {}
    for name, (data, reason) in _files().items():
        (folder / name).write_bytes(data)
        reasons[name] = reason
    for name, (make, reason) in _specials().items():
        make(folder / name)
        reasons[name] = reason
    return reasons
