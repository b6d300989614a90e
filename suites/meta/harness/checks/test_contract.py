"""Proper form: each way of giving an improper answer is named with its place and value."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.checks import CHECKS, judge
from harness.suites.meta.harness.answers import (
    CAP,
    FP32,
    HEIGHT_PX,
    SEGMENTS,
    SPEC,
    WIDTH_PX,
    changed,
    deck,
    detections,
    evidence,
    grid,
    observed,
    with_masks,
)
from harness.types import Detections, Effective, Masks, ModelSpec, Observation, Purpose, Status

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
