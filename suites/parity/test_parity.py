"""Every backend answers as the reference does, on one shared deck of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.plugin import Verdict


@pytest.mark.check("reference.stable")
@pytest.mark.covers("M18")
def test_reference_is_stable(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("parity.detections")
@pytest.mark.covers("M8", "M17", "M18")
def test_same_detections(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("parity.classes")
@pytest.mark.covers("M8", "M17", "M18")
def test_same_classes(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("parity.scores")
@pytest.mark.covers("M8", "M17", "M18")
def test_same_scores(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("parity.boxes")
@pytest.mark.covers("M8", "M10", "M17", "M18")
def test_same_boxes(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("parity.masks")
@pytest.mark.covers("M8", "M10", "M17", "M18")
def test_same_masks(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("parity.raw_masks")
@pytest.mark.covers("M8", "M10", "M17", "M18")
def test_same_raw_masks(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("parity.keypoints")
@pytest.mark.covers("M8", "M10", "M17", "M18")
def test_same_keypoints(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("parity.panoptic")
@pytest.mark.covers("M8", "M10", "M17", "M18")
def test_same_panoptic_segments(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("parity.precision")
@pytest.mark.covers("M8", "M17", "M18")
def test_same_average_precision(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("parity.kept")
@pytest.mark.covers("M8", "M18")
def test_lower_precision_keeps_the_average_precision(verdict: Verdict) -> None:
    verdict.demand()
