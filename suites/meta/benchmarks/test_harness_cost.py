"""What the harness adds to what it times: against a bare loop, and against OpenVINO's own benchmark_app on the same IR.

Both sides take turns in one process after the other, so that what the machine does meanwhile meets both.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from harness import levels
from harness.detections import Pixels
from harness.families import Model, family
from harness.intervals import ratio_interval, regressed
from harness.registry import load_adapter
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS, changed_in_memory, pictures
from harness.sweep import Bounds, Watch, sweep

pytestmark = [pytest.mark.covers("M19"), pytest.mark.alone, *THEIR_WARNINGS]
MODEL = "tv_ssdlite_tiny"
ROUNDS = 12
CALLS = 40
APP_ROUNDS, APP_S = 6, 2.0
APP_LEVEL = 0.03
"""Of a figure of benchmark_app's, by how much the harness's own may differ."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return changed_in_memory(MODEL, tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module", params=["torch_eager", "onnxruntime_session"])
def predict(request: pytest.FixtureRequest, model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """What a session of the backend is asked for one picture, without anything of the harness around it."""
    adapter, folder = load_adapter(request.param), tmp_path_factory.mktemp(request.param)
    variant = adapter.variants[0]
    adapter.build(model, variant, folder)
    processor = family(model.spec.family).processor(model.spec)
    with ExitStack() as stack:
        session: Any = stack.enter_context(adapter.open(folder, variant, "cpu"))

        def graph(images: list[Pixels]) -> list[Any]:
            return [processor.finish(session.run(processor.prepare(image)), image) for image in images]

        yield session.predict if request.param == "torch_eager" else graph


def beyond(base: Sequence[float], other: Sequence[float], margin: float) -> bool:
    """Whether the other is larger by more than the margin, by the rule of regressions: every second pair is a measurement."""
    return regressed((base[::2], other[::2]), (base[1::2], other[1::2]), margin)


def test_the_harness_adds_under_a_percent_to_a_bare_loop(predict: Callable[..., Any]) -> None:
    picture = pictures()[0]
    for _ in range(20):
        predict([picture])
    bare_s, timed_s = [], []

    def bare() -> None:
        began = time.perf_counter()
        for _ in range(CALLS):
            predict([picture])
        bare_s.append((time.perf_counter() - began) / CALLS)

    def timed() -> None:
        found, _ = sweep(predict, {"a": picture}, "a loop", Bounds(CALLS * warm_s, largest=1, audited=False), Watch())
        (point,) = found.points
        timed_s.append((point.spent_s - point.first_s) / (point.calls * len(point.seconds)))

    bare()
    warm_s = bare_s.pop()
    for number in range(ROUNDS):
        for side in (bare, timed) if number % 2 else (timed, bare):
            side()
    assert not beyond(bare_s, timed_s, levels.HARNESS_SHARE), ratio_interval(bare_s, timed_s)


@pytest.mark.parametrize("hint", ["latency", "throughput"])
def test_openvinos_own_benchmark_has_the_same_figure(hint: str, model: Model, tmp_path: Path) -> None:
    adapter: Any = load_adapter("openvino_ir")
    variant = next(one for one in adapter.variants if one.id == hint)
    adapter.build(model, variant, tmp_path)
    tensors = family(model.spec.family).processor(model.spec).prepare(pictures()[0])
    own, theirs = [], []
    with adapter.open(tmp_path, variant, "cpu") as session:
        (name,) = session._signature.ordered(tensors)
        np.save(tmp_path / "input.npy", tensors[name])
        several = [tensors] * (1 if hint == "latency" else 64)
        ask = (lambda: session.run(tensors)) if hint == "latency" else (lambda: session.run_many(several))
        for number in range(APP_ROUNDS):
            for side in (0, 1) if number % 2 else (1, 0):
                if side:
                    theirs.append(_of_the_app(tmp_path, hint, tensors[name].shape))
                else:
                    own.append(_per_second(ask, len(several)))
    assert not beyond(theirs, own, APP_LEVEL), (ratio_interval(theirs, own), theirs, own)
    assert not beyond(own, theirs, APP_LEVEL), (ratio_interval(theirs, own), theirs, own)


def _per_second(ask: Callable[[], Any], images: int) -> float:
    seconds: list[float] = []
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < APP_S:
        ask()
        seconds.append(time.perf_counter() - now)
    return images / median(seconds[len(seconds) // 5 :])


def _of_the_app(folder: Path, hint: str, shape: tuple[int, ...]) -> float:
    """Images a second: by the median latency where one request runs at a time, as many as it counts where several do."""
    command = [
        sys.executable, "-c", "from openvino.tools.benchmark.main import main; main()",
        "-m", str(folder / "model.xml"), "-d", "CPU", "-hint", hint, "-infer_precision", "f32", "-t", str(int(APP_S)),
        "-i", str(folder / "input.npy"), "-data_shape", f"[{','.join(map(str, shape))}]", "-inference_only", "False",
        "-report_type", "no_counters", "-report_folder", str(folder), "-json_stats",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    told = json.loads((folder / "benchmark_report.json").read_text())["execution_results"]
    return 1e3 / float(told["latency (ms)"]) if hint == "latency" else float(told["throughput"])
