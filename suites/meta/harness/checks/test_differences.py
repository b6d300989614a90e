"""Two answers are equal in every bit of every output, or it is said in which they are not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.checks.differences import unequal
from harness.detections import Detections, Panoptic
from harness.suites.meta.harness.answers import changed, grid, with_everything, without

pytestmark = pytest.mark.covers("M21")

WHOLE = with_everything(grid(4))


def bumped(name: str) -> Detections:
    """One value of an array of the last detection moved by the least that float32 tells."""
    values = getattr(WHOLE, name).copy()
    values.flat[-1] = np.nextafter(values.flat[-1], np.float32(np.inf))
    return dataclasses.replace(WHOLE, **{name: values})


def redrawn(*, pixel: int | None = None, score: float | None = None, fewer: bool = False) -> Detections:
    assert WHOLE.panoptic is not None
    ids, segments = WHOLE.panoptic.ids.copy(), list(WHOLE.panoptic.segments)
    if pixel is not None:
        ids.flat[0] = pixel
    if score is not None:
        segments[0] = dataclasses.replace(segments[0], score=score)
    if fewer:
        ids[ids == segments[-1].id] = 0
        segments.pop()
    return dataclasses.replace(WHOLE, panoptic=Panoptic(ids, tuple(segments)))


def test_equal_in_all() -> None:
    assert unequal(WHOLE, with_everything(grid(4))) == ""
    nan = redrawn(score=float("nan"))
    assert unequal(nan, redrawn(score=float("nan"))) == ""


@pytest.mark.parametrize("name", ["boxes_xyxy_px", "scores", "raw_masks", "keypoints"])
def test_one_bit_of_one_value(name: str) -> None:
    assert unequal(WHOLE, bumped(name)).startswith(f"{name.replace('raw_', 'raw ')} of detection 3 differs by ")


def test_raw_masks_are_not_demanded_of_whom_hands_out_pasted_ones() -> None:
    assert unequal(WHOLE, dataclasses.replace(WHOLE, raw_masks=None)) == ""


@pytest.mark.parametrize("name", ["masks", "keypoints", "panoptic"])
def test_an_output_on_one_side_only(name: str) -> None:
    less = dataclasses.replace(WHOLE, **{name: None})
    assert unequal(WHOLE, less).startswith("there are no ")
    assert unequal(less, WHOLE).endswith(", unlike before")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "there is an answer on one side only"),
        (without(WHOLE, 0), "there are 3 detections instead of 4"),
        (changed(WHOLE, label=1, index=2), "labels of detection 2 differs by 1, level 0"),
        (
            dataclasses.replace(WHOLE, keypoints=np.zeros((4, 3, 3), np.float32)),
            "keypoints have the shape [4, 3, 3], it was [4, 2, 3]",
        ),
        (redrawn(pixel=1), "1 pixels are of another panoptic segment"),
        (redrawn(fewer=True), "there are 4 panoptic segments instead of 5"),
        (dataclasses.replace(WHOLE, panoptic=Panoptic(np.zeros((2, 3), np.int32), ())), "of an image of (2, 3) px (height, width)"),
    ],
)
def test_what_differs_is_said(found: Detections | None, words: str) -> None:
    assert words in unequal(WHOLE, found)


def test_another_score_of_a_segment() -> None:
    assert "score=0.25" in unequal(WHOLE, redrawn(score=0.25))
