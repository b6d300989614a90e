"""What is measured of a pair is what a person would measure."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness import levels
from harness.detections import Masks
from harness.pairs import keypoint_distances_px, keypoint_values, mask_values, raw_mask_values

pytestmark = pytest.mark.covers("M21")

places = arrays.arrays(np.float32, (3, 4, 3), elements=st.floats(-500, 500, width=32))
raw = arrays.arrays(np.float32, (3, 5, 5), elements=st.floats(0, 1, width=32))


@given(places, places)
@settings(deadline=None)
def test_keypoints_are_as_far_apart_from_either_side(a: np.ndarray, b: np.ndarray) -> None:
    there, back = keypoint_values(a, b), keypoint_values(b, a)
    assert all((there[name] == back[name]).all() for name in there)
    assert not any(value.any() for value in keypoint_values(a, a).values())


@given(places, st.floats(0, 50), st.floats(0, 50), st.floats(0, 2 * math.pi), st.integers(0, 3))
@settings(deadline=None)
def test_the_further_a_keypoint_moves_the_worse_it_looks(
    here: np.ndarray, one_px: float, other_px: float, direction: float, point: int
) -> None:
    step = np.zeros(here.shape)
    step[1, point, :2] = math.cos(direction), math.sin(direction)
    near, far = (keypoint_distances_px(here, here + px * step)[1, point] for px in sorted((one_px, other_px)))
    assert near <= far + 1e-6
    assert far == pytest.approx(max(one_px, other_px), abs=1e-6)


def test_the_farthest_keypoint_of_a_pair_counts() -> None:
    here = np.zeros((2, 3, 3), np.float32)
    there = here.copy()
    there[1, :, 0], there[1, 2, 1], there[1, 0, 2] = 3, 4, 0.25
    found = keypoint_values(here, there)
    assert found["keypoint_px"].tolist() == [0, 5]
    assert found["keypoint_score"].tolist() == [0, 0.25]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_differs_infinitely_even_from_itself(value: float) -> None:
    points, masks = np.zeros((1, 2, 3), np.float32), np.full((1, 2, 2), 0.5, np.float32)
    points[0, 1, 0], masks[0, 1, 1] = value, value
    assert keypoint_values(points, points)["keypoint_px"][0] == np.inf
    assert raw_mask_values(masks, masks)["raw_mask_share"][0] == np.inf
    for pair in ((masks, np.ones_like(masks)), (np.ones_like(masks), masks)):
        found = raw_mask_values(*pair)
        assert found["raw_mask_share"][0] == np.inf
        assert found["raw_mask_cosine"][0] < levels.RAW_COSINE


def test_unlike_shapes_differ_infinitely() -> None:
    assert keypoint_values(np.zeros((1, 2, 3), np.float32), np.zeros((1, 3, 3), np.float32))["keypoint_px"][0] == np.inf
    found = raw_mask_values(np.zeros((1, 2, 2), np.float32), np.zeros((1, 4, 4), np.float32))
    assert (found["raw_mask_share"][0], found["raw_mask_cosine"][0]) == (np.inf, -1)


@given(raw, st.floats(-3, 3), st.integers(0, 2), st.integers(0, 24))
@settings(deadline=None)
def test_a_raw_mask_is_judged_value_by_value(mask: np.ndarray, times: float, index: int, at: int) -> None:
    """A value moved by so many times its level is measured as so many, and no other pair is touched."""
    moved = mask.astype(np.float64).reshape(3, 25)
    level = levels.RAW_PER_MAX * mask[index].max() + levels.RAW_PER_VALUE * mask[index].flat[at]
    moved[index, at] += times * level
    found = raw_mask_values(mask, moved.reshape(mask.shape))["raw_mask_share"]
    assert found[index] == pytest.approx(abs(times) if level else 0, abs=1e-3)
    assert found.sum() == found[index]


@given(raw, raw)
@settings(deadline=None)
def test_the_cosine_is_that_of_numpy(a: np.ndarray, b: np.ndarray) -> None:
    found = raw_mask_values(a, b)["raw_mask_cosine"]
    for mine, theirs, cosine in zip(a.astype(np.float64), b.astype(np.float64), found, strict=True):
        lengths = np.linalg.norm(mine) * np.linalg.norm(theirs)
        expected = float((mine == theirs).all()) if lengths < 1e-150 else float((mine * theirs).sum() / lengths)
        assert cosine == pytest.approx(expected, abs=1e-9)


def test_no_pair_has_no_value() -> None:
    assert len(raw_mask_values(np.zeros((0, 4, 4), np.float32), np.zeros((0, 4, 4), np.float32))["raw_mask_share"]) == 0
    assert len(keypoint_values(np.zeros((0, 2, 3), np.float32), np.zeros((0, 2, 3), np.float32))["keypoint_px"]) == 0


def test_masks_of_pictures_of_unlike_size_agree_nowhere() -> None:
    mask = np.zeros((1, 40, 60), bool)
    mask[0, 10:20, 10:30] = True
    values, pixels = mask_values(Masks.from_full(mask), Masks.from_full(np.pad(mask, ((0, 0), (0, 8), (0, 0)))))
    assert values["mask_iou"].tolist() == [0.0]
    assert np.isinf(values["mask_unexplained_px"]).all()
    assert (values["mask_area_px"].tolist(), pixels) == ([200.0], 200)
