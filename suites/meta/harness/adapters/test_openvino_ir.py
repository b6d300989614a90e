"""OpenVINO's own corners: telemetry, precision as stored and as computed, the mended division."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.adapters.openvino_ir import ADAPTER, _divide_in_float
from harness.families import Graph, Model
from harness.suites.meta.harness.adapters.graphs import SPEC, picker, picture
from harness.types import Variant

BASE, MENDED = ADAPTER.variants[:2]
_IN_A_FRESH_PROCESS = """
import sys
from pathlib import Path
from harness.adapters.openvino_ir import ADAPTER
from harness.suites.meta.harness.adapters.graphs import picker, picture
ADAPTER.build(picker(), ADAPTER.variants[0], Path(sys.argv[1]))
with ADAPTER.open(Path(sys.argv[1]), ADAPTER.variants[0], "cpu") as session:
    session.run(picture(24, 32))
"""


@pytest.mark.covers("M8")
def test_nothing_is_written_under_home(tmp_path: Path) -> None:
    home, artifact = tmp_path / "home", tmp_path / "artifact"
    home.mkdir()
    artifact.mkdir()
    environment = {"HOME": str(home), "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", _IN_A_FRESH_PROCESS, str(artifact)], env=environment, check=True, timeout=400)
    assert (artifact / "model.xml").is_file()
    assert list(home.rglob("*intel*")) == []


def test_compressed_weights_are_told_though_the_computing_is_in_fp32(tmp_path: Path) -> None:
    variant = Variant("fp16", build={"compress_to_fp16": True}, open=BASE.open)
    ADAPTER.build(picker(), variant, tmp_path)
    with ADAPTER.open(tmp_path, variant, "cpu") as session:
        assert session.effective.precision == "fp16"


def test_threads_are_the_runtimes_own_when_none_are_asked_for(tmp_path: Path) -> None:
    ADAPTER.build(picker(), BASE, tmp_path)
    with ADAPTER.open(tmp_path, BASE, "cpu") as session:
        assert session.effective.threads
        assert session.effective.streams == 1


@pytest.mark.parametrize("route", ["torch", "onnx"])
def test_an_input_that_no_operation_reads_is_taken_and_changes_nothing(tmp_path: Path, route: str) -> None:
    import torch

    class Doubled(torch.nn.Module):
        def forward(self, unread: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (value * 2,)

    example = {"unread": torch.zeros(3), "value": torch.zeros(4)}
    graph = Graph(Doubled().eval(), example, ("doubled",), {"value": {0: "n"}, "doubled": {0: "n"}})
    variant = Variant("any", build={**BASE.build, "route": route}, open=BASE.open)
    ADAPTER.build(replace(picker(), graph=graph), variant, tmp_path)
    with ADAPTER.open(tmp_path, variant, "cpu") as session:
        answers = session.run({"unread": np.ones(3, np.float32), "value": np.arange(6, dtype=np.float32)})
    assert answers["doubled"].tolist() == [0, 2, 4, 6, 8, 10]


def test_an_artifact_can_be_moved(tmp_path: Path) -> None:
    built, moved = tmp_path / "built", tmp_path / "moved"
    built.mkdir()
    ADAPTER.build(picker(), BASE, built)
    built.rename(moved)
    with ADAPTER.open(moved, BASE, "cpu") as session:
        assert session.run(picture(24, 32))["scores"].dtype == np.float32


DETECTRON2 = replace(SPEC, family="detectron2")


def _padder() -> Model:
    """``image float32 [3, H, W]`` to its height and width padded to multiples of 32, computed as Detectron2 computes them."""
    import torch

    class Padder(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor]:
            size = torch.stack([torch.as_tensor(image.shape[-2]), torch.as_tensor(image.shape[-1])])
            return ((torch.stack([size]).max(0).values + 31).div(32, rounding_mode="floor") * 32,)

    image = torch.zeros(3, 160, 213)
    return Model(DETECTRON2, Padder(), None, np.zeros((1, 1, 3), np.uint8), Graph(Padder(), {"image": image}, ("size",), {}))


@pytest.mark.parametrize("size", [(160, 213), (161, 224), (32, 1), (192, 191)], ids=str)
def test_the_mended_route_divides_as_the_live_graph_does(tmp_path: Path, size: tuple[int, int]) -> None:
    ADAPTER.build(_padder(), MENDED, tmp_path)
    expected = [-(-side // 32) * 32 for side in size]
    with ADAPTER.open(tmp_path, MENDED, "cpu") as session:
        assert session.run({"image": np.zeros((3, *size), np.float32)})["size"].tolist() == expected


def test_the_mended_division_is_exact_beyond_what_float32_holds() -> None:
    from openvino import Model as Graph
    from openvino import compile_model, opset13

    above, below = opset13.parameter([-1], np.int64), opset13.constant(np.int64(80))
    graph = Graph([opset13.divide(above, below)], [above])
    _divide_in_float(graph)
    places = np.concatenate([np.arange(20_000_000, 20_002_000), [2**31 - 1, 2**30 + 79, 79, 0, -1, -81]])
    assert (compile_model(graph, "CPU")(places.astype(np.int64))[0] == places // 80).all()


def test_cuda_is_declined_and_the_cpu_is_not() -> None:
    said = ADAPTER.declines(SPEC, BASE, "cuda")
    assert said is not None
    assert "Intel" in said
    assert ADAPTER.declines(SPEC, BASE, "cpu") is None


@pytest.mark.covers("M9")
def test_every_device_that_the_runtime_lists_has_a_variant_and_runs_there(tmp_path: Path) -> None:
    import openvino

    ADAPTER.build(picker(), BASE, tmp_path)
    asked = {variant.open.get("device", "CPU"): variant for variant in ADAPTER.variants if variant.build == BASE.build}
    listed = openvino.Core().available_devices
    assert listed
    assert {name.partition(".")[0] for name in listed} <= asked.keys(), "a device without a variant"
    tensors = picture(24, 32)
    with ADAPTER.open(tmp_path, BASE, "cpu") as session:
        wanted = session.run(tensors)
    for name in (*listed, "AUTO"):
        variant = replace(asked[name.partition(".")[0]], open={**BASE.open, "device": name})
        with ADAPTER.open(tmp_path, variant, "cpu") as session:
            found = session.run(tensors)
            # AUTO says what it chose, which is one of those that are listed.
            chosen = [device.replace(":", ".").upper() for device in session.effective.device.split(",")]
        assert set(chosen) <= set(listed)
        assert name == "AUTO" or chosen == [name]
        for output, value in wanted.items():
            np.testing.assert_allclose(found[output], value, rtol=1e-4, atol=1e-5)
