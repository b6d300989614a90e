"""A backend opens its artifact and answers in well-formed detections, with the precision and device that were asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.plugin import Verdict


@pytest.mark.check("contract.opens")
@pytest.mark.covers("M12", "M18")
def test_opens(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("contract.well_formed")
@pytest.mark.covers("M10", "M11")
def test_answers_are_well_formed(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("contract.effective")
@pytest.mark.covers("M9")
def test_runs_as_asked(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("contract.same_twice")
@pytest.mark.covers("M18")
def test_the_same_picture_twice_has_the_same_answer(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("contract.after_blank")
@pytest.mark.covers("M18")
def test_a_blank_picture_leaves_nothing_behind(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("contract.batch")
@pytest.mark.covers("M18")
def test_a_batch_is_answered_like_its_pictures(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("contract.permuted")
@pytest.mark.covers("M18")
def test_answers_follow_their_pictures(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("contract.channels")
@pytest.mark.covers("M11", "M18")
def test_exchanged_colour_channels_change_the_answer(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("contract.held")
@pytest.mark.covers("M8", "M17", "M18")
def test_answers_stay_valid_after_the_next_call(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("contract.mixed_sizes")
@pytest.mark.covers("M18")
def test_unequal_sizes_in_one_call_are_answered_as_by_the_reference(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("contract.sample")
@pytest.mark.covers("M8", "M17")
def test_the_picture_used_for_export_has_detections(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("contract.single")
@pytest.mark.covers("M10", "M18")
def test_exactly_one_object_is_found(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("contract.cap")
@pytest.mark.covers("M10", "M18")
def test_more_objects_than_the_cap_are_capped(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("contract.sizes")
@pytest.mark.covers("M8", "M10", "M17", "M18")
def test_sizes_never_seen_at_export_are_answered(verdict: Verdict) -> None:
    verdict.demand()
