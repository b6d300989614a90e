"""What lower precision keeps, as a verdict: on many objects against the level of its class, or not established."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest

from harness import levels
from harness.checks import CHECKS, Evidence, Judgement, judge
from harness.detections import Detections, Panoptic, Segment
from harness.suites.meta.harness.answers import (
    EVERYWHERE,
    HEIGHT_PX,
    REFERENCE,
    SEGMENTS,
    SPEC,
    WIDTH_PX,
    crowd,
    deck,
    detections,
    evidence,
    observed,
    with_masks,
)
from harness.types import JobError, ModelSpec, Observation, Purpose, Status, Variant

pytestmark = pytest.mark.covers("M21")

ROOMY = dataclasses.replace(SPEC, detection_cap=2000)
MANY = crowd(levels.KEPT_OBJECTS)


def known(candidate: Detections, reference: Detections, precision: str, spec: ModelSpec = ROOMY) -> Evidence:
    own = observed(deck(a=candidate), purpose=Purpose.PRECISION)
    assert own.effective is not None
    return dataclasses.replace(
        evidence(deck(a=candidate), deck(a=reference), spec=spec),
        variant=Variant("v", precision=precision),
        observed={Purpose.PRECISION: dataclasses.replace(own, effective=dataclasses.replace(own.effective, precision=precision))},
        reference={Purpose.PRECISION: observed(deck(a=reference), REFERENCE, Purpose.PRECISION)},
    )


def verdict(found: Evidence) -> Judgement:
    return judge(CHECKS["parity.kept"], found)


def moved(count: int) -> Detections:
    """So many boxes of the last ones moved out of reach of every IoU."""
    boxes = MANY.boxes_xyxy_px.copy()
    boxes[len(boxes) - count :] += np.float32(2000)
    return dataclasses.replace(MANY, boxes_xyxy_px=boxes)


@pytest.mark.parametrize(
    ("precision", "lost", "status"),
    [
        ("fp16", 0, Status.PASSED),
        ("bf16", 5, Status.FAILED),
        ("int8", 5, Status.PASSED),
        ("int8", 30, Status.FAILED),
        ("fp8", 0, Status.INCONCLUSIVE),
    ],
)
def test_on_a_thousand_objects_the_share_that_is_kept_decides(precision: str, lost: int, status: Status) -> None:
    found = verdict(known(moved(lost), MANY, precision))
    assert found.status is status, found
    assert found.reason.startswith(f"{precision} keeps ")
    assert found.compared == len(MANY)


def test_on_fewer_nothing_is_established_however_good_or_bad() -> None:
    for candidate in (crowd(999), crowd(3)):
        found = verdict(known(candidate, crowd(999), "fp16"))
        assert found.status is Status.INCONCLUSIVE
        assert found.reason.endswith("on 999 objects; 1,000 are needed: not established")


def test_every_kind_must_be_kept() -> None:
    whole = with_masks(MANY)
    assert whole.masks is not None
    other = dataclasses.replace(whole, masks=whole.masks.take(np.roll(np.arange(len(whole)), 1)))
    found = verdict(known(other, whole, "fp16", dataclasses.replace(SEGMENTS, detection_cap=2000)))
    assert found.status is Status.FAILED
    assert "keeps 100.00 % of the reference's box AP, 0.00 % of the reference's mask AP" in found.reason


def test_panoptic_quality_must_be_kept_too_where_the_deck_has_segments() -> None:
    spec = dataclasses.replace(EVERYWHERE, detection_cap=2000)
    truth, lost = (
        Panoptic(np.full((HEIGHT_PX, WIDTH_PX), 1, np.int32), (Segment(1, label, is_thing=False),)) for label in range(2)
    )
    whole = dataclasses.replace(with_masks(MANY), panoptic=truth)
    for panoptic, status, percent in (
        (truth, Status.PASSED, "100.00"),
        (lost, Status.FAILED, "0.00"),
        (None, Status.FAILED, "0.00"),
    ):
        told = known(dataclasses.replace(whole, panoptic=panoptic), whole, "int8", spec)
        shown = {image.id: truth for image in told.images}
        found = verdict(dataclasses.replace(told, segments=partial(dict, shown)))
        assert found.status is status, found
        assert f"{percent} % of the reference's panoptic quality" in found.reason
        untold = verdict(told)
        assert untold.status is Status.PASSED
        assert "panoptic quality is not judged: this deck's truth has no segments" in untold.reason


def test_better_than_the_reference_is_kept() -> None:
    found = verdict(dataclasses.replace(known(MANY, moved(50), "int8"), truth=known(MANY, MANY, "int8").truth))
    assert found.status is Status.PASSED


def test_another_precision_than_asked_is_never_judged() -> None:
    found = verdict(dataclasses.replace(known(MANY, MANY, "fp16"), variant=Variant("v", precision="int8")))
    assert found.status is Status.ERRORED
    assert "the effective precision is fp16, asked was int8" in found.reason


def test_a_runtime_that_chose_fp32_is_judged_as_fp32() -> None:
    found = verdict(dataclasses.replace(known(MANY, MANY, "fp32"), variant=Variant("v", precision="default")))
    assert (found.status, found.reason) == (Status.DECLINED, "it answered in fp32: see the other parity checks")


def test_a_job_that_broke_is_told_here() -> None:
    whole = known(MANY, MANY, "int8")
    broken = Observation(whole.observed[Purpose.PRECISION].job, error=JobError("raised", "predict many_3", "no memory"))
    found = verdict(dataclasses.replace(whole, observed={Purpose.PRECISION: broken}))
    assert found.status is Status.ERRORED
    assert found.reason == "the precision job raised an exception at the stage 'predict many_3': no memory"


def test_an_image_without_an_answer_establishes_nothing() -> None:
    whole = known(MANY, MANY, "int8")
    short = dataclasses.replace(whole.reference[Purpose.PRECISION], answers=deck())
    assert verdict(dataclasses.replace(whole, reference={Purpose.PRECISION: short})).status is Status.ERRORED
    lost = dataclasses.replace(whole.observed[Purpose.PRECISION], answers=deck())
    found = verdict(dataclasses.replace(whole, observed={Purpose.PRECISION: lost}))
    assert (found.status, found.reason) == (Status.FAILED, "image a has no answer")


def test_a_reference_that_finds_nothing_establishes_nothing() -> None:
    found = verdict(known(MANY, detections([]), "int8"))
    assert found.status is Status.ERRORED
    assert "compared nothing" in found.reason
