"""Parity: honest variations pass, each fault fails the check that is for it, and the words say where and by how much."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.checks import CHECKS, Judgement, judge
from harness.detections import Detections, Masks
from harness.suites.meta.harness.answers import (
    REFERENCE,
    SEGMENTS,
    SPEC,
    THRESHOLD,
    changed,
    deck,
    detections,
    evidence,
    grid,
    observed,
    with_masks,
    with_raw_masks,
    without,
)
from harness.types import ModelSpec, Purpose, Status, Variant

pytestmark = pytest.mark.covers("M21")

AT_FP32 = [check for check in CHECKS.values() if check.suite == "parity" and check.at == "any"]
PARITY = [check.id for check in AT_FP32 if check.output in {"", *SEGMENTS.outputs}]
WHOLE = with_raw_masks(with_masks(grid(6), near_px=1))


def verdicts(candidate: Detections, reference: Detections = WHOLE, floor: Detections | None = None) -> dict[str, Judgement]:
    floors = [] if floor is None else [deck(crowd=floor)]
    known = evidence(deck(crowd=candidate), deck(crowd=reference), floors, SEGMENTS)
    return {name: judge(CHECKS[name], known) for name in PARITY}


def not_passed(candidate: Detections, reference: Detections = WHOLE, floor: Detections | None = None) -> dict[str, str]:
    found = verdicts(candidate, reference, floor)
    return {name: verdict.reason for name, verdict in found.items() if verdict.status is not Status.PASSED}


@given(st.permutations(range(6)))
@settings(max_examples=20, deadline=None)
def test_an_honest_reordering_passes_every_check(order: list[int]) -> None:
    assert not_passed(WHOLE.take(order)) == {}


def test_honest_noise_passes_every_check() -> None:
    assert not_passed(changed(WHOLE, box_px=5e-5, score=3e-6)) == {}


def test_a_score_beyond_its_level() -> None:
    found = not_passed(changed(WHOLE, score=-4.1e-3, index=3))
    assert found == {"parity.scores": "score of detection 3 on image crowd differs by 0.0041, level 0.0001"}


def test_scores_scaled_by_a_thousandth() -> None:
    scaled = dataclasses.replace(WHOLE, scores=WHOLE.scores * np.float32(1.001))
    assert list(not_passed(scaled)) == ["parity.scores"]


def test_a_box_shifted_by_a_twentieth_of_a_pixel() -> None:
    found = not_passed(changed(WHOLE, box_px=0.05, index=2))
    assert found == {"parity.boxes": "box of detection 2 on image crowd differs by 0.05 px, level 0.01 px"}


def test_a_class_off_by_one() -> None:
    found = not_passed(changed(WHOLE, label=1))
    assert found.pop("parity.classes") == "detection 0 on image crowd is circle, answered square"
    assert list(found) == ["parity.precision"]


def test_a_class_that_does_not_exist() -> None:
    assert "answered class 2 of 2" in not_passed(changed(WHOLE, label=1, index=1))["parity.classes"]


def test_a_dropped_detection() -> None:
    found = not_passed(without(WHOLE, 5))
    assert list(found) == ["parity.detections", "parity.precision"]
    assert found["parity.detections"].startswith("detection 5 on image crowd (square, score 0.9) is missing (1 unmatched")


def test_an_invented_detection() -> None:
    more = with_masks(detections([*WHOLE.boxes_xyxy_px.tolist(), (130, 100, 150, 119)], [*WHOLE.scores, 0.6], [*WHOLE.labels, 1]))
    assert "detection 6 on image crowd (square, score 0.6) is extra" in not_passed(more)["parity.detections"]


def test_empty_answers_fail_detections_and_establish_nothing_else() -> None:
    found = verdicts(WHOLE.take([]))
    assert found["parity.detections"].status is Status.FAILED
    assert found["parity.precision"].status is Status.FAILED
    rest = {verdict.status for name, verdict in found.items() if name not in ("parity.detections", "parity.precision")}
    assert rest == {Status.ERRORED}


def test_an_image_left_out() -> None:
    known = evidence({"blank": detections([])}, deck(crowd=WHOLE))
    found = judge(CHECKS["parity.detections"], known)
    assert (found.status, found.image) == (Status.FAILED, "crowd")


def masked(y: int, x: int, count: int = 1) -> Detections:
    assert WHOLE.masks is not None
    full = np.stack([WHOLE.masks.full(i) for i in range(len(WHOLE))])
    full[0, y, x : x + count] ^= True
    return dataclasses.replace(WHOLE, masks=Masks.from_full(full))


def test_a_mask_pixel_that_flips_on_the_threshold_passes() -> None:
    assert not_passed(masked(5, 5)) == {}


def test_a_mask_pixel_that_flips_elsewhere() -> None:
    found = not_passed(masked(20, 20))
    assert list(found) == ["parity.masks"]
    assert "detection 0 on image crowd: 1 pixels flip" in found["parity.masks"]


def test_a_mask_that_overlaps_too_little_even_if_every_flip_is_near() -> None:
    found = not_passed(masked(5, 5, count=20))
    assert found["parity.masks"] == "mask IoU of detection 0 on image crowd is 0.97778, level 0.99"


def test_masks_that_are_not_given() -> None:
    found = verdicts(dataclasses.replace(WHOLE, masks=None))["parity.masks"]
    assert found.status is Status.FAILED
    assert "6 of 6" in found.reason


@pytest.mark.parametrize("name", ["masks", "raw_masks", "keypoints", "panoptic"])
def test_what_a_model_does_not_give_is_declined(name: str) -> None:
    known = evidence(deck(a=grid(3)), deck(a=grid(3)))
    found = judge(CHECKS[f"parity.{name}"], known)
    assert (found.status, found.reason) == (Status.DECLINED, f"this model gives no {CHECKS[f'parity.{name}'].output}")


def test_the_noise_floor_raises_a_level_but_never_above_its_limit() -> None:
    candidate = changed(WHOLE, score=3e-4, box_px=0.015)
    assert sorted(not_passed(candidate)) == ["parity.boxes", "parity.scores"]
    assert not_passed(candidate, floor=changed(WHOLE, score=1e-4, box_px=0.005)) == {}
    wild = changed(WHOLE, score=0.1, box_px=2.0)
    assert sorted(not_passed(changed(WHOLE, score=2e-3, box_px=0.2), floor=wild)) == ["parity.boxes", "parity.scores"]


def test_a_small_difference_is_noted() -> None:
    found = verdicts(changed(WHOLE, score=5e-5, box_px=2e-3))
    assert "noted: 1 above 2e-05" in found["parity.scores"].reason
    assert "noted: 1 above 0.001 px" in found["parity.boxes"].reason


def test_the_iou_of_a_large_thin_box_is_judged_beside_its_pixels() -> None:
    thin = detections([(5, 5, 13.2, 110)])
    inside = changed(thin, box_px=0.009)
    wider = Detections(thin.boxes_xyxy_px + np.array([[-0.05, 0, 0.05, 0]], np.float32), thin.scores, thin.labels)
    assert "parity.boxes" not in not_passed(inside, thin)
    # A noisy reference may raise the level in px to 0.1; the IoU has a level of its own.
    assert "IoU of detection 0" in not_passed(wider, thin, floor=changed(thin, box_px=0.05))["parity.boxes"]


def test_boxes_too_small_to_judge_are_counted_and_not_judged() -> None:
    tiny = detections([(5, 5, 12, 12)])
    found = verdicts(changed(tiny, box_px=0.5), tiny)["parity.boxes"]
    assert found.status is Status.ERRORED
    assert {m.name: m.value for m in found.measures}["too small to judge"] == 1


class TestCertified:
    @staticmethod
    def losing(count: int, of: int) -> Judgement:
        boxes = [(8.0 * (i % 15), 10.0 * (i // 15), 8.0 * (i % 15) + 7, 10.0 * (i // 15) + 9) for i in range(of)]
        scores = [THRESHOLD + 2e-5] * count + [0.9] * (of - count)
        spec: ModelSpec = dataclasses.replace(SPEC, detection_cap=1000)
        full = detections(boxes, scores)
        known = evidence(deck(a=full.take(range(count, of))), deck(a=full), spec=spec)
        return judge(CHECKS["parity.detections"], known)

    def test_one_is_excused(self) -> None:
        found = self.losing(1, 100)
        assert found.status is Status.PASSED
        assert "1 differ by a certified tie (a score on the threshold)" in found.reason
        assert {m.name: m.value for m in found.measures}["certified: a score on the threshold"] == 1

    def test_two_in_a_hundred_are_not(self) -> None:
        found = self.losing(2, 100)
        assert found.status is Status.FAILED
        assert "2 detections differ for a certified reason (a score on the threshold), level 1" in found.reason


def test_another_precision_is_never_judged_by_these_levels() -> None:
    known = evidence(deck(a=grid(3)), deck(a=grid(3)))
    half = dataclasses.replace(known.observed[Purpose.PARITY].effective, precision="fp16")
    seen = dataclasses.replace(known.observed[Purpose.PARITY], effective=half)
    known = dataclasses.replace(known, variant=Variant("f16", precision="fp16"), observed={Purpose.PARITY: seen})
    found = judge(CHECKS["parity.scores"], known)
    assert found.status is Status.DECLINED
    assert found.reason == "fp16 is judged by average precision alone: see parity.kept"


def test_the_reference_is_not_compared_with_itself() -> None:
    answers = deck(a=grid(3))
    known = dataclasses.replace(evidence(answers, answers), cell=REFERENCE, observed={Purpose.PARITY: observed(answers, REFERENCE)})
    assert judge(CHECKS["parity.scores"], known).status is Status.DECLINED


def test_a_reference_that_left_an_image_out_establishes_nothing() -> None:
    known = evidence(deck(a=grid(3)), deck(a=grid(3)))
    known = dataclasses.replace(known, reference={Purpose.PARITY: observed({"blank": detections([])}, REFERENCE)})
    assert judge(CHECKS["parity.scores"], known).status is Status.ERRORED


_LEAST = re.compile("IoU|cosine|agreement")


@pytest.mark.parametrize("name", PARITY)
def test_every_measure_that_has_a_level_is_within_it_exactly_when_the_check_passes(name: str) -> None:
    for candidate in (WHOLE, changed(WHOLE, score=1e-3, box_px=0.05, label=1), without(WHOLE, 0), masked(20, 20, 9)):
        found = verdicts(candidate)[name]
        within = [
            m.value >= m.level if _LEAST.search(m.name) else m.value <= m.level for m in found.measures if m.level is not None
        ]
        assert within
        assert all(within) == (found.status is Status.PASSED), found
