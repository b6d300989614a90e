"""How fast each backend answers: a survey of batches of 1 to 8, or with `--only throughput` measured in many processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.plugin import Verdict


@pytest.mark.check("throughput.batch_curve")
@pytest.mark.covers("M19")
def test_batch_curve(verdict: Verdict, replayed: Callable[[], None]) -> None:
    replayed()
    verdict.demand()


@pytest.mark.check("throughput.measured")
@pytest.mark.covers("M19")
def test_measured(verdict: Verdict, replayed: Callable[[], None]) -> None:
    replayed()
    verdict.demand()


@pytest.mark.check("throughput.ratio")
@pytest.mark.covers("M19")
def test_ratio_to_the_reference(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("throughput.answers")
@pytest.mark.covers("M19")
def test_the_fast_path_is_the_checked_path(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("throughput.caching")
@pytest.mark.covers("M19")
def test_a_picture_once_more_is_looked_at_once_more(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("throughput.served")
@pytest.mark.covers("M6")
@pytest.mark.covers("M19")
def test_throughput_and_latency_under_load(verdict: Verdict) -> None:
    verdict.demand()


@pytest.mark.check("throughput.identity")
@pytest.mark.covers("M6")
def test_every_client_gets_its_own_answer(verdict: Verdict) -> None:
    verdict.demand()
