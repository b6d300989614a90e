"""The survey of throughput never passes on too little."""

from __future__ import annotations

import dataclasses

import pytest

from harness.checks import CHECKS, Judgement, judge
from harness.suites.meta.harness.answers import FP32, deck, evidence, grid, observed
from harness.timings import TimingPoint
from harness.types import Effective, JobError, Purpose, Status


def survey(*counts: int, error: JobError | None = None, effective: Effective | None = FP32) -> Judgement:
    curve = tuple(TimingPoint(2**i, "a loop", tuple(0.02 * (1 + j % 3) for j in range(n)), 2) for i, n in enumerate(counts))
    timed = dataclasses.replace(observed({}, purpose=Purpose.TIMING), curve=curve, error=error, effective=effective)
    known = evidence(deck(a=grid(1)), deck(a=grid(1)))
    return judge(CHECKS["throughput.batch_curve"], dataclasses.replace(known, observed={**known.observed, Purpose.TIMING: timed}))


def test_medians_and_rates_are_those_of_the_samples() -> None:
    found = survey(12, 12)
    assert (found.status, found.compared) == (Status.PASSED, 24)
    figures = {m.name: (m.value, m.unit) for m in found.measures}
    assert figures["batch 1, median of a call"] == (0.04, "s")
    assert figures["batch 2, throughput"] == (50.0, "images/s")
    assert all(m.level is None for m in found.measures)
    assert "not gated" in found.reason


def test_too_few_calls_are_inconclusive_and_say_how_many_are_needed() -> None:
    found = survey(11, 10)
    assert found.status is Status.INCONCLUSIVE
    assert found.reason == "batch 2 has 10 calls, a median needs 11"
    assert "batch 2, median of a call" not in {m.name for m in found.measures}


@pytest.mark.parametrize("counts", [(), (0, 0)])
def test_no_samples_are_an_error(counts: tuple[int, ...]) -> None:
    assert survey(*counts).status is Status.ERRORED


def test_a_broken_timing_job_is_told_here() -> None:
    found = survey(error=JobError("memory", "time", "used more than 6.0 GiB"))
    assert found.status is Status.ERRORED
    assert "used more than 6.0 GiB" in found.reason


def test_what_never_opened_is_told_by_opens_alone() -> None:
    error = JobError("raised", "open", "UnpicklingError: no")
    broken = {p: dataclasses.replace(observed({}, purpose=p), error=error) for p in (Purpose.PARITY, Purpose.TIMING)}
    known = dataclasses.replace(evidence(deck(a=grid(1)), deck(a=grid(1))), observed=broken)
    found = judge(CHECKS["throughput.batch_curve"], known)
    assert (found.status, found.reason) == (Status.DECLINED, "did not open: see contract.opens")


def test_time_at_another_precision_is_not_this_cells() -> None:
    assert survey(11, effective=dataclasses.replace(FP32, precision="bf16")).status is Status.ERRORED
    assert survey(11, effective=None).status is Status.ERRORED
