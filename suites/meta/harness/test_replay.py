"""What a run timed arrives in pytest-benchmark as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.replay import Replay
from harness.types import Cell

pytestmark = pytest.mark.covers("M19", "M20")
CELL = Cell("tiny", "candidate", "f32", "cpu")


@pytest.mark.alone
def test_every_figure_is_a_round_in_its_order(benchmark: object) -> None:
    """On the fixture itself, whose clock is exchanged as a marker would."""
    replay = Replay(CELL, (0.5, 0.25, 2.0), {"unit": "process"})
    benchmark._timer = replay.timer  # type: ignore[attr-defined]
    replay.feed(benchmark)
    assert benchmark.stats.stats.data == [0.5, 0.25, 2.0]  # type: ignore[attr-defined]
    assert benchmark.extra_info == {"backend": "candidate", "variant": "f32", "unit": "process"}  # type: ignore[attr-defined]
    # They are no timings of this test, whatever is made of its report.
    benchmark.stats.stats.data.clear()  # type: ignore[attr-defined]
    benchmark.has_error = True  # type: ignore[attr-defined]


def test_nothing_timed_is_nothing_told() -> None:
    Replay(CELL, (), {}).feed(benchmark=None)


@pytest.mark.alone
def test_the_suites_feed_it_and_its_own_options_pick_the_timed_tests(tmp_path: Path) -> None:
    cells = ["--harness-model", "tv_ssdlite_tiny", "--harness-backend", "onnxruntime_session", "--harness-variant", "f32"]
    out = ["--harness-out", str(tmp_path / "run"), "--benchmark-json", str(tmp_path / "timed.json"), "--benchmark-only"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pyproject.toml", "suites/throughput"]
    done = subprocess.run([*command, *cells, *out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "timed.json").read_text())["benchmarks"]
    timed = {
        line["cell"]["backend"]: line["predict_s"]
        for line in map(json.loads, (tmp_path / "run" / "run.jsonl").read_text().splitlines())
        if line.get("predict_s")
    }
    assert {one["extra_info"]["backend"] for one in told} == {"torch_eager", "onnxruntime_session"} == set(timed)
    for one in told:
        assert one["group"] == "tv_ssdlite_tiny@cpu, one image"
        assert one["extra_info"]["unit"] == "call"
        assert one["stats"]["data"] == pytest.approx(timed[one["extra_info"]["backend"]])
        assert one["stats"]["rounds"] == len(one["stats"]["data"]) > 0
