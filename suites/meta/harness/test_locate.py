"""What `harness bisect` says of the stages: what differs, what could not be asked, what was not there to compare."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import HarnessError, UsageError
from harness.journal import read_run
from harness.locate import Located, _located, locate
from harness.options import Options
from harness.stages.bisect import NO_STAGE
from harness.types import Cell, Job, JobError, Observation, Purpose, StageDifference, StageReport, Status

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


def harness(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line, as a user has it."""
    return subprocess.run([sys.executable, "-m", "harness.cli", *words], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


def test_the_command_tells_a_fault_of_the_trace_and_hands_over_what_shows_it(tmp_path: Path, cache: str) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "bisect"
    words = ("--image", "shrunk_square", "--out", str(out), "--cache", cache)
    done = harness("bisect", "tv_fcos_tiny/onnxruntime_session[f32]@cpu", *words)
    assert done.returncode == 1, done.stderr
    assert "First stage that differs: preprocess: 2 of 2 values of resized_size" in done.stdout
    assert "Operators: torch.jit.trace, run by PyTorch itself, already differs from the live stage" in done.stdout
    assert "does not show it" not in done.stdout
    left = {path.name for path in (out / "reproducer").iterdir()}
    assert left == {"stage.pt", "sample.npz", "inputs.npz", "expected.npz", "show.py", "issue.md"}
    shown = subprocess.run([sys.executable, "show.py"], cwd=out / "reproducer", capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("SHOWN: ")
    assert "harness" not in (out / "reproducer" / "show.py").read_text(encoding="utf-8")


def test_the_command_ends_with_0_where_every_stage_agrees(tmp_path: Path, cache: str) -> None:
    pytest.importorskip("onnxruntime")
    words = ("--image", "shrunk_square", "--out", str(tmp_path / "bisect"), "--cache", cache)
    done = harness("bisect", "tv_fcos_tiny/onnxruntime_session[f32_mended]@cpu", *words)
    assert (done.returncode, "First stage that differs: none: every stage" in done.stdout) == (0, True), done.stdout + done.stderr


def test_the_command_says_what_is_wrong_with_its_words() -> None:
    done = harness("bisect", "tv_fcos_tiny/torch_eager[fp32]", "--image", "nobody")
    assert (done.returncode, "nobody" in done.stderr) == (2, True)


LIAR = """
from harness.suites.meta.liars.test_stage_liars import Liar

ADAPTER = Liar("backbone")
"""


def test_a_run_writes_down_the_stage_that_a_failing_cell_differs_in_first(tmp_path: Path, cache: str) -> None:
    (tmp_path / "liar.py").write_text(LIAR, encoding="utf-8")
    liar = ("--adapter", f"{tmp_path / 'liar.py'}:ADAPTER", "--backend", "stage_liar")
    asked = ("--model", "tv_ssdlite_tiny", "--check", "parity.boxes", "--cache", cache, "--out", str(tmp_path / "run"))
    done = harness("run", *liar, *asked)
    assert done.returncode == 1, done.stderr
    (record,) = read_run(tmp_path / "run").records
    assert (record.status, record.stage.partition(":")[0]) == (Status.FAILED, "backbone")


def test_a_strict_run_measures_the_stage_of_what_is_waived(tmp_path: Path, cache: str) -> None:
    pytest.importorskip("onnxruntime")
    words = ("--model", "tv_fcos_tiny", "--backend", "onnxruntime_session", "--variant", "f32", "--check", "parity.boxes")
    done = harness("run", *words, "--strict-waivers", "--cache", cache, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    (record,) = read_run(tmp_path / "run").records
    assert record.status is Status.WAIVED
    assert record.stage.startswith("preprocess (resize); measured: preprocess: ")
