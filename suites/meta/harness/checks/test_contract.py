"""Proper form: each way of giving an improper answer is named with its place and value."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.checks import CHECKS, judge
from harness.detections import Detections, Masks, Panoptic, Segment
from harness.suites.meta.harness.answers import (
    CAP,
    EVERYWHERE,
    FP32,
    HEIGHT_PX,
    POINTS,
    SEGMENTS,
    SPEC,
    WIDTH_PX,
    changed,
    deck,
    detections,
    evidence,
    grid,
    observed,
    with_keypoints,
    with_masks,
    with_panoptic,
)
from harness.types import Effective, ModelSpec, Observation, Purpose, Status

SOUND = deck(one=grid(4))


def form(answers: dict[str, Detections], spec: ModelSpec = SPEC) -> tuple[Status, str, str | None]:
    found = judge(CHECKS["contract.well_formed"], evidence(answers, SOUND, spec=spec))
    return found.status, found.reason, found.image


def box(*corners: float) -> dict[str, Detections]:
    return deck(one=detections([(1, 1, 5, 5), corners]))


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (box(float("nan"), 0, 5, 5), "detection 1 has the box [nan, 0, 5, 5], which is not finite"),
        (box(0, 0, WIDTH_PX + 0.01, 5), "outside the 160x120 px image"),
        (box(0, 0, 5, HEIGHT_PX + 0.01), "outside the 160x120 px image"),
        (box(-0.01, 0, 5, 5), "outside"),
        (box(9, 0, 5, 5), "wrong way round"),
        (deck(one=detections([(0, 0, 5, 5)], [1.01])), "score 1.00999"),
        (deck(one=detections([(0, 0, 5, 5)], [-0.5])), "outside 0..1"),
        (deck(one=detections([(0, 0, 5, 5)], [float("nan")])), "score nan"),
        (deck(one=detections([(0, 0, 5, 5)], [0.0499])), "below the threshold 0.05"),
        (deck(one=detections([(0, 0, 5, 5)], labels=[2])), "label 2, of 2 classes"),
        (deck(one=detections([(0, 0, 5, 5)], labels=[-1])), "label -1"),
        (deck(one=detections([(0, 0, 5, 5)] * (CAP + 1))), "21 detections, above the cap of 20"),
        ({"blank": grid(1), "one": grid(4)}, "1 detections on a blank picture"),
        ({"blank": detections([])}, "has no answer"),
        ({**SOUND, "two": grid(1)}, "is not in the deck"),
    ],
)
def test_improper_answers(answers: dict[str, Detections], words: str) -> None:
    status, reason, image = form(answers)
    assert status is Status.FAILED
    assert words in reason
    assert reason.startswith(f"image {image}")


@pytest.mark.parametrize(
    "answers",
    [
        box(0, 0, WIDTH_PX + 5e-4, HEIGHT_PX),
        box(7, 7, 7, 7),
        deck(one=detections([(0, 0, 5, 5)], [np.float32(0.05)])),
        deck(one=detections([(0, 0, 5, 5)] * CAP, [1.0] * CAP)),
    ],
)
def test_proper_answers_on_every_edge(answers: dict[str, Detections]) -> None:
    assert form(answers)[0] is Status.PASSED


def test_a_threshold_that_float32_rounds_down_is_met_by_its_own_float32() -> None:
    spec = dataclasses.replace(SPEC, score_threshold=0.7)
    assert form(deck(one=detections([(0, 0, 5, 5)], [0.7])), spec)[0] is Status.PASSED


def test_a_deck_of_empty_answers_is_no_proper_form() -> None:
    assert form(deck(one=detections([])))[0] is Status.ERRORED


def test_masks_are_demanded_where_the_model_segments() -> None:
    assert "no masks" in form(SOUND, SEGMENTS)[1]
    assert form(deck(one=with_masks(grid(4))), SEGMENTS)[0] is Status.PASSED
    small = dataclasses.replace(grid(1), masks=Masks.from_full(np.ones((1, 20, 30), bool)))
    assert "masks of 30x20 px" in form(deck(one=small), SEGMENTS)[1]


def effective(found: Effective | None) -> tuple[Status, str]:
    known = evidence(SOUND, SOUND)
    seen: Observation = dataclasses.replace(observed(SOUND), effective=found)
    verdict = judge(CHECKS["contract.effective"], dataclasses.replace(known, observed={Purpose.PARITY: seen}))
    parity = judge(CHECKS["parity.boxes"], dataclasses.replace(known, observed={Purpose.PARITY: seen}))
    assert (verdict.status is Status.PASSED) == (parity.status is Status.PASSED)
    return verdict.status, verdict.reason


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (dataclasses.replace(FP32, precision="bf16"), "precision is bf16, asked was fp32"),
        (dataclasses.replace(FP32, device="cuda:0"), "device is cuda:0, asked was cpu"),
        (None, "did not say"),
    ],
)
def test_what_does_not_run_as_asked_is_errored_and_so_is_its_parity(found: Effective | None, words: str) -> None:
    status, reason = effective(found)
    assert status is Status.ERRORED
    assert words in reason


def test_what_runs_as_asked_passes() -> None:
    assert effective(FP32)[0] is Status.PASSED


def test_opening_without_answering_is_a_failure() -> None:
    known = evidence({}, SOUND)
    build = observed({}, purpose=Purpose.BUILD)
    found = judge(CHECKS["contract.opens"], dataclasses.replace(known, observed={**known.observed, Purpose.BUILD: build}))
    assert found.status is Status.FAILED


def test_only_the_first_fault_is_told_and_the_rest_counted() -> None:
    twice = changed(changed(grid(4), label=9), label=9, index=1)
    assert "more like it" not in form(deck(one=twice))[1]
    assert "(1 more like it)" in form({"blank": grid(1), "one": twice})[1]


def pointed(x: float, y: float, score: float = 0.5) -> dict[str, Detections]:
    """The second keypoint of the first detection, whose box is (5, 5) to (35, 35), somewhere else."""
    answer = with_keypoints(grid(4))
    assert answer.keypoints is not None
    answer.keypoints[0, 1] = (x, y, score)
    return deck(one=answer)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (SOUND, "no keypoints, from a model that finds them"),
        (deck(one=dataclasses.replace(grid(4), keypoints=np.zeros((4, 3, 3), np.float32))), "shape [4, 3, 3], not [4, 2, 3]"),
        (pointed(float("nan"), 9), "detection 0 has the keypoint tail at [nan, 9, 0.5], which is not finite"),
        (pointed(9, 9, float("inf")), "not finite"),
        (pointed(35 + 0.011 * WIDTH_PX, 9), "detection 0 has the keypoint tail at [36.76, 9, 0.5], outside its box"),
        (pointed(9, 5 - 0.011 * HEIGHT_PX), "outside its box"),
    ],
)
def test_improper_keypoints(answers: dict[str, Detections], words: str) -> None:
    status, reason, image = form(answers, POINTS)
    assert (status, image) == (Status.FAILED, "one")
    assert words in reason


def test_proper_keypoints_up_to_the_edge() -> None:
    assert form(deck(one=with_keypoints(grid(4))), POINTS)[0] is Status.PASSED
    assert form(pointed(35 + 0.009 * WIDTH_PX, 5 - 0.009 * HEIGHT_PX), POINTS)[0] is Status.PASSED


SEGMENTED = {name: with_panoptic(with_masks(answer)) for name, answer in SOUND.items()}


def segmented(*segments: Segment, shape: tuple[int, int] = (HEIGHT_PX, WIDTH_PX), image: str = "one") -> dict[str, Detections]:
    """One answer with these segments, a pixel each."""
    ids = np.zeros(shape, np.int32)
    ids[0, : len(segments)] = [segment.id for segment in segments]
    return {**SEGMENTED, image: dataclasses.replace(SEGMENTED[image], panoptic=Panoptic(ids, segments))}


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({**SEGMENTED, "one": with_masks(grid(4))}, "no panoptic segments"),
        (segmented(shape=(20, 30)), "panoptic segments of 30x20 px for an image of 160x120 px"),
        (segmented(Segment(1, 2, is_thing=True)), "segment 1 has the label 2, of 2 kinds of thing"),
        (segmented(Segment(1, -1, is_thing=False)), "segment 1 has the label -1, of 2 kinds of stuff"),
        (segmented(Segment(1, 0, is_thing=True, score=float("nan"))), "segment 1 has the score nan"),
        (segmented(Segment(1, 0, is_thing=True, score=0.5), image="blank"), "segment 1 is a thing on a blank picture"),
    ],
)
def test_improper_segments(answers: dict[str, Detections], words: str) -> None:
    status, reason, _ = form(answers, EVERYWHERE)
    assert status is Status.FAILED
    assert words in reason


def test_a_segment_without_a_pixel_is_none() -> None:
    empty = Panoptic(np.zeros((HEIGHT_PX, WIDTH_PX), np.int32), (Segment(5, 0, is_thing=False),))
    one = dataclasses.replace(SEGMENTED["one"], panoptic=empty)
    assert "segment 5 has no pixel" in form({**SEGMENTED, "one": one}, EVERYWHERE)[1]


def test_proper_segments() -> None:
    assert form(SEGMENTED, EVERYWHERE)[0] is Status.PASSED
