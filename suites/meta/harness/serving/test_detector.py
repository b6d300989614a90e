"""The detector behind every route: what it is told holds for all of them."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np
import pytest

from harness.serving.detector import Served
from harness.serving.frames import IMAGE_COLUMN, BadFrame
from harness.serving.pictures import BadPicture, encoded
from harness.serving.settings import Settings
from harness.serving.store import PlainStore
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS, changed_in_memory

pytest.importorskip("bentoml")
pytest.importorskip("pandas")
pytestmark = [pytest.mark.covers("M5", "M14"), *THEIR_WARNINGS]
LARGEST_PX = 40 * 40


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("small")
    tag = PlainStore(folder / "home").save("small", changed_in_memory("tv_ssdlite_tiny", folder / "source"))
    served = Served(Settings(str(tag), folder / "home", largest_px=LARGEST_PX, threads=1))
    with served._precision:
        yield served


def row(height: int, width: int) -> dict[str, str]:
    return {IMAGE_COLUMN: base64.b64encode(encoded(np.zeros((height, width, 3), np.uint8))).decode()}


def test_every_route_has_the_limit_that_was_told(small: Served) -> None:
    assert small.detections(encoded(np.zeros((40, 40, 3), np.uint8)))[1].shape == (40, 40, 3)
    assert len(small.predict([row(40, 40)])) == 1
    with pytest.raises(BadPicture, match="too large"):
        small.detections(encoded(np.zeros((40, 41, 3), np.uint8)))
    with pytest.raises(BadFrame, match="row 1: the picture is too large"):
        small.predict([row(40, 40), row(40, 41)])


def test_no_rows_are_told_as_that(small: Served) -> None:
    with pytest.raises(BadFrame, match="the DataFrame has no row"):
        small.predict([])
