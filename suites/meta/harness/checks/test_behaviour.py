"""Behaviour: every way of answering otherwise from call to call is caught by the check that is named for it, and by words."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.checks import CHECKS, Evidence, Judgement, judge
from harness.detections import Detections
from harness.suites.meta.harness.answers import (
    CAP,
    REFERENCE,
    SEGMENTS,
    changed,
    detections,
    evidence,
    grid,
    observed,
    truth_of,
    with_everything,
    with_masks,
    without,
)
from harness.suites.meta.harness.behaviours import Told, behaved
from harness.types import Image, ModelSpec, Observation, Purpose, Status, Variant

ONE, TWO, THREE = grid(4), changed(grid(5), box_px=1.0), changed(grid(3), score=-0.1)
PICTURES = {"even_0": ONE, "even_1": TWO, "even_2": THREE}
SOUND = behaved(PICTURES)
FULL = grid(CAP, 10.0, 14.0)
DECK = {"blank": detections([]), "even_0": ONE, "single": grid(1), "crowded": FULL, "tall": grid(2)}


def asked(told: Told, reference: Told = SOUND, **changes: object) -> Evidence:
    """A cell that answers the deck as its reference does, and behaves as told."""
    seen = dataclasses.replace(observed(told, purpose=Purpose.BEHAVIOUR), **changes)  # type: ignore[arg-type]
    known = evidence(DECK, DECK)
    itself = observed(reference, REFERENCE, Purpose.BEHAVIOUR)
    return dataclasses.replace(
        known,
        observed={**known.observed, Purpose.BEHAVIOUR: seen},
        reference={**known.reference, Purpose.BEHAVIOUR: itself},
        images=tuple(Image(name, 120, 160, "") if name != "tall" else Image(name, 240, 90, "") for name in DECK),
        sample="even_0",
        truth=lambda: truth_of({**DECK, "crowded": grid(CAP + 1, 10.0, 14.0)}),
    )


def answering(deck: dict[str, Detections], reference: dict[str, Detections] = DECK) -> Evidence:
    """A cell that behaves, and answers the deck as told."""
    known = asked(SOUND)
    theirs = {**known.reference, Purpose.PARITY: observed(reference, REFERENCE)}
    return dataclasses.replace(known, observed={**known.observed, Purpose.PARITY: observed(deck)}, reference=theirs)


def verdict(check: str, known: Evidence) -> Judgement:
    return judge(CHECKS[f"contract.{check}"], known)


BEHAVIOURS = ("same_twice", "after_blank", "batch", "permuted", "channels", "held", "mixed_sizes")
OF_THE_DECK = ("sample", "single", "cap", "sizes")


@pytest.mark.parametrize("check", [*BEHAVIOURS, *OF_THE_DECK])
def test_who_behaves_passes_and_something_was_compared(check: str) -> None:
    found = verdict(check, asked(SOUND))
    assert found.status is Status.PASSED, found
    assert found.compared > 0


@pytest.mark.parametrize("check", BEHAVIOURS)
def test_a_case_that_was_not_asked_passes_nothing(check: str) -> None:
    assert verdict(check, asked({}, {})).status is Status.ERRORED


MISBEHAVIOURS = [
    ("same_twice", {"twice/1/even_0": changed(ONE, score=-1e-3)}, "image even_0, asked twice: a score differs by 0.001"),
    ("same_twice", {"twice/3/even_2": changed(THREE, box_px=0.02)}, "image even_2, asked twice: a box differs"),
    ("after_blank", {"blank/1/blank": grid(2)}, "2 detections on a blank picture"),
    ("after_blank", {"blank/2/even_0": without(ONE, 1)}, "before and after a blank picture: 1 detections have no partner"),
    ("batch", {"batch/3/even_2": TWO}, "image even_2, asked alone and in a batch: 2 detections have no partner"),
    ("batch", {"batch/1/even_1": ONE}, "images even_0 and even_1 have one and the same answer"),
    ("permuted", {"permuted/1/even_1": ONE, "permuted/1/even_0": TWO}, "asked in a batch and in the permuted batch"),
    ("channels", {"swapped/1/channels swapped": ONE}, "the channels are not told apart"),
    ("held", {"one held/1/even_0": changed(ONE, score=-1e-7)}, "changed after the next call (one at a time)"),
    ("held", {"batch held/1/even_1": THREE}, "changed after the next call (batch at a time)"),
    ("mixed_sizes", {"mixed/0/even_1": changed(TWO, box_px=0.5)}, "image even_1, in one call with other sizes"),
]


@pytest.mark.parametrize(("check", "wrong", "words"), MISBEHAVIOURS)
def test_misbehaviour_is_failed_by_its_check_in_words(check: str, wrong: Told, words: str) -> None:
    found = verdict(check, asked({**SOUND, **wrong}))
    assert found.status is Status.FAILED
    assert words in found.reason


@pytest.mark.parametrize("check", ["same_twice", "batch", "permuted", "after_blank", "mixed_sizes"])
@given(scale=st.floats(0.0, 0.4))
def test_what_lies_within_the_levels_of_parity_passes_and_is_not_called_equal(check: str, scale: float) -> None:
    keys = {"same_twice": "twice/1/even_0", "batch": "batch/3/even_0", "permuted": "permuted/1/even_0"}
    key = {**keys, "after_blank": "blank/2/even_0", "mixed_sizes": "mixed/0/even_0"}[check]
    moved = changed(ONE, box_px=0.01 * scale, score=-1e-4 * scale)
    found = verdict(check, asked({**SOUND, key: moved}))
    assert found.status is Status.PASSED, found
    measures = {measure.name: measure.value for measure in found.measures}
    same = moved.scores.tobytes() == ONE.scores.tobytes() and moved.boxes_xyxy_px.tobytes() == ONE.boxes_xyxy_px.tobytes()
    assert measures["answers"] - measures["answers equal bit for bit"] == (not same)


def test_masks_count_as_answers_too() -> None:
    masked = behaved({name: with_masks(answer) for name, answer in PICTURES.items()})
    smaller = dataclasses.replace(with_masks(changed(ONE, box_px=-9.0)), boxes_xyxy_px=ONE.boxes_xyxy_px)
    assert verdict("same_twice", asked(masked)).status is Status.PASSED
    found = verdict("same_twice", asked({**masked, "twice/1/even_0": smaller}))
    assert found.status is Status.FAILED
    assert "masks" in found.reason


def test_at_lower_precision_a_miss_is_not_established() -> None:
    found = verdict("batch", in_half({**SOUND, "batch/3/even_2": changed(THREE, score=-0.01)}))
    assert found.status is Status.INCONCLUSIVE
    assert "bf16" in found.reason


def in_half(told: Told) -> Evidence:
    """What was left to choose its precision, and chose bf16."""
    effective = dataclasses.replace(observed({}).effective, precision="bf16")  # type: ignore[type-var]
    known = asked(told, effective=effective)
    return dataclasses.replace(known, variant=Variant("half", precision="default"))


def test_at_lower_precision_the_answer_to_another_picture_fails() -> None:
    swapped = {**SOUND, "permuted/1/even_1": changed(grid(5, step_px=17.0), box_px=9.0)}
    found = verdict("permuted", in_half(swapped))
    assert found.status is Status.FAILED
    assert "image even_1, asked in a batch" in found.reason


def test_who_was_asked_for_full_precision_is_held_to_it() -> None:
    lower = in_half({**SOUND, "batch/3/even_2": changed(THREE, score=-0.01)})
    found = verdict("batch", dataclasses.replace(lower, variant=Variant("whole")))
    assert found.status is Status.FAILED


def test_what_chose_full_precision_is_held_to_it() -> None:
    known = asked({**SOUND, "batch/3/even_2": changed(THREE, score=-0.01)})
    found = verdict("batch", dataclasses.replace(known, variant=Variant("free", precision="default")))
    assert found.status is Status.FAILED


@pytest.mark.parametrize("check", ["same_twice", "after_blank", "batch", "permuted", "mixed_sizes"])
@pytest.mark.parametrize("output", ["masks", "keypoints", "panoptic"])
def test_an_output_that_is_lost_on_the_way_fails(check: str, output: str) -> None:
    keys = {"same_twice": "twice/1/even_0", "batch": "batch/3/even_0", "permuted": "permuted/1/even_0"}
    key = {**keys, "after_blank": "blank/2/even_0", "mixed_sizes": "mixed/0/even_0"}[check]
    sound = behaved({name: with_everything(answer) for name, answer in PICTURES.items()})
    lost = dataclasses.replace(with_everything(ONE), **{output: None})
    found = verdict(check, asked({**sound, key: lost}, sound))
    assert found.status is Status.FAILED, found
    assert f"it has no {output}" in found.reason
    assert found.image == "even_0"


def test_the_picture_that_is_named_is_the_one_with_the_fault() -> None:
    told = {**SOUND, "batch/3/even_0": changed(ONE, box_px=0.005), "batch/3/even_1": changed(TWO, score=-0.1)}
    found = verdict("batch", asked(told))
    assert found.image == "even_1"
    assert found.reason.startswith("image even_1, asked alone and in a batch: a score differs by 0.1")


def test_who_cannot_mix_sizes_declines_in_words() -> None:
    found = verdict("mixed_sizes", asked(SOUND, declined={"mixed": "one image a call"}))
    assert (found.status, found.reason) == (Status.DECLINED, "one image a call")


def test_mixed_sizes_of_another_precision_than_asked_are_errored() -> None:
    effective = dataclasses.replace(observed({}).effective, precision="fp16")  # type: ignore[type-var]
    assert verdict("mixed_sizes", asked(SOUND, effective=effective)).status is Status.ERRORED


MISSES = [
    ("sample", {"even_0": detections([])}, "no detection on even_0, the picture used for export"),
    ("single", {"single": grid(2)}, "image single: 2 detections, 1 of them the reference's only one"),
    ("single", {"single": detections([])}, "image single: 0 detections, 0 of them"),
    ("single", {"single": detections([(90, 70, 120, 100)])}, "image single: 1 detections, 0 of them"),
    ("cap", {"crowded": without(FULL, CAP - 1)}, f"image crowded: {CAP - 1} detections, the cap is {CAP}"),
    ("cap", {"crowded": detections([(1, 1, 9, 9)] * (CAP + 1))}, f"image crowded: {CAP + 1} detections"),
    ("sizes", {"tall": detections([])}, "image tall of 90x240 px, a size never seen at export"),
    ("sizes", {"tall": detections([(90, 70, 120, 100)])}, "no detection is the reference's"),
]


@pytest.mark.parametrize(("check", "wrong", "words"), MISSES)
def test_a_miss_on_a_special_picture_is_failed_by_its_check(check: str, wrong: dict[str, Detections], words: str) -> None:
    found = verdict(check, answering({**DECK, **wrong}))
    assert found.status is Status.FAILED
    assert words in found.reason


@pytest.mark.parametrize("check", OF_THE_DECK)
def test_an_answer_that_was_not_given_is_no_pass(check: str) -> None:
    picture = {"sample": "even_0", "single": "single", "cap": "crowded", "sizes": "tall"}[check]
    assert verdict(check, answering({name: answer for name, answer in DECK.items() if name != picture})).status is Status.FAILED


@pytest.mark.parametrize("check", ["single", "cap", "sizes"])
def test_a_deck_without_such_a_picture_establishes_nothing(check: str) -> None:
    plain = {"blank": DECK["blank"], "even_0": ONE}
    assert verdict(check, answering(plain, plain)).status is Status.ERRORED


def test_a_picture_that_only_happens_to_fill_the_cap_is_not_judged() -> None:
    known = answering({**DECK, "crowded": without(FULL, 0)})
    assert verdict("cap", dataclasses.replace(known, truth=lambda: truth_of(DECK))).status is Status.ERRORED


def test_a_tie_at_the_threshold_may_leave_the_cap_unfilled() -> None:
    scores = FULL.scores.copy()
    scores[-1] = np.float32(0.05 + 5e-5)
    full = dataclasses.replace(FULL, scores=scores)
    deck = {**DECK, "crowded": full}
    assert verdict("cap", answering({**deck, "crowded": without(full, CAP - 1)}, deck)).status is Status.PASSED


def test_sizes_say_how_many_pictures_of_each_kind_have_a_match() -> None:
    found = verdict("sizes", asked(SOUND))
    measures = {measure.name: (measure.value, measure.level) for measure in found.measures}
    assert measures["portrait: pictures with a match"] == (1, 1)
    assert measures["shorter than the export's: pictures with a match"] == (1, 1)
    assert "landscape: pictures with a match" not in measures


def test_masks_of_a_mask_model_do_not_matter_to_where_objects_are() -> None:
    spec: ModelSpec = SEGMENTS
    seen: Observation = observed({name: with_masks(answer) for name, answer in DECK.items() if name != "tall"} | {"tall": grid(2)})
    known = dataclasses.replace(asked(SOUND), spec=spec)
    known = dataclasses.replace(known, observed={**known.observed, Purpose.PARITY: seen})
    assert verdict("sizes", known).status is Status.PASSED
