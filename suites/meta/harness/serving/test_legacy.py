"""The service of the guides sees an upload as `bentoml.io.Image` hands it on; the mended one as everything else here reads it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness import levels
from harness.adapters.bentoml_service import ADAPTER
from harness.certificates import Limits
from harness.checks.reference import fault
from harness.compare import compare
from harness.families import family
from harness.fixtures.models import MODELS
from harness.serving.bentoml_home import bentoml_home
from harness.serving.legacy import StoredDetector
from harness.serving.pictures import FORMATS, LARGEST_PX, decoded
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS, changed_in_memory, pictures
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


@pytest.mark.covers("M6")
def test_a_runner_that_batches_gives_each_request_its_own_answer(tmp_path: Path) -> None:
    variant = next(one for one in ADAPTER.variants if one.id == "legacy_batched")
    model = changed_in_memory("tv_ssdlite_tiny", tmp_path / "source")
    given = [picture for picture in pictures() if picture.shape == pictures()[0].shape] + [pictures()[0][:, ::-1].copy()]
    wanted = [family("torchvision").predict(model.module, model.config, [picture])[0] for picture in given]
    (tmp_path / "built").mkdir()
    ADAPTER.build(model, variant, tmp_path / "built")
    with bentoml_home(tmp_path / "built"):
        import bentoml

        (stored,) = bentoml.models.list()
    assert stored.info.signatures["__call__"].batchable
    limits = Limits(model.spec.score_threshold, model.spec.detection_cap, levels.SCORE)
    with ADAPTER.open(tmp_path / "built", variant, "cpu") as session, ThreadPoolExecutor(8) as pool:
        for place, answer in enumerate(pool.map(lambda picture: session.predict([picture])[0], given * 12)):
            name = str(place % len(given))
            assert not fault(compare({name: wanted[place % len(given)]}, {name: answer}, limits))


def test_what_answers_one_picture_a_call_is_not_batched() -> None:
    variant = next(one for one in ADAPTER.variants if one.id == "legacy_batched")
    assert "takes one picture a call" in str(ADAPTER.declines(MODELS["d2_maskrcnn_tiny"], variant, "cpu"))
    assert ADAPTER.declines(MODELS["tv_ssdlite_tiny"], variant, "cpu") is None
