"""How all tests are run: side by side where they may, alone where they must, each of them once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.suites.__main__ import passes

ROOT = Path(__file__).resolve().parents[2]


def collected(arguments: list[str]) -> set[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    # Not as a worker of the pytest that runs this.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment).stdout
    return {line for line in told.splitlines() if "::" in line}


def test_every_test_is_in_exactly_one_pass() -> None:
    # Without xdist, which collects in processes of its own.
    beside, alone = ([word for word in each if word not in ("-n", "2", "--dist", "loadfile")] for each in passes([], 2))
    some, others = collected(beside), collected(alone)
    assert some
    assert others
    assert not some & others
    assert some | others == collected(["suites"])


@pytest.mark.parametrize("arguments", [["suites/parity"], ["suites/meta/test_docs.py::test_x", "-q"], ["-m", "check"]])
def test_what_is_named_is_one_ordinary_pytest(arguments: list[str]) -> None:
    assert passes(arguments, 2) == [["--harness-strict-waivers", *arguments]]


def test_a_choice_of_names_is_made_in_both_passes() -> None:
    assert [each[-2:] for each in passes(["-k", "detectron2 or d2_"], 2)] == [["-k", "detectron2 or d2_"]] * 2
