"""A run while it happens: each verdict once, and none lost."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from harness import live
from harness.checks import Judgement
from harness.live import LiveRun, Plan
from harness.options import Options
from harness.plan import job
from harness.types import Cell, JobError, Observation, Purpose, Record, StageDifference, StageReport, Status

CELL = Cell("tv_fasterrcnn_tiny", "onnxruntime_session", "f32", "cpu")


@pytest.fixture
def written() -> list[Record]:
    return []


@pytest.fixture
def run(written: list[Record], monkeypatch: pytest.MonkeyPatch) -> LiveRun:
    """A run none of whose jobs has left anything; what it writes down is kept in ``written``."""
    plan = Plan(Options.of({"quick": True, "model": [CELL.model], "backend": [CELL.backend], "device": ["cpu"]}))
    started = LiveRun(plan, "harness run")
    monkeypatch.setattr(started, "_writer", SimpleNamespace(record=written.append), raising=False)
    monkeypatch.setattr(started, "_executor", SimpleNamespace(await_observation=lambda _: None), raising=False)
    return started


def test_asked_again_a_verdict_is_the_same_and_written_once(run: LiveRun, written: list[Record]) -> None:
    first = run.verdict("contract.opens", CELL)
    assert first.status is Status.MISSING
    assert run.verdict("contract.opens", CELL) is first
    assert written == run.records == [first]


def test_answers_that_cannot_be_judged_are_errored_and_told(
    run: LiveRun, written: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(live, "judge", broken)
    record = run.verdict("parity.boxes", CELL)
    assert record.status is Status.ERRORED
    assert "ValueError: operands could not be broadcast together" in record.reason
    assert written == [record]


@pytest.mark.parametrize(
    ("check", "stage"),
    [
        ("parity.scores", "pooler: 3 of 9 values of pooled differ on image even_0"),
        ("contract.batch", "pooler: 3 of 9 values of pooled differ on image even_0"),
        ("contract.effective", ""),
        ("fidelity.answers", ""),
    ],
)
def test_a_failure_of_answers_names_the_first_stage_that_differs_and_looks_once(
    run: LiveRun, monkeypatch: pytest.MonkeyPatch, check: str, stage: str
) -> None:
    asked: list[list[str]] = []

    def take_apart(cell: Cell, images: list[str]) -> Observation:
        asked.append(images)
        differs = StageDifference("even_0", "pooled", "3 of 9 values of pooled differ", 0.5, 1e-4)
        reports = (StageReport("backbone", 3, 900), StageReport("pooler", 3, 9, (differs,)))
        return Observation(job(cell, Purpose.STAGES), stages=reports)

    monkeypatch.setattr(run, "_waivers", ())
    monkeypatch.setattr(run._executor, "take_apart", take_apart, raising=False)
    monkeypatch.setattr(live, "judge", lambda *_: Judgement(Status.FAILED, "it differs", 3, image="crowded"))
    record = run.verdict(check, CELL)
    assert record.stage == stage
    run.verdict("parity.boxes", CELL)
    assert len(asked) == 1
    assert ("crowded" in asked[0], run.plan.deck.sample in asked[0]) == (True, True)


@pytest.mark.parametrize(
    ("differs", "status", "words"),
    [
        ("preprocess", Status.WAIVED, "preprocess (resize); measured: preprocess: 3 of 9 values"),
        ("pooler", Status.FAILED, "pooler: 3 of 9 values"),
        (None, Status.WAIVED, "preprocess (resize)"),
    ],
)
def test_a_strict_run_measures_the_stage_that_a_waiver_tells(
    run: LiveRun, monkeypatch: pytest.MonkeyPatch, differs: str | None, status: Status, words: str
) -> None:
    seen = StageReport(differs or "", 3, 9, (StageDifference("even_0", "x", "3 of 9 values of x differ", 0.5, 1e-4),))
    reports = (seen,) if differs else (StageReport("preprocess", 3, 0, error="RuntimeError: no"),)
    found = Observation(job(CELL, Purpose.STAGES), stages=reports)
    monkeypatch.setattr(run._executor, "take_apart", lambda *_: found, raising=False)
    monkeypatch.setattr(live, "judge", lambda *_: Judgement(Status.FAILED, "it differs", 3, image="crowded"))
    waiver = next(one for one in run.plan.waivers if one.covers("parity.boxes", CELL))
    assert waiver.stage == "preprocess (resize)"
    assert run.verdict("parity.boxes", CELL).stage == waiver.stage
    monkeypatch.setattr(run.plan, "options", dataclasses.replace(run.plan.options, strict_waivers=True))
    record = run.verdict("parity.scores", CELL)
    assert record.status is status
    assert record.stage.startswith(words)
    if status is Status.FAILED:
        assert f"Waiver {waiver.id} does not hold: it tells of preprocess, but first differs pooler" in record.reason


@pytest.mark.parametrize("second", ["pooler (rounding)", "NMS"])
def test_of_several_waivers_the_one_that_tells_of_the_measured_stage_holds(
    run: LiveRun, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    differs = StageDifference("even_0", "x", "3 of 9 values of x differ", 0.5, 1e-4)
    found = Observation(job(CELL, Purpose.STAGES), stages=(StageReport("pooler", 3, 9, (differs,)),))
    monkeypatch.setattr(run._executor, "take_apart", lambda *_: found, raising=False)
    monkeypatch.setattr(live, "judge", lambda *_: Judgement(Status.FAILED, "it differs", 3, image="crowded"))
    monkeypatch.setattr(run.plan, "options", dataclasses.replace(run.plan.options, strict_waivers=True))
    first = next(one for one in run.plan.waivers if one.covers("parity.boxes", CELL))
    other = first.model_copy(update={"id": "the-other", "stage": second})
    monkeypatch.setattr(run, "_waivers", (first, other))
    record = run.verdict("parity.boxes", CELL)
    if second == "NMS":
        assert record.status is Status.FAILED
        assert record.reason.startswith("it differs")
        assert all(f"Waiver {one.id} does not hold: it tells of" in record.reason for one in (first, other))
        assert record.stage.startswith("pooler: 3 of 9")
    else:
        assert (record.status, record.waiver, record.reason) == (Status.WAIVED, "the-other", "it differs")
        assert record.stage.startswith("pooler (rounding); measured: pooler: 3 of 9")


@pytest.mark.parametrize(("kind", "status"), [("raised", Status.WAIVED), ("timeout", Status.ERRORED), ("memory", Status.ERRORED)])
def test_no_waiver_is_about_the_machine(run: LiveRun, monkeypatch: pytest.MonkeyPatch, kind: str, status: Status) -> None:
    waived = next(waiver for waiver in run.plan.waivers if waiver.covers("parity.boxes", CELL))
    assert waived.kind == "upstream"
    broken = Observation(job(CELL, Purpose.PARITY), error=JobError(kind, "predict", "it ended"))
    run._observations[broken.job] = broken
    monkeypatch.setattr(live, "judge", lambda *_: Judgement(Status.ERRORED, "it ended"))
    assert run.verdict("parity.boxes", CELL).status is status
