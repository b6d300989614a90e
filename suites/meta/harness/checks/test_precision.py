"""Average precision as a verdict: of fp32 beside the reference."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.checks import CHECKS, Evidence, Judgement, judge
from harness.suites.meta.harness.answers import (
    CAP,
    SEGMENTS,
    SPEC,
    THRESHOLD,
    changed,
    crowd,
    deck,
    detections,
    evidence,
    grid,
    truth_of,
    with_masks,
)
from harness.types import Purpose, Status, Variant

pytestmark = pytest.mark.covers("M21")

ROOMY = dataclasses.replace(SPEC, detection_cap=2000)


def verdict(known: Evidence) -> Judgement:
    return judge(CHECKS["parity.precision"], known)


def figures(found: Judgement) -> dict[str, float]:
    return {measure.name: measure.value for measure in found.measures}


def test_equal_answers_pass_and_every_kind_is_told() -> None:
    whole = with_masks(grid(6))
    found = verdict(evidence(deck(a=whole), deck(a=whole), spec=SEGMENTS))
    assert (found.status, found.compared) == (Status.PASSED, 6)
    assert "box AP 100.00" in found.reason
    assert "mask AP 100.00" in found.reason
    assert figures(found)["objects in the ground truth"] == 6


def test_differences_that_all_point_one_way_are_caught_although_each_is_small() -> None:
    """Against boxes on the edge of an IoU that COCO counts, ever so little is a hit or a miss."""
    reference = crowd(100)
    sides = reference.boxes_xyxy_px.copy()
    sides[:, 2] += np.float32(4 / 0.95 - 4 - 1e-5)
    truth = truth_of(deck(a=dataclasses.replace(reference, boxes_xyxy_px=sides)))
    shrunk = dataclasses.replace(reference, boxes_xyxy_px=reference.boxes_xyxy_px - np.array([0, 0, 1e-4, 0], np.float32))
    known = dataclasses.replace(evidence(deck(a=shrunk), deck(a=reference), spec=ROOMY), truth=lambda: truth)
    assert judge(CHECKS["parity.detections"], known).status is Status.PASSED
    found = verdict(known)
    assert (found.status, found.image) == (Status.FAILED, "a")
    assert found.reason == "box AP is 90.000, the reference's 100.000, level 0.02 points apart"


def test_disagreement_is_caught_although_the_truth_cannot_tell() -> None:
    """Both sides find half of what is there, each another half: the AP is the same."""
    whole = grid(6)
    one, other = whole.take([0, 3]), changed(whole.take([0, 3]), box_px=14)
    shown = detections([*one.boxes_xyxy_px.tolist(), *other.boxes_xyxy_px[:1].tolist()], labels=[0, 1, 0])
    known = dataclasses.replace(evidence(deck(a=other), deck(a=one)), truth=lambda: truth_of(deck(a=shown)))
    found = verdict(known)
    assert found.status is Status.FAILED
    assert figures(found)["box AP, difference from the reference"] == 0
    assert found.reason.startswith("box AP with the reference as the truth is 50")


def test_more_than_the_reference_found_is_a_difference_too() -> None:
    known = evidence(deck(a=grid(6)), deck(a=grid(6).take([0, 1, 2])))
    better = dataclasses.replace(known, truth=lambda: truth_of(deck(a=grid(6))))
    assert verdict(better).status is Status.FAILED


def test_what_a_tie_explains_is_left_out_of_both_sides() -> None:
    faint = detections([*grid(5).boxes_xyxy_px.tolist(), (120, 80, 150, 110)], [*grid(5).scores, THRESHOLD + 2e-5], [0] * 6)
    known = evidence(deck(a=faint.take(range(5))), deck(a=faint))
    found = verdict(known)
    assert found.status is Status.PASSED, found
    assert figures(found)["left out, certified"] == 1
    clear = changed(faint, score=0.1, index=5)
    assert verdict(evidence(deck(a=clear.take(range(5))), deck(a=clear))).status is Status.FAILED


def test_lower_precision_is_told_where_it_is_judged() -> None:
    known = evidence(deck(a=grid(3)), deck(a=grid(3)))
    own = known.observed[Purpose.PARITY]
    assert own.effective is not None
    own = dataclasses.replace(own, effective=dataclasses.replace(own.effective, precision="bf16"))
    found = verdict(dataclasses.replace(known, variant=Variant("v", precision="default"), observed={Purpose.PARITY: own}))
    assert (found.status, found.reason) == (Status.DECLINED, "bf16 is judged by what it keeps: see parity.kept")


def test_a_reference_that_finds_nothing_establishes_nothing() -> None:
    found = verdict(evidence(deck(a=grid(3)), deck(a=detections([]))))
    assert found.status is Status.ERRORED
    assert "compared nothing" in found.reason


def test_the_cap_of_these_tests_is_not_what_is_tested() -> None:
    assert len(grid(6)) < CAP < len(crowd(100))
