"""A run while it happens: each verdict once, and none lost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness import live
from harness.live import LiveRun, Plan
from harness.options import Options
from harness.types import Cell, Record, Status

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
