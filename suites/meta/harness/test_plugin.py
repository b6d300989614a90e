"""The plugin costs other people's runs nothing and tells verdicts as pytest's own outcomes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness.plugin import NotJudged, Verdict, pytest_ignore_collect
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


def test_the_projects_own_tests_are_collected_in_its_checkout_alone(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    own, demands = pytestconfig.rootpath / "suites" / "meta", pytestconfig.rootpath / "suites" / "parity"
    elsewhere = cast("pytest.Config", SimpleNamespace(rootpath=tmp_path))
    assert pytest_ignore_collect(own, elsewhere) is True
    assert pytest_ignore_collect(demands, elsewhere) is None
    assert pytest_ignore_collect(own, pytestconfig) is None


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


THEIRS = """
import sys, time
import pytest

def seconds(*words):
    began = time.process_time()
    assert pytest.main(["-q", "-p", "no:cacheprovider", *words]) == 0
    return time.process_time() - began

seconds()
bare = seconds()
assert not any(name.split(".")[0] == "harness" for name in sys.modules)
print("LOST", seconds("-p", "harness.plugin") - bare, flush=True)
"""


@pytest.mark.alone
def test_other_peoples_runs_are_left_alone_and_lose_under_50_ms(tmp_path: Path) -> None:
    """Of processor time, beside the same run in the same process: what a start of Python takes would drown the difference."""
    (tmp_path / "test_other.py").write_text("def test_theirs(): assert True\n")
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    def lost() -> float:
        done = subprocess.run([sys.executable, "-c", THEIRS], cwd=tmp_path, capture_output=True, text=True, check=False, env=alone)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("1 passed") == 3
        assert "detection-harness" not in done.stdout
        return float(done.stdout.rpartition("LOST ")[2])

    # Other work on the machine only ever adds; a negative figure is a bare run that was disturbed.
    assert min(figure for _ in range(5) if (figure := lost()) > 0) < 0.05
    assert not (tmp_path / "harness-out").exists()
