"""Masks before pasting, keypoints, panoptic segments: honest answers pass, each fault fails its check and is named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.checks import CHECKS, Judgement, judge, outputs
from harness.checks.reference import NoiseFloor
from harness.compare import compare
from harness.detections import Detections, Panoptic, Segment
from harness.ledger import KeypointTies
from harness.suites.meta.harness.answers import (
    EVERYWHERE,
    POINTS,
    SEGMENTS,
    deck,
    detections,
    evidence,
    grid,
    with_keypoints,
    with_masks,
    with_panoptic,
    with_raw_masks,
)
from harness.suites.meta.harness.ledgers import LIMITS, ledger
from harness.types import ModelSpec, Status

pytestmark = pytest.mark.covers("M21")


def verdict(name: str, spec: ModelSpec, candidate: Detections, reference: Detections) -> Judgement:
    blank = with_panoptic(detections([]))
    known = evidence(deck(blank=blank, crowd=candidate), deck(blank=blank, crowd=reference), spec=spec)
    return judge(CHECKS[f"parity.{name}"], known)


class TestRawMasks:
    whole = with_raw_masks(with_masks(grid(4)))

    def judged(self, candidate: Detections, reference: Detections | None = None) -> Judgement:
        return verdict("raw_masks", SEGMENTS, candidate, self.whole if reference is None else reference)

    def moved(self, *, by: float) -> Detections:
        assert self.whole.raw_masks is not None
        raw_masks = self.whole.raw_masks.copy()
        raw_masks[2, 1, 1] += np.float32(by)
        return dataclasses.replace(self.whole, raw_masks=raw_masks)

    def test_reordered_they_are_the_same(self) -> None:
        found = self.judged(self.whole.take([2, 0, 3, 1]))
        assert (found.status, found.compared) == (Status.PASSED, 4)

    def test_a_rounding_passes_and_a_thousandth_does_not(self) -> None:
        assert self.judged(self.moved(by=2e-5)).status is Status.PASSED
        found = self.judged(self.moved(by=1e-3))
        assert (found.status, found.image) == (Status.FAILED, "crowd")
        assert found.reason.startswith("raw mask of detection 2 on image crowd differs by 1")

    def test_nan_fails(self) -> None:
        assert self.judged(self.moved(by=np.nan)).status is Status.FAILED

    def test_one_bad_mask_of_four_moves_the_worst_and_not_the_median(self) -> None:
        figures = {measure.name: measure.value for measure in self.judged(self.moved(by=1e-3)).measures}
        assert figures["worst raw mask difference against its level"] > 1
        assert figures["median raw mask difference against its level"] == 0
        assert figures["1st percentile raw mask cosine"] < figures["median raw mask cosine"] == pytest.approx(1)

    def test_who_gives_pasted_masks_only_declines_in_words(self) -> None:
        pasted = dataclasses.replace(self.whole, raw_masks=None)
        found = self.judged(pasted)
        assert (found.status, found.reason) == (
            Status.DECLINED,
            "this backend gives masks only after they are pasted: see parity.masks",
        )
        assert self.judged(self.whole, pasted).reason.startswith("the reference gives masks only after")

    def test_who_gives_some_only_fails(self) -> None:
        known = evidence(
            deck(one=self.whole, two=dataclasses.replace(self.whole, raw_masks=None)),
            deck(one=self.whole, two=self.whole),
            spec=SEGMENTS,
        )
        found = judge(CHECKS["parity.raw_masks"], known)
        assert found.status is Status.FAILED
        assert found.reason.startswith("4 of 8 matched detections have a raw mask on one side only")


class TestKeypoints:
    whole = with_keypoints(grid(4))

    def judged(self, candidate: Detections) -> Judgement:
        return verdict("keypoints", POINTS, candidate, self.whole)

    def moved(self, *, x_px: float = 0.0, y_px: float = 0.0, score: float = 0.0) -> Detections:
        assert self.whole.keypoints is not None
        keypoints = self.whole.keypoints.copy()
        keypoints[3, 1] += np.array([x_px, y_px, score], np.float32)
        return dataclasses.replace(self.whole, keypoints=keypoints)

    def test_reordered_they_are_the_same(self) -> None:
        found = self.judged(self.whole.take([2, 0, 3, 1]))
        assert (found.status, found.compared) == (Status.PASSED, 4)
        assert {m.name: m.value for m in found.measures}["compared"] == 8

    def test_a_tenth_of_a_pixel_passes_in_whatever_direction_and_more_does_not(self) -> None:
        assert self.judged(self.moved(x_px=0.069, y_px=-0.069)).status is Status.PASSED
        found = self.judged(self.moved(x_px=0.08, y_px=-0.08))
        assert (found.status, found.image) == (Status.FAILED, "crowd")
        assert found.reason == "a keypoint of detection 3 on image crowd lies 0.113 px off, level 0.1 px"

    def test_scores_are_reported_and_not_judged(self) -> None:
        found = self.judged(self.moved(score=0.25))
        assert found.status is Status.PASSED
        assert {m.name: (m.value, m.level) for m in found.measures}["worst keypoint score difference"] == (0.25, None)

    @pytest.mark.parametrize(("moved", "status"), [(0, Status.PASSED), (1, Status.PASSED), (2, Status.FAILED)])
    def test_a_tie_excuses_one_keypoint_of_a_deck_as_small_as_this(self, moved: int, status: Status) -> None:
        assert self.whole.keypoints is not None
        keypoints = self.whole.keypoints.copy()
        keypoints[:moved, 0] += np.float32(20.0)
        rows = np.arange(moved, dtype=np.int32)
        ties = KeypointTies(rows, np.zeros_like(rows), keypoints[:moved, 0, :2].copy())
        ledgers = {"crowd": dataclasses.replace(ledger([]), keypoints=ties)}
        answered = deck(crowd=dataclasses.replace(self.whole, keypoints=keypoints))
        found = compare(deck(crowd=self.whole), answered, LIMITS, ledgers=ledgers)
        judged = outputs.keypoints(evidence(answered, deck(crowd=self.whole), spec=POINTS), found, NoiseFloor(0.0, 0.0, 0.0))
        assert judged.status is status, judged
        assert {m.name: m.value for m in judged.measures}["at a tied maximum"] == moved

    def test_left_and_right_exchanged(self) -> None:
        assert self.whole.keypoints is not None
        exchanged = dataclasses.replace(self.whole, keypoints=self.whole.keypoints[:, ::-1].copy())
        assert "(4 of 4 detections beyond it)" in self.judged(exchanged).reason

    @pytest.mark.parametrize("keypoints", [None, np.zeros((4, 3, 3), np.float32)])
    def test_none_at_all_or_another_number_of_them_fails(self, keypoints: np.ndarray | None) -> None:
        assert self.judged(dataclasses.replace(self.whole, keypoints=keypoints)).status is Status.FAILED


class TestPanoptic:
    whole = with_panoptic(grid(4))

    def judged(self, candidate: Detections) -> Judgement:
        return verdict("panoptic", EVERYWHERE, candidate, self.whole)

    def redrawn(self, *, px: int = 0, label: int | None = None) -> Detections:
        """So many pixels of the first thing given to the stuff around it, or another label for it."""
        assert self.whole.panoptic is not None
        ids, segments = self.whole.panoptic.ids.copy(), list(self.whole.panoptic.segments)
        ids.flat[np.flatnonzero(ids == 1)[:px]] = 100
        if label is not None:
            segments[0] = dataclasses.replace(segments[0], label=label)
        return dataclasses.replace(self.whole, panoptic=Panoptic(ids, tuple(segments)))

    def test_other_numbers_and_another_order_are_the_same(self) -> None:
        assert self.whole.panoptic is not None
        segments = tuple(dataclasses.replace(s, id=s.id + 7) for s in reversed(self.whole.panoptic.segments))
        renumbered = dataclasses.replace(self.whole, panoptic=Panoptic(self.whole.panoptic.ids + np.int32(7), segments))
        found = self.judged(renumbered)
        # Four things and the stuff around them, and the stuff of the blank picture.
        assert (found.status, found.compared) == (Status.PASSED, 6)

    def test_a_pixel_passes_and_a_few_do_not(self) -> None:
        assert self.judged(self.redrawn(px=1)).status is Status.PASSED
        found = self.judged(self.redrawn(px=40))
        assert (found.status, found.image) == (Status.FAILED, "crowd")
        assert "the worst segment has an IoU of 0.95556" in found.reason

    def test_another_class_is_a_segment_missing_and_one_extra(self) -> None:
        found = self.judged(self.redrawn(label=1))
        assert found.reason == "a segment of circle is missing on image crowd (2 in all, level 0)"

    def test_a_class_that_does_not_exist_is_told_too(self) -> None:
        added = np.full((2, 2), 1, np.int32)
        strange = dataclasses.replace(self.whole, panoptic=Panoptic(added, (Segment(1, 9, is_thing=True),)))
        known = evidence(
            deck(crowd=strange), deck(crowd=dataclasses.replace(strange, panoptic=Panoptic(added * 0, ()))), spec=EVERYWHERE
        )
        known = dataclasses.replace(known, images=known.images[1:])
        assert "a segment of label 9 of 2 is extra" in judge(CHECKS["parity.panoptic"], known).reason

    @pytest.mark.parametrize("panoptic", [None, Panoptic(np.zeros((5, 5), np.int32), ())])
    def test_none_at_all_or_of_another_size_fails(self, panoptic: Panoptic | None) -> None:
        found = self.judged(dataclasses.replace(self.whole, panoptic=panoptic))
        assert (found.status, found.image) == (Status.FAILED, "crowd")
        assert found.reason.startswith("1 of 2 pictures have panoptic segments on one side only")
