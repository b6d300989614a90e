"""The plugin costs other people's runs nothing and tells verdicts as pytest's own outcomes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from harness.plugin import NotJudged, Verdict
from harness.types import Cell, Record, Status

CELL = Cell("m", "b", "v", "cpu")
HEAVY = ("torch", "torchvision", "openvino", "onnxruntime", "bentoml", "detectron2")


def record(status: Status, waiver: str | None = None, compared: int = 1) -> Record:
    return Record("parity.boxes", CELL, status, "because", compared=compared, waiver=waiver, reproduce="harness run")


def outcome(made: Record, *, strict: bool = False) -> str:
    try:
        Verdict(made, strict_waivers=strict).demand()
    except pytest.xfail.Exception:
        return "xfail"
    except pytest.fail.Exception:
        return "fail"
    except pytest.skip.Exception:
        return "skip"
    return "pass"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.PASSED, "pass"),
        (Status.FAILED, "fail"),
        (Status.DECLINED, "skip"),
        (Status.INCONCLUSIVE, "skip"),
        (Status.WAIVED, "xfail"),
    ],
)
def test_each_status_is_an_outcome_of_pytest(status: Status, expected: str) -> None:
    assert outcome(record(status)) == expected


def test_a_stale_waiver_fails_only_where_waivers_are_strict() -> None:
    assert outcome(record(Status.PASSED, waiver="w")) == "pass"
    assert outcome(record(Status.PASSED, waiver="w"), strict=True) == "fail"


@pytest.mark.parametrize("made", [record(Status.ERRORED), record(Status.MISSING), record(Status.PASSED, compared=0)])
def test_what_was_not_judged_never_passes(made: Record) -> None:
    with pytest.raises(NotJudged):
        Verdict(made, strict_waivers=False).demand()


@pytest.mark.parametrize("command", [["-m", "harness.cli", "--help"], ["-m", "pytest", "--help"]])
def test_help_imports_no_backend(command: list[str]) -> None:
    code = f"import sys, runpy; sys.argv = {command[1:]!r}\ntry:\n    runpy.run_module({command[1]!r}, run_name='__main__')\n"
    code += f"except SystemExit:\n    pass\nprint('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("HEAVY []"), done.stdout[-500:]


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_other_peoples_runs_are_left_alone_and_lose_under_50_ms(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text("def test_theirs(): assert True\n")

    def seconds(*words: str) -> float:
        """Of processor time: what a busy machine lets a process wait is not the plugin's."""
        began = _children_s()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
        alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=alone)
        assert done.returncode == 0, done.stdout
        assert "1 passed" in done.stdout
        assert "detection-harness" not in done.stdout
        return _children_s() - began

    seconds()
    pairs = [(seconds("-p", "harness.plugin"), seconds()) for _ in range(7)]
    # Other work on the machine only ever adds: the least of each is nearest to what they cost.
    loaded, bare = (min(side) for side in zip(*pairs, strict=True))
    assert loaded - bare < 0.05
    assert not (tmp_path / "harness-out").exists()
