"""`DefaultPredictor` from its artifact alone, answering as the live model does."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree

import pytest

from harness.adapters import DetectorSession
from harness.adapters.detectron2_predictor import ADAPTER
from harness.fixtures.models import MODELS
from harness.suites.meta.harness.adapters.detectors import (
    assert_bit_equal,
    came_back,
    changed_in_memory,
    expected,
    pictures,
    state,
)

pytest.importorskip("detectron2")
BASE = ADAPTER.variants[0]
pytestmark = [
    pytest.mark.filterwarnings("ignore:pkg_resources is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:Deprecated call to `pkg_resources:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
]


@pytest.mark.covers("M11", "M18")
@pytest.mark.parametrize("model_id", ["d2_maskrcnn_tiny", "d2_fasterrcnn_tiny"])
def test_the_moved_artifact_alone_gives_the_live_model_back(model_id: str, tmp_path: Path) -> None:
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
        assert_bit_equal(session.predict(pictures()), wanted)
        assert (session.effective.precision, session.effective.device) == ("fp32", "cpu")


def test_other_families_are_declined_in_words() -> None:
    assert ADAPTER.declines(MODELS["d2_maskrcnn_tiny"], BASE, "cpu") is None
    assert "Detectron2" in str(ADAPTER.declines(MODELS["tv_maskrcnn_tiny"], BASE, "cpu"))
