"""Picture files to pixels and back: one rule for every kind of file, so that the way here does not change what is detected.

What a viewer shows is what the detector sees: the camera's rotation (EXIF) is applied; grey is the same in all three channels;
what is transparent keeps the colour that is stored there; of sixteen bits the upper eight are kept; CMYK is converted without a
colour profile; of an animation the first picture is taken.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.detections import Pixels

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
"""Pillow's readers that start no other program."""

_READ_AS = (*FORMATS, "MPO")
"""What Pillow calls what these readers opened: a JPEG file with further pictures in it is one of its own."""

LARGEST_PX = 64_000_000
"""Height times width that is decoded at most, unless told otherwise."""

_TO_EIGHT_BITS = 8
_SIXTEEN_BITS = 2**16


class BadPicture(UsageError):
    """What was given is no picture that can be decoded; the sentence says why."""


def decoded(content: bytes, largest_px: int = LARGEST_PX) -> Pixels:
    """A picture file as ``uint8 [H, W, 3]``, RGB. Raises `BadPicture`; a picture that is too large is not decoded at all."""
    from PIL import Image

    if not content:
        raise BadPicture("the picture is empty: 0 bytes", "Send the whole file.")
    return _decoded(lambda: Image.open(BytesIO(content), formats=FORMATS), largest_px)


def pixels_of(image: Any, largest_px: int = LARGEST_PX) -> Pixels:
    """What `decoded` makes of a file, of one that Pillow has opened and not yet decoded. Raises `BadPicture`.

    One that another reader than those of `FORMATS` has opened is not decoded either: some start other programs.
    """
    if image.format not in _READ_AS:
        raise _no_picture(f"{image.format or 'an image without a file'} is not read here")
    return _decoded(lambda: image, largest_px)


def _decoded(opened: Callable[[], Any], largest_px: int) -> Pixels:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow warns of what it can read all the same, and of large pictures where ours is the limit.
            warnings.simplefilter("ignore")
            return _opened(opened(), largest_px)
    except UnidentifiedImageError as error:
        raise _no_picture("this is no picture") from error
    except Image.DecompressionBombError as error:
        raise _too_large(str(error), largest_px) from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, TypeError, IndexError, KeyError, OverflowError) as error:
        # What Pillow's readers raise for a file that ends too soon or contradicts itself.
        raise BadPicture(f"the picture is damaged: {error}", "Send the whole file, as it was made.") from error


def encoded(pixels: Pixels) -> bytes:
    """``uint8 [H, W, 3]``, RGB, as a PNG file: every pixel comes back."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def _opened(image: Any, largest_px: int) -> Pixels:
    from PIL import ImageOps

    pixels = image.width * image.height
    if pixels > largest_px:
        raise _too_large(f"{image.width} x {image.height} pixels are {pixels / 1e6:.0f} megapixels", largest_px)
    image.load()
    return _eight_bits(ImageOps.exif_transpose(image))


def _eight_bits(image: Any) -> Pixels:
    mode = image.mode
    if mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= _SIXTEEN_BITS:
            raise BadPicture("its values do not fit into sixteen bits", "Convert it to a picture of eight or sixteen bits.")
        grey = (values >> _TO_EIGHT_BITS).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if mode == "F":
        raise BadPicture("its pixels are fractional numbers", "Convert it to a picture of eight or sixteen bits.")
    pixels: Pixels = np.array(image.convert("RGB"), dtype=np.uint8, order="C")
    return pixels


def _no_picture(words: str) -> BadPicture:
    return BadPicture(words, f"Send one of {', '.join(FORMATS)}.")


def _too_large(words: str, largest_px: int) -> BadPicture:
    return BadPicture(f"the picture is too large: {words}, at most {largest_px / 1e6:.0f} are taken", "Send a smaller one.")
