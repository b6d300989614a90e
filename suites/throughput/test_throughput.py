"""How fast each backend answers one image, and batches of 2, 4 and 8: a survey, not gated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.plugin import Verdict


@pytest.mark.check("throughput.batch_curve")
@pytest.mark.covers("M19")
def test_batch_curve(verdict: Verdict) -> None:
    verdict.demand()
