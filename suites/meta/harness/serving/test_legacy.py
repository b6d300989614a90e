"""The service of the guides sees an upload as `bentoml.io.Image` hands it on; the mended one as everything else here reads it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.serving.legacy import StoredDetector
from harness.serving.pictures import FORMATS, LARGEST_PX, decoded
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS
from harness.suites.meta.harness.serving.test_pictures import EPS
from harness.wire import files

pytest.importorskip("bentoml")
pytestmark = [pytest.mark.covers("M5"), *THEIR_WARNINGS]
PICTURE = np.zeros((40, 60, 3), np.uint8)
PICTURE[:20, :15] = (200, 40, 10)


def service(*, mended: bool) -> Any:
    """One that has no model: what it makes of an upload alone."""
    found = object.__new__(StoredDetector)
    found._mended, found._largest_px = mended, LARGEST_PX
    return found


def handed_on(content: bytes) -> Any:
    """As `docs/findings/bentoml_io_image.py` shows that the library does."""
    return Image.open(BytesIO(content))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("png", (40, 60, 3)),
        ("grey png", (40, 60)),
        ("png with transparency", (40, 60, 4)),
        ("cmyk jpeg", (40, 60, 4)),
        ("jpeg, rotated by EXIF", (40, 60, 3)),
    ],
)
def test_the_unmended_one_gets_what_the_library_hands_on(kind: str, shape: tuple[int, ...]) -> None:
    assert service(mended=False)._pixels(handed_on(files(PICTURE)[kind])).shape == shape


@pytest.mark.parametrize("kind", files(PICTURE))
def test_the_mended_one_reads_every_kind_as_the_file_is_read(kind: str) -> None:
    content = files(PICTURE)[kind]
    assert np.array_equal(service(mended=True)._pixels(handed_on(content)), decoded(content))


def test_the_mended_one_starts_no_other_program_for_an_upload() -> None:
    from bentoml.exceptions import BadInput

    with pytest.raises(BadInput, match=f"EPS is not read here. Send one of {', '.join(FORMATS)}"):
        service(mended=True)._pixels(handed_on(EPS))
