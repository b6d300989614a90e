"""ONNX Runtime's own corners: telemetry, the stored precision, a provider that cannot start."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest

from harness.adapters.onnxruntime_session import ADAPTER
from harness.suites.meta.harness.adapters.graphs import SPEC, picker, picture

BASE = ADAPTER.variants[0]
_IN_A_FRESH_PROCESS = """
import os, sys
from pathlib import Path
from harness.adapters.onnxruntime_session import ADAPTER
from harness.suites.meta.harness.adapters.graphs import picker, picture
ADAPTER.build(picker(), ADAPTER.variants[0], Path(sys.argv[1]))
with ADAPTER.open(Path(sys.argv[1]), ADAPTER.variants[0], "cpu") as session:
    session.run(picture(24, 32))
assert "ORT_DISABLE_TELEMETRY" not in os.environ
"""


def _has_cuda_package() -> bool:
    try:
        version("onnxruntime-gpu")
    except PackageNotFoundError:
        return False
    return True


@pytest.mark.covers("M17")
def test_nothing_is_written_under_home(tmp_path: Path) -> None:
    home, artifact = tmp_path / "home", tmp_path / "artifact"
    home.mkdir()
    artifact.mkdir()
    environment = {"HOME": str(home), "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", _IN_A_FRESH_PROCESS, str(artifact)], env=environment, check=True, timeout=400)
    assert (artifact / "model.onnx").is_file()
    assert [path for path in home.rglob("*") if "onnxruntime" in path.name.lower()] == []


def test_a_callers_own_choice_about_telemetry_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "yes")
    ADAPTER.build(picker(), BASE, tmp_path)
    with ADAPTER.open(tmp_path, BASE, "cpu"):
        assert os.environ["ORT_DISABLE_TELEMETRY"] == "yes"


def test_half_precision_weights_are_told(tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    ADAPTER.build(picker(), BASE, tmp_path)
    stored = onnx.load(str(tmp_path / "model.onnx"))
    weight = next(tensor for tensor in stored.graph.initializer if len(tensor.dims) == 4)
    half = numpy_helper.to_array(weight).astype(np.float16)
    name = weight.name
    weight.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
    stored.graph.node.insert(0, onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    onnx.save(stored, str(tmp_path / "model.onnx"))
    with ADAPTER.open(tmp_path, BASE, "cpu") as session:
        assert session.effective.precision == "fp16"
        assert len(session.run(picture(24, 32))["scores"])


@pytest.mark.skipif(_has_cuda_package(), reason="the package with the CUDA provider is installed")
def test_a_fallback_to_the_cpu_shows(tmp_path: Path) -> None:
    ADAPTER.build(picker(), BASE, tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*CUDAExecutionProvider", UserWarning)
        with ADAPTER.open(tmp_path, BASE, "cuda") as session:
            assert session.effective.device == "cpu"
            assert session.effective.provider == "ONNX Runtime CPUExecutionProvider"


@pytest.mark.skipif(_has_cuda_package(), reason="the package with the CUDA provider is installed")
def test_cuda_is_declined_without_the_package_that_has_it() -> None:
    said = ADAPTER.declines(SPEC, BASE, "cuda")
    assert said is not None
    assert "onnxruntime-gpu" in said
