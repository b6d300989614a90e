"""The pictures kept for the page are those on which answers differ most, with each difference named for what it is."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from harness.detections import Detections, Masks, Pixels
from harness.reports.exhibits import CLOSEST, MOST, exhibit, exhibits, outlines
from harness.types import Cell, Job, Observation, Purpose, Record, Status

CELL = Cell("model", "backend", "base", "cpu")
PIXELS: Pixels = np.full((90, 120, 3), (200, 30, 30), np.uint8)
BOXES = np.array([[5, 5, 45, 45], [50, 5, 90, 45], [5, 50, 45, 85], [50, 50, 90, 85]], np.float32)


def answer(**changes: object) -> Detections:
    """Four detections with masks, some of it changed."""
    full = np.zeros((4, 90, 120), np.bool_)
    for mask, (x1, y1, x2, y2) in zip(full, BOXES.astype(int), strict=True):
        mask[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2] = True
    plain = Detections(BOXES, np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.array([0, 1, 2, 0]), Masks.from_full(full))
    return replace(plain, **changes) if changes else plain


def moved(pixels: float) -> Detections:
    return answer(boxes_xyxy_px=BOXES + np.array([[0] * 4, [pixels] * 4, [0] * 4, [0] * 4], np.float32))


class Deck:
    """Every picture is the same one."""

    def pixels(self, image_id: str) -> Pixels:
        return PIXELS


def observed(cell: Cell, **answers: Detections) -> Observation:
    return Observation(Job(cell, Purpose.PARITY), answers)


def differences(candidate: Detections) -> list[tuple[int | None, int | None, str]]:
    line = exhibit(CELL, "image", PIXELS, answer(), candidate)
    return [(p.reference, p.candidate, p.difference) for p in line.pairs if p.difference != "same"]


def test_each_difference_is_named_for_what_it_is() -> None:
    smaller = Masks.from_full(np.stack([answer().masks.full(n) & (np.arange(120) > 8) for n in range(4)]))  # type: ignore[union-attr]
    assert differences(answer()) == []
    assert differences(moved(0.5)) == [(1, 1, "moved")]
    assert differences(answer(scores=np.array([0.9, 0.8, 0.7, 0.5], np.float32))) == [(3, 3, "score")]
    assert differences(answer(labels=np.array([0, 1, 1, 0]))) == [(2, 2, "class")]
    assert differences(answer(masks=smaller)) == [(0, 0, "mask"), (2, 2, "mask")]
    assert differences(answer().take([0, 1, 3])) == [(2, None, "missing")]
    assert differences(answer().take([3, 2, 1, 0])) == []
    line = exhibit(CELL, "image", PIXELS, answer().take([0, 1]), answer())
    assert [(p.reference, p.candidate) for p in line.pairs if p.difference == "extra"] == [(None, 2), (None, 3)]


def test_the_gravest_difference_comes_first() -> None:
    worse = replace(moved(1.0), labels=np.array([1, 1, 2, 0]), scores=np.array([0.9, 0.8, 0.7, 0.4], np.float32))
    assert [kind for *_, kind in differences(worse)] == ["class", "moved", "score"]


def test_the_picture_is_the_one_that_the_record_names() -> None:
    pair = (observed(CELL, calm=moved(0.2), wild=moved(3.0)), observed(CELL, calm=answer(), wild=answer()))
    failed = Record("parity.boxes", CELL, Status.FAILED, "", 1, image="calm")
    assert [line.image for line in exhibits(Deck(), [failed], {CELL: pair})] == ["calm"]
    unnamed = replace(failed, image=None)
    assert [line.image for line in exhibits(Deck(), [unnamed], {CELL: pair})] == ["wild"]


def test_cells_that_failed_are_shown_and_no_others() -> None:
    cells = [replace(CELL, backend=f"backend{n}") for n in range(MOST + 6)]
    answers = {cell: (observed(cell, image=moved(1.0)), observed(cell, image=answer())) for cell in cells}
    statuses = [Status.PASSED, Status.FAILED, Status.WAIVED, Status.DECLINED]
    records = [Record("parity.boxes", cell, s, "", 1) for cell, s in zip(cells, statuses, strict=False)]
    assert [line.cell.cell() for line in exhibits(Deck(), records, answers)] == cells[1:3]
    all_failed = [Record("parity.boxes", cell, Status.FAILED, "", 1) for cell in cells]
    assert len(list(exhibits(Deck(), all_failed, answers))) == MOST


def test_where_nothing_failed_the_few_that_differ_most_are_shown() -> None:
    shifts = (0.001, 0.004, 0.002, 0.0, 0.003)
    cells = [replace(CELL, backend=f"backend{n}") for n in range(len(shifts))]
    pairs = zip(cells, shifts, strict=True)
    answers = {cell: (observed(cell, image=moved(px)), observed(cell, image=answer())) for cell, px in pairs}
    shown = [line.cell.backend for line in exhibits(Deck(), [], answers)]
    assert shown == ["backend1", "backend4", "backend2"]
    assert len(shown) == CLOSEST


def test_an_answer_that_was_never_given_is_no_exhibit() -> None:
    failed = Record("parity.boxes", CELL, Status.FAILED, "", 1, image="image")
    assert list(exhibits(Deck(), [failed], {CELL: (observed(CELL), observed(CELL, image=answer()))})) == []


def test_the_picture_is_the_deck_s_and_small() -> None:
    line = exhibit(CELL, "image", PIXELS, answer(), moved(1.0))
    picture = Image.open(io.BytesIO(base64.b64decode(line.picture)))
    assert (line.width_px, line.height_px, picture.size) == (120, 90, (120, 90))
    assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - PIXELS).max() < 12
    large = exhibit(CELL, "image", np.zeros((900, 1800, 3), np.uint8), answer(), answer())
    assert (large.width_px, Image.open(io.BytesIO(base64.b64decode(large.picture))).size) == (1800, (640, 320))


def _area(ring: tuple[float, ...]) -> float:
    x, y = np.array(ring[::2]), np.array(ring[1::2])
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


@pytest.mark.covers("M21")
@given(arrays.arrays(np.bool_, (9, 11)))
def test_an_outline_encloses_its_mask(mask: NDArray[np.bool_]) -> None:
    full = np.zeros((1, 40, 50), np.bool_)
    full[0, 20:29, 30:41] = mask
    rings = outlines(Masks.from_full(full), 0)
    assert bool(rings) == bool(mask.any())
    if rings:
        x, y = (np.concatenate([ring[axis::2] for ring in rings]) for axis in (0, 1))
        rows, columns = np.flatnonzero(mask.any(axis=1)) + 20.5, np.flatnonzero(mask.any(axis=0)) + 30.5
        assert (x.min(), x.max()) == pytest.approx((columns[0] - 0.5, columns[-1] + 0.5))
        assert (y.min(), y.max()) == pytest.approx((rows[0] - 0.5, rows[-1] + 0.5))


@given(st.integers(3, 30), st.integers(3, 30))
def test_the_outline_of_a_rectangle_has_its_area_but_for_the_corners(height: int, width: int) -> None:
    full = np.zeros((1, 40, 40), np.bool_)
    full[0, 4 : 4 + height, 5 : 5 + width] = True
    (ring,) = outlines(Masks.from_full(full), 0)
    assert len(ring) == 16
    assert abs(_area(ring)) == pytest.approx(height * width - 4 * 0.125)
