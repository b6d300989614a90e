"""The reference against itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.checks import CHECKS, Judgement, judge
from harness.checks.reference import noise_floor
from harness.detections import Detections, Panoptic
from harness.suites.meta.harness.answers import (
    REFERENCE,
    THRESHOLD,
    changed,
    deck,
    evidence,
    grid,
    observed,
    with_everything,
    with_masks,
    without,
)
from harness.types import JobError, Purpose, Status

WHOLE = grid(5)


def stable(*floors: Detections, own: Detections = WHOLE, error: JobError | None = None) -> Judgement:
    known = evidence(deck(a=own), deck(a=own), [deck(a=floor) for floor in floors])
    repeats = tuple(dataclasses.replace(f, error=error) for f in known.floors)
    itself = {Purpose.PARITY: observed(deck(a=own), REFERENCE)}
    known = dataclasses.replace(known, cell=REFERENCE, observed=itself, reference={}, floors=repeats)
    return judge(CHECKS["reference.stable"], known)


def test_repeats_that_are_bit_equal() -> None:
    found = stable(WHOLE, WHOLE)
    assert (found.status, found.compared) == (Status.PASSED, 10)
    assert "2 of them bit for bit" in found.reason


def test_repeats_within_the_levels_are_the_noise_floor() -> None:
    found = stable(WHOLE, changed(WHOLE, score=2e-5, box_px=1e-3))
    assert found.status is Status.PASSED
    assert "1 of them bit for bit" in found.reason
    floors = {m.name: m.value for m in found.measures}
    assert floors["noise floor F of scores"] == pytest.approx(2e-5, rel=1e-2)
    assert floors["noise floor F of boxes"] == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("floor", "words"),
    [
        (changed(WHOLE, score=-2e-4), "a score differs by 0.0002"),
        (changed(WHOLE, box_px=0.02), "a box differs by 0.02 px"),
        (changed(WHOLE, label=1), "another class"),
        (without(WHOLE, 1), "1 detections have no partner"),
    ],
)
def test_a_reference_that_wanders_fails_and_names_the_load(floor: Detections, words: str) -> None:
    found = stable(WHOLE, floor)
    assert found.status is Status.FAILED
    assert words in found.reason
    assert "2 thread(s)" in found.reason
    assert found.image == "a"


def test_a_reference_whose_masks_or_keypoints_wander_fails() -> None:
    whole = with_everything(WHOLE)
    assert stable(whole, own=whole).status is Status.PASSED
    smaller = dataclasses.replace(whole, masks=with_masks(changed(WHOLE, box_px=-12.0)).masks)
    found = stable(smaller, own=whole)
    assert (found.status, found.image) == (Status.FAILED, "a")
    assert "two masks have an IoU" in found.reason
    assert whole.keypoints is not None
    astray = dataclasses.replace(whole, keypoints=whole.keypoints + np.float32(15.0))
    assert "a keypoint lies 21 px off" in stable(astray, own=whole).reason


def test_small_masks_raw_masks_and_single_segments_are_looked_at() -> None:
    small = with_everything(grid(5, 7.0))
    assert stable(small, own=small).status is Status.PASSED
    assert small.masks is not None
    emptied = dataclasses.replace(small.masks, crops=tuple(np.zeros_like(crop) for crop in small.masks.crops))
    assert "two masks have an IoU of 0.0000" in stable(dataclasses.replace(small, masks=emptied), own=small).reason
    assert small.raw_masks is not None
    far = dataclasses.replace(small, raw_masks=(small.raw_masks + np.float32(0.01)))
    assert "a raw mask differs by" in stable(far, own=small).reason
    assert small.panoptic is not None
    first, *others = small.panoptic.segments
    ids = np.where(small.panoptic.ids == first.id, others[-1].id, small.panoptic.ids).astype(np.int32)
    fewer = dataclasses.replace(small, panoptic=Panoptic(ids, tuple(others)))
    assert "1 panoptic segments have no partner" in stable(fewer, own=small).reason


def test_another_order_is_the_same_set() -> None:
    assert stable(WHOLE.take([1, 0, 2, 3, 4])).status is Status.PASSED


def test_a_reference_whose_ties_are_more_than_a_backend_may_have_fails() -> None:
    tied = dataclasses.replace(WHOLE, scores=np.full(5, THRESHOLD + 1e-6, np.float32))
    found = stable(tied.take([]), own=tied)
    assert found.status is Status.FAILED
    assert "differ by a tie" in found.reason


def test_boxes_too_small_to_judge_raise_no_level() -> None:
    small = dataclasses.replace(WHOLE, boxes_xyxy_px=WHOLE.boxes_xyxy_px / np.float32(10))
    assert noise_floor(evidence(deck(a=small), deck(a=small), [deck(a=changed(small, box_px=0.25))])).box_px == 0.0


def test_no_repeats_are_missing_and_broken_ones_errored() -> None:
    assert stable().status is Status.MISSING
    assert stable(WHOLE, error=JobError("timeout", "predict", "still running")).status is Status.ERRORED


def test_without_repeats_no_level_is_raised() -> None:
    assert noise_floor(evidence(deck(a=WHOLE), deck(a=WHOLE))) == (0.0, 0.0, 0.0)


def test_the_noise_floor_is_the_widest_repeat() -> None:
    floors = [deck(a=changed(WHOLE, score=-3e-5)), deck(a=changed(WHOLE, box_px=0.25))]
    found = noise_floor(evidence(deck(a=WHOLE), deck(a=WHOLE), floors))
    assert found == pytest.approx((3e-5, 0.25, 0.0), rel=1e-2)
