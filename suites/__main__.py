"""All tests, in the time that this machine can do them in; what tox and CI run.

    python -m harness.suites [pytest's own options]

First the tests of the project itself, as many side by side as there are cores, then what needs the machine for itself: the demands
on every backend, which run their own processes, and the tests marked ``alone``, which measure. With paths, or ``-m``, it is one
ordinary pytest.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.environment import usable_cores

ROOT = Path(__file__).resolve().parents[1]
STRICT = "--harness-strict-waivers"


def passes(arguments: Sequence[str], cores: int) -> list[list[str]]:
    """The arguments of each pytest."""
    if any(word == "-m" or (ROOT / word.partition("::")[0]).exists() for word in arguments):
        return [[STRICT, *arguments]]
    side_by_side = ["-n", str(cores), "--dist", "loadfile", "-m", "not alone", "suites/meta"]
    return [[*side_by_side, *arguments], [STRICT, "-m", "alone or check", "suites", *arguments]]


def main() -> int:
    """The first exit code that is no success; that nothing was chosen is none where the other pass chose something."""
    # Each in a process that has imported nothing of this project yet, or its assertions could not be rewritten.
    codes = [subprocess.call([sys.executable, "-m", "pytest", *each], cwd=ROOT) for each in passes(sys.argv[1:], usable_cores())]
    chose = [code for code in codes if code != pytest.ExitCode.NO_TESTS_COLLECTED]
    return next((code for code in chose if code), 0) if chose else int(pytest.ExitCode.NO_TESTS_COLLECTED)


if __name__ == "__main__":
    sys.exit(main())
