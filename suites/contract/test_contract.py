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
