"""The nouns check themselves on construction and lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.detections import Detections, Masks
from harness.errors import MalformedDetections
from harness.suites.meta.harness.answers import answers_strategy, detections, grid, with_masks
from harness.types import Cell, Job, Load, Purpose, digest

pytestmark = pytest.mark.covers("M21")

FULL = arrays(np.bool_, st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9)))


@given(FULL)
@settings(deadline=None)
def test_cropping_a_mask_loses_no_pixel(full: np.ndarray) -> None:
    masks = Masks.from_full(full)
    assert len(masks) == len(full)
    for index, mask in enumerate(full):
        np.testing.assert_array_equal(masks.full(index), mask)
        assert masks.near(index) is None


@given(FULL, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_pixels_near_the_threshold_are_kept_even_outside_the_mask(full: np.ndarray, random: object) -> None:
    near = np.roll(full, 1, axis=2)
    masks = Masks.from_full(full, near)
    order = list(range(len(full)))
    random.shuffle(order)  # type: ignore[attr-defined]
    taken = masks.take(order)
    for place, index in enumerate(order):
        np.testing.assert_array_equal(taken.full(place), full[index])
        np.testing.assert_array_equal(taken.near(place), near[index])


@pytest.mark.parametrize(
    ("origins", "crops", "near", "words"),
    [
        ([[0, 0]], [], None, "0 mask crops but 1 origins"),
        ([[0, 0]], [np.ones((2, 2))], None, "not bool"),
        ([[0, 0]], [np.ones(2, bool)], None, "not bool"),
        ([[3, 0]], [np.ones((2, 2), bool)], None, "leaves the 4x4 image"),
        ([[-1, 0]], [np.ones((2, 2), bool)], None, "leaves the 4x4 image"),
        ([[0, 0]], [np.ones((2, 2), bool)], [np.ones((1, 2), bool)], "different shapes"),
    ],
)
def test_masks_that_are_none(origins: list[list[int]], crops: list[np.ndarray], near: list[np.ndarray] | None, words: str) -> None:
    with pytest.raises(MalformedDetections, match=words):
        Masks((4, 4), np.array(origins, np.int32), tuple(crops), None if near is None else tuple(near))


GOOD = {"boxes_xyxy_px": np.zeros((2, 4), np.float32), "scores": np.zeros(2, np.float32), "labels": np.zeros(2, np.int64)}


@pytest.mark.parametrize(
    "fault",
    [
        {"boxes_xyxy_px": np.zeros((2, 4))},
        {"boxes_xyxy_px": np.zeros((2, 5), np.float32)},
        {"boxes_xyxy_px": np.zeros(4, np.float32)},
        {"scores": np.zeros(3, np.float32)},
        {"scores": np.zeros((2, 1), np.float32)},
        {"labels": np.zeros(2, np.int32)},
        {"labels": [0, 0]},
        {"masks": Masks.from_full(np.zeros((1, 3, 3), bool))},
    ],
    ids=lambda fault: f"{next(iter(fault))}",
)
def test_arrays_that_are_no_detections(fault: dict[str, object]) -> None:
    with pytest.raises(MalformedDetections):
        Detections(**{**GOOD, **fault})  # type: ignore[arg-type]


def test_values_are_not_judged_here() -> None:
    odd = detections([(float("nan"), 9, -1, 0)], [7.0], [-3])
    assert len(odd) == 1


def test_detections_own_their_arrays() -> None:
    scores = np.ones(2, np.float32)
    answer = Detections(GOOD["boxes_xyxy_px"], scores, GOOD["labels"])
    scores[:] = 0
    assert answer.scores.tolist() == [1, 1]


@given(answers_strategy(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_taking_back_restores(answer: Detections, random: object) -> None:
    order = list(range(len(answer)))
    random.shuffle(order)  # type: ignore[attr-defined]
    back = answer.take(order).take(np.argsort(order).astype(np.intp))
    for name in ("boxes_xyxy_px", "scores", "labels"):
        np.testing.assert_array_equal(getattr(back, name), getattr(answer, name))


def test_masks_follow_their_detections() -> None:
    answer = with_masks(grid(3))
    taken = answer.take([2, 0])
    assert taken.masks is not None
    assert answer.masks is not None
    np.testing.assert_array_equal(taken.masks.full(0), answer.masks.full(2))


def test_a_job_names_itself_and_its_file() -> None:
    cell = Cell("maskrcnn_tiny", "openvino_ir", "f32", "cpu")
    jobs = [Job(cell, p, Load(t, b), r) for p in Purpose for t in (0, 1) for b in (1, 8) for r in (0, 1)]
    assert str(cell) == "maskrcnn_tiny/openvino_ir[f32]@cpu"
    assert len({job.slug for job in jobs}) == len(jobs)
    assert all(set(job.slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for job in jobs)


@given(st.dictionaries(st.text(max_size=3), st.integers(), max_size=4))
def test_a_digest_is_blind_to_the_order_of_keys(value: dict[str, int]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))
    assert digest({**value, "another key": 0}) != digest(value)
