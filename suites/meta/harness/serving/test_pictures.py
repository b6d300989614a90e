"""One rule for every kind of picture file; what is none is refused in a sentence."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from harness.serving.pictures import FORMATS, LARGEST_PX, BadPicture, decoded, encoded, pixels_of

pytestmark = pytest.mark.covers("M5", "M14", "M21")

ASYMMETRIC = np.zeros((4, 6, 3), np.uint8)
ASYMMETRIC[:, :3] = (200, 10, 30)
ASYMMETRIC[0, 0] = (1, 2, 3)


def file_of(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    content = BytesIO()
    image.save(content, format=kind, **options)
    return content.getvalue()


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_every_pixel_comes_back(pixels: Any) -> None:
    assert np.array_equal(decoded(encoded(pixels)), pixels)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_what_loses_nothing_is_the_same_in_every_format(kind: str) -> None:
    assert np.array_equal(decoded(file_of(Image.fromarray(ASYMMETRIC), kind)), ASYMMETRIC)
    assert np.array_equal(decoded(file_of(Image.fromarray(ASYMMETRIC), "WEBP", lossless=True)), ASYMMETRIC)


def test_jpeg_is_what_pillow_makes_of_it() -> None:
    content = file_of(Image.fromarray(np.repeat(np.repeat(ASYMMETRIC, 8, 0), 8, 1)), "JPEG", quality=95)
    assert np.array_equal(decoded(content), np.asarray(Image.open(BytesIO(content))))


@pytest.mark.parametrize(
    ("orientation", "as_seen"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: p[::-1, ::-1]),
        (4, lambda p: p[::-1]),
        (5, lambda p: p.transpose(1, 0, 2)),
        (6, lambda p: np.rot90(p, 3)),
        (7, lambda p: p[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda p: np.rot90(p, 1)),
    ],
)
def test_the_cameras_rotation_is_applied(orientation: int, as_seen: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decoded(file_of(Image.fromarray(ASYMMETRIC), exif=exif)), as_seen(ASYMMETRIC))


def test_every_mode_is_decided() -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    in_three = np.repeat(grey[:, :, None], 3, axis=2)
    assert np.array_equal(decoded(file_of(Image.fromarray(grey))), in_three)
    alpha = np.dstack([ASYMMETRIC, np.full((4, 6), 7, np.uint8)])
    assert np.array_equal(decoded(file_of(Image.fromarray(alpha))), ASYMMETRIC)
    assert np.array_equal(decoded(file_of(Image.fromarray(np.dstack([grey, grey]), mode="LA"))), in_three)
    assert np.array_equal(decoded(file_of(Image.fromarray(ASYMMETRIC).quantize(4), "GIF")), ASYMMETRIC)
    bits = Image.fromarray(grey > 11)
    assert np.array_equal(decoded(file_of(bits)), np.where(in_three > 11, 255, 0))
    cmyk = Image.fromarray(ASYMMETRIC).convert("CMYK")
    assert np.array_equal(decoded(file_of(cmyk, "TIFF")), np.asarray(cmyk.convert("RGB")))


def test_of_sixteen_bits_the_upper_eight_are_kept() -> None:
    deep = (np.arange(24, dtype=np.uint16) * 2700).reshape(4, 6)
    for kind in ("PNG", "TIFF"):
        found = decoded(file_of(Image.fromarray(deep), kind))
        assert np.array_equal(found, np.repeat((deep >> 8).astype(np.uint8)[:, :, None], 3, axis=2))
    colours = (np.arange(4 * 6 * 3, dtype=np.uint16) * 900).reshape(4, 6, 3)
    assert np.array_equal(decoded(png_of_sixteen_bits(colours)), (colours >> 8).astype(np.uint8))


def png_of_sixteen_bits(pixels: Any) -> bytes:
    """Pillow cannot write one with colours."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_of_an_animation_the_first_picture_is_taken() -> None:
    pages = [Image.fromarray(ASYMMETRIC), Image.fromarray(255 - ASYMMETRIC)]
    assert np.array_equal(decoded(file_of(pages[0], "TIFF", save_all=True, append_images=pages[1:])), ASYMMETRIC)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(marked) print\n%%EOF\n"


def test_what_another_reader_opened_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    def ghostscript(*_: Any, **__: Any) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    image = Image.open(BytesIO(EPS))
    assert image.format == "EPS"
    with pytest.raises(BadPicture, match="EPS is not read here\n  Send one of PNG"):
        pixels_of(image)
    with pytest.raises(BadPicture, match="an image without a file is not read here"):
        pixels_of(Image.fromarray(ASYMMETRIC))


@pytest.mark.parametrize("kind", FORMATS)
def test_what_pillow_has_opened_is_decoded_as_the_file_is(kind: str) -> None:
    content = file_of(Image.fromarray(ASYMMETRIC), kind)
    assert np.array_equal(pixels_of(Image.open(BytesIO(content))), decoded(content))


def test_a_jpeg_with_further_pictures_is_one() -> None:
    pages = [Image.fromarray(np.full((16, 16, 3), grey, np.uint8)) for grey in (200, 40)]
    content = file_of(pages[0], "MPO", save_all=True, append_images=pages[1:])
    assert Image.open(BytesIO(content), formats=FORMATS).format == "MPO"
    assert np.array_equal(decoded(content), np.asarray(pages[0]))
    assert np.array_equal(pixels_of(Image.open(BytesIO(content))), np.asarray(pages[0]))


def header_of(width: int, height: int) -> bytes:
    """The beginning of a PNG file that says how large it is, and has no pixel."""
    whole = bytearray(png_of_sixteen_bits(np.zeros((1, 1, 3), np.uint16)))
    whole[16:24] = struct.pack(">II", width, height)
    whole[29:33] = struct.pack(">I", zlib.crc32(bytes(whole[12:29])))
    return bytes(whole)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty: 0 bytes"),
        (b"GIF89a", "no picture|damaged"),
        (b"hello, I am a text", "no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture"),
        (file_of(Image.fromarray(np.repeat(ASYMMETRIC, 40, 0)), "PNG")[:-60], "damaged"),
        (file_of(Image.fromarray(np.repeat(ASYMMETRIC, 40, 0)), "JPEG")[:-60], "damaged"),
        (header_of(20_000, 10_000), "too large"),
        (header_of(100_000, 100_000), "too large"),
        (header_of(0, 5), "damaged|no picture"),
        (file_of(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), "fractional"),
        (file_of(Image.fromarray(np.full((2, 2), 70_000, np.int32)), "TIFF"), "sixteen bits"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_sentence(content: bytes, words: str) -> None:
    with pytest.raises(BadPicture, match=words) as caught:
        decoded(content)
    assert "\n  " in str(caught.value)


def test_the_limit_is_the_callers() -> None:
    content = encoded(ASYMMETRIC)
    assert decoded(content, largest_px=24).shape == (4, 6, 3)
    with pytest.raises(BadPicture, match="too large"):
        decoded(content, largest_px=23)
    assert LARGEST_PX < 89_000_000


@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]), st.integers(0, 60))
def test_no_bytes_at_all_do_anything_else(content: bytes, kind: str, kept: int) -> None:
    try:
        pixels = decoded(file_of(Image.fromarray(ASYMMETRIC), kind)[:kept] + content)
    except BadPicture:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
