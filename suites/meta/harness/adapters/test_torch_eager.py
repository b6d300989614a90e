"""The reference: every tensor travels, nothing is read but the artifact, and full fp32 is what it says."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree

import pytest

from harness.adapters import DetectorSession
from harness.adapters.torch_eager import ADAPTER, effective_of, full_fp32
from harness.errors import HarnessError
from harness.suites.meta.harness.adapters.detectors import (
    assert_bit_equal,
    came_back,
    changed_in_memory,
    expected,
    pictures,
    state,
)

BASE = ADAPTER.variants[0]
pytestmark = [
    pytest.mark.filterwarnings("ignore:pkg_resources is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:Deprecated call to `pkg_resources:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
]


@pytest.mark.covers("M12", "M18")
@pytest.mark.parametrize("model_id", ["tv_maskrcnn_tiny", "d2_maskrcnn_tiny", "d2_fasterrcnn_tiny"])
def test_the_moved_artifact_alone_gives_the_live_model_back(model_id: str, tmp_path: Path) -> None:
    if model_id.startswith("d2"):
        pytest.importorskip("detectron2")
    model = changed_in_memory(model_id, tmp_path / "source")
    before, wanted = state(model), expected(model)
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    ADAPTER.build(model, BASE, artifact)
    assert state(model) == before
    rmtree(tmp_path / "source")
    with ADAPTER.open(artifact.rename(tmp_path / "moved"), BASE, "cpu") as session:
        assert isinstance(session, DetectorSession)
        back = came_back(model, session.restored)
        assert back.tensors == before.tensors
        assert back.config == before.config
        assert not back.training
        assert_bit_equal([session.predict([picture])[0] for picture in pictures()], wanted)
        assert session.effective.precision == "fp32"
        assert session.effective.device == "cpu"


def test_a_missing_and_a_misshapen_tensor_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    ADAPTER.build(changed_in_memory("tv_fasterrcnn_tiny", tmp_path / "source"), BASE, tmp_path)
    path = tmp_path / "tensors.safetensors"
    stored = load_file(path)
    name = next(iter(stored))
    for damaged in ({k: v for k, v in stored.items() if k != name}, {**stored, name: stored[name].flatten()[:1].clone()}):
        save_file(damaged, path)
        with pytest.raises(HarnessError, match=name), ADAPTER.open(tmp_path, BASE, "cpu"):
            pass


def test_full_fp32_is_for_the_session_only() -> None:
    import torch

    before = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = True
        with full_fp32():
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_the_lowest_precision_is_told() -> None:
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    assert effective_of(module, "x", ()).precision == "fp32"
    module[1].half()
    assert effective_of(module, "x", ()).precision == "fp16"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        told = effective_of(module, "x", ("torch",))
    assert told.precision == "bf16"
    assert "autocast on" in told.provider
    assert told.threads == torch.get_num_threads()
    assert told.versions["torch"].startswith(torch.__version__.split("+", maxsplit=1)[0])


def test_layers_alone_in_bf16_leave_all_between_them_in_float32(tmp_path: Path) -> None:
    model = changed_in_memory("tv_fasterrcnn_tiny", tmp_path / "source")
    ADAPTER.build(model, BASE, tmp_path)
    variant = next(variant for variant in ADAPTER.variants if variant.id == "bf16_mended")
    with ADAPTER.open(tmp_path, variant, "cpu") as session:
        assert session.effective.precision == "fp32"
        (found,) = session.predict([pictures()[0]])
        assert session.effective.precision == "bf16"
        assert came_back(model, session.restored).tensors == state(model).tensors
    with ADAPTER.open(tmp_path, BASE, "cpu") as session:
        (wanted,) = session.predict([pictures()[0]])
    assert found.boxes_xyxy_px.tobytes() != wanted.boxes_xyxy_px.tobytes()
    # A coordinate in bf16 above 128 px is whole; no more of these are than chance would have.
    far = found.boxes_xyxy_px[found.boxes_xyxy_px > 128]
    assert (far % 1 == 0).mean() < 0.2
