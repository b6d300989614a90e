"""The numbers are those of the levels, at and around every boundary."""

from __future__ import annotations

import numpy as np
import pytest

from harness import levels


@pytest.mark.parametrize(
    ("floor", "level"), [(0.0, 1e-4), (2.5e-5, 1e-4), (5e-5, 2e-4), (2.5e-4, 1e-3), (1.0, 1e-3), (float("inf"), 1e-3)]
)
def test_score(floor: float, level: float) -> None:
    assert levels.score_level(floor) == pytest.approx(level)


@pytest.mark.parametrize(
    ("side_px", "floor_px", "level"),
    [
        (7.99, 0.0, np.inf),
        (8.0, 0.0, 1e-2),
        (100.0, 0.0, 1e-2),
        (200.0, 0.0, 2e-2),
        (1000.0, 0.0, 0.1),
        (5000.0, 0.0, 0.1),
        (50.0, 5e-5, 1e-2),
        (50.0, 5e-3, 2e-2),
        (50.0, 1.0, 0.1),
    ],
)
def test_box(side_px: float, floor_px: float, level: float) -> None:
    assert levels.box_level_px(np.array([side_px]), floor_px)[0] == pytest.approx(level)


@pytest.mark.parametrize(("side_px", "level"), [(7.99, 0.0), (8.0, 0.99), (31.99, 0.99), (32.0, 0.999), (900.0, 0.999)])
def test_iou(side_px: float, level: float) -> None:
    assert levels.iou_level(np.array([side_px]))[0] == level


@pytest.mark.parametrize(("area_px", "level"), [(63, 0.0), (64, 0.99), (1023, 0.99), (1024, 0.999)])
def test_mask_iou(area_px: int, level: float) -> None:
    assert levels.mask_iou_level(np.array([float(area_px)]))[0] == level


@pytest.mark.parametrize(("detections", "allowed"), [(0, 1), (100, 1), (399, 1), (400, 2), (600, 3), (1400, 7)])
def test_certified(detections: int, allowed: int) -> None:
    assert levels.certified_allowed(detections) == allowed


def test_the_table_on_the_page_states_the_numbers_that_are_used() -> None:
    table = dict(levels.TABLE)
    for number in (levels.SCORE, levels.SCORE_LIMIT, levels.SCORE_NOTED):
        assert f"{number:.0e}".replace("e-0", "e-") in table["score"]
    for number in (levels.BOX_PX, levels.BOX_LIMIT_PX, levels.BOX_NOTED_PX):
        assert f"{number:g} px" in table[f"box, side from {levels.BOX_MIN_SIDE_PX:g} px"]
    for number in (levels.IOU_LARGE, levels.IOU_SMALL, levels.IOU_LARGE_SIDE_PX, levels.BOX_MIN_SIDE_PX):
        assert f"{number:g}" in table["IoU of matched"]
    for number in (levels.MASK_IOU_LARGE, levels.MASK_LARGE_AREA_PX, levels.MASK_IOU_SMALL, levels.MASK_SMALL_AREA_PX):
        assert f"{number:g}" in table["mask of each instance"]
    assert f"{levels.RAW_PER_MAX:.0e}".replace("e-0", "e-") in table["raw mask of each instance"]
    assert f"{levels.RAW_PER_VALUE:.0e}".replace("e-0", "e-") in table["raw mask of each instance"]
    assert f"{levels.RAW_COSINE:g}" in table["raw mask of each instance"]
    assert f"{levels.KEYPOINT_PX:g} px" in table["keypoints"]
    assert f"{levels.PANOPTIC_QUALITY:g}" in table["panoptic segments"]
    for number in (levels.PRECISION_POINTS, levels.AGREEMENT_POINTS):
        assert f"{number:g}" in table["AP against ground truth"]
    lower = ", ".join(levels.KEPT_PERCENT)
    assert ", ".join(f"{percent:g} %" for percent in levels.KEPT_PERCENT.values()) in table[lower]
    assert f"{levels.KEPT_OBJECTS:,} objects" in table[lower]
