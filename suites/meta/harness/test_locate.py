"""What `harness bisect` says of the stages: what differs, what could not be asked, what was not there to compare."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import HarnessError, UsageError
from harness.locate import Located, _located, locate
from harness.options import Options
from harness.stages.bisect import NO_STAGE
from harness.types import Cell, Job, JobError, Observation, Purpose, StageDifference, StageReport

CELL = Cell("tv_maskrcnn_tiny", "openvino_ir", "f32", "cpu")
JOB = Job(CELL, Purpose.OPERATORS)
AGREES = StageReport("backbone", 3, 900)
DIFFERS = StageReport("NMS", 3, 90, (StageDifference("even_0", "scores", "1 of 9 values of scores differ", 0.5, 1e-4),))
UNASKED = StageReport("keypoint decoding", 3, 0, error="UnsupportedOperatorError: no such operator")
EMPTY = StageReport("mask head", 1, 0)


@pytest.mark.parametrize(
    ("reports", "agrees", "end"),
    [
        ((AGREES,), True, "none: every stage, fed the reference's own input, answers as the reference's does"),
        ((AGREES, DIFFERS), False, "NMS: 1 of 9 values of scores differ on image even_0"),
        ((UNASKED, DIFFERS), False, "NMS: 1 of 9 values of scores differ on image even_0"),
        ((AGREES, UNASKED), False, "keypoint decoding could not be asked (UnsupportedOperatorError: no such operator)"),
        ((AGREES, EMPTY), True, "nothing was there to compare in mask head"),
        ((EMPTY,), False, "not found: nothing was there to compare in mask head"),
        ((), False, "not found: there is no stage to ask"),
    ],
)
def test_the_last_line_says_what_follows(reports: tuple[StageReport, ...], agrees: bool, end: str) -> None:
    found = Located(CELL, reports)
    assert found.agrees == agrees
    assert end in list(found.lines())[-1]
    assert list(found.lines())[-1].endswith(NO_STAGE) == ("none: " in list(found.lines())[-1])


def test_every_stage_has_its_line() -> None:
    told = list(Located(CELL, (AGREES, DIFFERS, UNASKED, EMPTY)).lines())
    states = ("agrees", "differs", "cannot be asked", "nothing to compare")
    assert [state in line for state, line in zip(states, told, strict=False)] == [True] * 4


def test_stages_are_told_although_their_operators_broke(tmp_path: Path) -> None:
    seen = Observation(JOB, stages=(AGREES, DIFFERS), notes=("those of NMS could not be looked at: KeyError: 'boxes'",))
    told = list(_located(CELL, seen, tmp_path).lines())
    assert told[-1] == "Operators: those of NMS could not be looked at: KeyError: 'boxes'"


@pytest.mark.covers("M8")
def test_the_padding_of_d2_fcos_is_found_down_to_the_operators_and_shown_without_this_project(tmp_path: Path) -> None:
    """The real thing: OpenVINO rounds an integer division after a reduction (docs/findings.md)."""
    pytest.importorskip("detectron2")
    found = locate("d2_fcos_tiny/openvino_ir[f32]@cpu", Options(out=tmp_path / "bisect", cache=tmp_path / "cache"), ("even_0",))
    assert [report.stage for report in found.reports if report.differences] == ["preprocess"]
    assert [report.error for report in found.reports if report.error] == []
    assert found.operators.startswith("Divide")
    assert "ReduceMax" in found.operators
    assert "6 instead of 5" in found.operators
    assert found.reproducer is not None
    done = subprocess.run([sys.executable, "show.py"], cwd=found.reproducer, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("SHOWN: ")
    assert "Divide" in (found.reproducer / "issue.md").read_text(encoding="utf-8")


def test_a_cell_that_cannot_run_here_is_no_fault_of_ours() -> None:
    with pytest.raises(UsageError, match="OpenVINO has no CUDA plugin"):
        locate("tv_fcos_tiny/openvino_ir[f32]@cuda", Options(), ())


def test_a_cell_without_stages_is_an_error_that_says_what_to_ask(tmp_path: Path) -> None:
    broken = Observation(JOB, error=JobError("raised", "open", "no such device"))
    with pytest.raises(HarnessError, match="no such device") as error:
        _located(CELL, broken, tmp_path)
    assert "--check contract.opens" in str(error.value)
