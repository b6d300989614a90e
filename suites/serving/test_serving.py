"""What clients send is answered as the pixels that it shows, or refused in a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.plugin import Verdict


@pytest.mark.check("serving.wire")
@pytest.mark.covers("M5")
def test_the_wire_does_not_change_the_answer(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("serving.refuses")
@pytest.mark.covers("M5")
def test_wrong_uploads_get_a_sentence(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("serving.token")
@pytest.mark.covers("M5")
def test_without_the_token_nothing_is_answered(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("serving.drawing")
@pytest.mark.covers("M5")
def test_the_drawing_is_the_stored_models(verdict: Verdict) -> None:
    verdict.demand()
