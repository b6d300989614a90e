"""What differs between two decks of answers is measured as a person would, whatever their order."""

from __future__ import annotations

import dataclasses
import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.certificates import Limits
from harness.compare import Comparison, compare
from harness.detections import Detections, Masks
from harness.pairs import Quantity
from harness.suites.meta.harness.answers import (
    CAP,
    THRESHOLD,
    answers_strategy,
    changed,
    deck,
    detections,
    grid,
    with_everything,
    with_masks,
    without,
)

pytestmark = pytest.mark.covers("M21")

LIMITS = Limits(THRESHOLD, CAP, 1e-4)


def both(reference: Detections, candidate: Detections, limits: Limits = LIMITS) -> Comparison:
    return compare({"one": reference}, {"one": candidate}, limits)


def everything(found: Comparison) -> dict[str, float]:
    """Every figure that should be the same from either side and in any order: all but those taken from the reference alone."""
    one_sided = {"side_px", "mask_area_px", "mask_unexplained_px", "raw_mask_share"}
    names = [name for name in get_args(Quantity) if name not in one_sided]
    told = {name: float(np.sort(found.column(name)).round(9).sum()) for name in names}
    told |= {f"worst {name}": found.worst(name) for name in names}
    counts = {"matched": found.matched, "unmatched": found.missing + found.extra, "mask pixels": found.mask_pixels}
    return {**told, **counts, "panoptic quality": found.panoptic_quality}


complete = answers_strategy(4).map(with_everything)


@given(complete, complete)
@settings(max_examples=40, deadline=None)
def test_every_output_is_measured_alike_from_either_side(a: Detections, b: Detections) -> None:
    assert everything(both(a, b)) == pytest.approx(everything(both(b, a)), nan_ok=True)


@given(complete, complete, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_every_output_is_blind_to_order(a: Detections, b: Detections, random: object) -> None:
    order = list(range(len(b)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert everything(both(a, b)) == pytest.approx(everything(both(a, b.take(order))), nan_ok=True)


@given(complete)
@settings(max_examples=40, deadline=None)
def test_no_output_differs_between_an_answer_and_itself(answer: Detections) -> None:
    found = both(answer, answer)
    differences = ("mask_flipped_px", "raw_mask_share", "keypoint_px", "keypoint_score")
    assert [found.worst(name) for name in differences] == [0] * 4
    assert [found.worst(name) for name in ("mask_iou", "raw_mask_cosine")] == [1] * 2
    assert all(len(found.column(name)) == len(answer) for name in differences)
    assert found.panoptic_quality == 1


@pytest.mark.parametrize("left_out", ["masks", "raw_masks", "keypoints", "panoptic"])
def test_what_a_side_leaves_out_is_not_measured_and_the_rest_is(left_out: str) -> None:
    whole = with_everything(grid(4))
    less = dataclasses.replace(whole, **{left_out: None})
    column = {"masks": "mask_iou", "raw_masks": "raw_mask_share", "keypoints": "keypoint_px"}
    for found in (both(whole, less), both(less, whole), compare({"one": whole}, {"one": whole}, LIMITS, outputs=())):
        assert left_out == "panoptic" or len(found.column(column[left_out])) == 0  # type: ignore[arg-type]
        assert left_out != "panoptic" or found.images[0].segments is None
        assert len(found.column("score")) == 4


@given(complete.filter(len), complete.filter(len), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_nothing_looks_better_when_a_detection_is_removed(a: Detections, b: Detections, at: int) -> None:
    """Of the reference nothing more is found, and what was unmatched on the other side stays so, but for the one removed."""
    whole, less = both(a, b), both(a, without(b, at % len(b)))
    assert less.missing >= whole.missing
    assert less.matched <= whole.matched
    assert less.extra >= whole.extra - 1


def figures(found: Comparison) -> tuple[float, ...]:
    return (
        found.matched,
        found.missing + found.extra,
        found.certified,
        *(found.worst(name) for name in ("score", "box_px", "iou", "class_differs")),
    )


@given(answers_strategy())
@settings(deadline=None)
def test_nothing_differs_between_an_answer_and_itself(answer: Detections) -> None:
    found = both(answer, answer)
    assert (found.matched, found.missing, found.extra, found.unanswered) == (len(answer), 0, 0, ())
    assert (found.worst("score"), found.worst("box_px"), found.worst("iou"), found.worst("class_differs")) == (0, 0, 1, 0)
    assert found.worst_image() is None


@given(answers_strategy(), answers_strategy())
@settings(deadline=None)
def test_symmetric(a: Detections, b: Detections) -> None:
    assert figures(both(a, b)) == pytest.approx(figures(both(b, a)))


@given(answers_strategy(), answers_strategy(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_blind_to_order(a: Detections, b: Detections, random: object) -> None:
    order = list(range(len(b)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert figures(both(a, b)) == pytest.approx(figures(both(a, b.take(order))))


@given(st.lists(st.floats(0, 60), min_size=2, max_size=2), st.integers(0, 5))
@settings(deadline=None)
def test_the_further_a_box_moves_the_worse_it_looks(shifts: list[float], index: int) -> None:
    near, far = sorted(shifts)
    reference = grid(6, side_px=30, step_px=200)
    less, more = (both(reference, changed(reference, box_px=shift, index=index)) for shift in (near, far))
    assert less.missing <= more.missing
    if not more.missing:
        assert less.worst("box_px") <= more.worst("box_px")
        assert less.worst("iou") >= more.worst("iou") - 1e-9


@given(answers_strategy().filter(len), st.integers(0, 5))
@settings(deadline=None)
def test_a_dropped_detection_is_always_seen(answer: Detections, at: int) -> None:
    found = both(answer, without(answer, at % len(answer)))
    assert (found.matched, found.missing, found.extra) == (len(answer) - 1, 1, 0)


def test_deltas_are_those_put_in() -> None:
    reference = grid(4)
    moved = changed(changed(reference, box_px=0.25, index=1), score=-0.125, label=1, index=2)
    found = both(reference, moved)
    assert found.worst("box_px") == 0.25
    assert found.worst("score") == pytest.approx(0.125, abs=1e-7)
    assert found.column("class_differs").tolist() == [0, 0, 1, 0]
    assert found.pair("box_px", int(found.column("box_px").argmax()))[:2] == ("one", 1)
    assert found.worst("iou") == pytest.approx(29.75**2 / (2 * 900 - 29.75**2))


def test_pairs_are_found_across_images() -> None:
    reference = deck(a=grid(3), b=grid(2))
    found = compare(reference, {**reference, "b": changed(grid(2), score=0.01, index=1)}, LIMITS)
    worst = found.pair("score", int(found.column("score").argmax()))
    assert worst == ("b", 1, 1)
    assert found.worst_image() == "b"
    assert found.percentile("score", 50) == 0
    with pytest.raises(IndexError):
        found.pair("score", 5)


def test_an_image_without_an_answer_counts_as_all_missing() -> None:
    found = compare(deck(a=grid(3)), {"blank": detections([])}, LIMITS)
    assert (found.unanswered, found.missing) == (("a",), 3)


def test_a_reference_without_an_answer_is_an_error() -> None:
    with pytest.raises(KeyError):
        compare({}, {"a": grid(1)}, LIMITS, images=["a"])


def test_a_value_that_is_not_finite_differs_infinitely() -> None:
    answer = detections([(0, 0, 20, 20)], [float("nan")])
    assert both(answer, answer).worst("score") == math.inf


class TestCertificates:
    reference = detections([(0, 0, 20, 20), (50, 50, 70, 70)], [0.9, THRESHOLD + 0.5e-4])

    def test_a_score_on_the_threshold_may_come_and_go(self) -> None:
        less = without(self.reference, 1)
        assert both(self.reference, less).certified == both(less, self.reference).certified == 1

    def test_a_score_clear_of_the_threshold_may_not(self) -> None:
        clear = changed(self.reference, score=1e-3, index=1)
        assert both(clear, without(clear, 1)).certified == 0
        assert both(self.reference, without(self.reference, 0)).certified == 0

    def test_the_last_rank_of_a_full_answer_may_be_another_tied_one(self) -> None:
        full = grid(3)
        last = float(full.scores.min())
        other = detections([*full.boxes_xyxy_px[:2].tolist(), (0, 90, 20, 110)], [*full.scores[:2], last], [*full.labels[:2], 0])
        tight = dataclasses.replace(LIMITS, detection_cap=3)
        assert both(full, other, tight).certified == 1
        assert both(full, other, tight).unexplained == 0
        assert both(full, other, LIMITS).certified == 0
        higher = changed(other, score=0.005, index=2)
        assert both(full, higher, tight).certified == 0

    def test_an_answer_that_dropped_its_last_is_not_full(self) -> None:
        tight = dataclasses.replace(LIMITS, detection_cap=3)
        assert both(grid(3), without(grid(3), 2), tight).certified == 0


class TestMasks:
    reference = with_masks(grid(2), near_px=1)

    @staticmethod
    def flipped(answer: Detections, y: int, x: int, near: bool = False) -> Detections:
        assert answer.masks is not None
        full = np.stack([answer.masks.full(i) for i in range(len(answer))])
        full[0, y, x] ^= True
        return dataclasses.replace(answer, masks=Masks.from_full(full, np.ones_like(full) if near else None))

    def test_equal_masks(self) -> None:
        found = both(self.reference, self.reference)
        assert (found.worst("mask_iou"), found.worst("mask_flipped_px"), found.mask_pixels) == (1, 0, 1800)

    def test_a_flip_on_the_threshold_is_explained(self) -> None:
        found = both(self.reference, self.flipped(self.reference, 5, 5))
        assert (found.worst("mask_flipped_px"), found.worst("mask_unexplained_px")) == (1, 0)
        assert found.worst("mask_iou") == pytest.approx(899 / 900)

    @pytest.mark.parametrize(("y", "x"), [(20, 20), (100, 150)])
    def test_a_flip_elsewhere_is_not_even_far_outside_the_mask(self, y: int, x: int) -> None:
        assert both(self.reference, self.flipped(self.reference, y, x)).worst("mask_unexplained_px") == 1

    def test_a_candidate_cannot_excuse_itself(self) -> None:
        assert both(self.reference, self.flipped(self.reference, 20, 20, near=True)).worst("mask_unexplained_px") == 1

    def test_without_knowledge_of_the_threshold_nothing_is_explained(self) -> None:
        assert self.reference.masks is not None
        blind = dataclasses.replace(self.reference, masks=dataclasses.replace(self.reference.masks, near_crops=None))
        assert both(blind, self.flipped(self.reference, 5, 5)).worst("mask_unexplained_px") == 1

    def test_masks_on_one_side_are_not_measured(self) -> None:
        found = both(self.reference, dataclasses.replace(self.reference, masks=None))
        assert (len(found.column("mask_iou")), found.mask_pixels, found.matched) == (0, 0, 2)

    def test_masks_follow_their_detections_when_reordered(self) -> None:
        assert both(self.reference, self.reference.take([1, 0])).worst("mask_iou") == 1

    def test_two_empty_masks_are_the_same(self) -> None:
        empty = dataclasses.replace(grid(1), masks=Masks.from_full(np.zeros((1, 40, 40), bool)))
        found = both(empty, empty)
        assert (found.worst("mask_iou"), found.mask_pixels) == (1, 0)
