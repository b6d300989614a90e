"""What was saved is what comes back: weights, answers, and everything stored beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.plugin import Verdict


@pytest.mark.check("fidelity.only_carrier")
@pytest.mark.covers("M1", "M2", "M8")
def test_artifact_is_the_only_carrier(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("fidelity.weights")
@pytest.mark.covers("M1", "M2")
def test_weights_come_back(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("fidelity.answers")
@pytest.mark.covers("M1", "M2")
def test_answers_come_back(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("fidelity.caller_unchanged")
@pytest.mark.covers("M1", "M2")
def test_saving_leaves_the_caller_alone(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("fidelity.mode")
@pytest.mark.covers("M1", "M2")
def test_opening_changes_nothing_else(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("fidelity.attached")
@pytest.mark.covers("M3")
def test_what_was_stored_beside_comes_back(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("fidelity.resaved")
@pytest.mark.covers("M1", "M2")
def test_saving_what_was_loaded_changes_nothing(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("fidelity.archived")
@pytest.mark.covers("M1", "M2")
def test_archives_bring_the_same_back(verdict: Verdict) -> None:
    verdict.demand()
