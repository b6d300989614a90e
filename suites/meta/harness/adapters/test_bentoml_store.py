"""BentoML's model store: what its routes keep, what they lose, and that losing is not mended in silence."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest

from harness.adapters import DetectorSession
from harness.adapters.bentoml_store import ADAPTER, StoredGraphSession
from harness.digests import comparable
from harness.families import FAMILIES, Model, family
from harness.families.detectron2_configs import lazy_spec
from harness.fixtures.models import MODELS
from harness.serving.bentoml_home import bentoml_home
from harness.suites.meta.harness.adapters.detectors import (
    THEIR_WARNINGS,
    again,
    assert_bit_equal,
    came_back,
    changed_in_memory,
    expected,
    pictures,
    state,
)
from harness.tracing import expected_warnings
from harness.types import Restoration

pytest.importorskip("bentoml")
VARIANTS = {variant.id: variant for variant in ADAPTER.variants}
THEIRS = [variant for variant in ADAPTER.variants if variant.id != "plain"]
"""The library's own routes."""

pytestmark = [*THEIR_WARNINGS]


def saved(model: Model, variant: str, folder: Path) -> Path:
    folder.mkdir()
    ADAPTER.build(model, VARIANTS[variant], folder)
    return folder


def attached_of(restoration: Restoration, key: str) -> Any:
    return restoration.attached[key]


@pytest.mark.covers("M1", "M2", "M3", "M12")
@pytest.mark.parametrize(
    ("model_id", "variant"),
    [
        ("d2_maskrcnn_tiny", "module"),
        ("d2_fasterrcnn_tiny", "module"),
        ("d2_maskrcnn_tiny", "predictor_mended"),
        ("tv_maskrcnn_tiny", "pytorch_mended"),
        ("d2_maskrcnn_tiny", "plain"),
        ("d2_fcos_tiny", "plain"),
        ("tv_maskrcnn_tiny", "plain"),
    ],
)
def test_the_moved_store_alone_gives_the_live_model_back(model_id: str, variant: str, tmp_path: Path) -> None:
    if model_id.startswith("d2"):
        pytest.importorskip("detectron2")
    model = changed_in_memory(model_id, tmp_path / "source")
    before, wanted = state(model), expected(model)
    artifact = saved(model, variant, tmp_path / "artifact")
    rmtree(tmp_path / "source")
    with ADAPTER.open(artifact.rename(tmp_path / "moved"), VARIANTS[variant], "cpu") as session:
        assert isinstance(session, DetectorSession)
        back = came_back(model, session.restored)
        assert back.tensors == before.tensors
        assert back.config in (before.config, None)
        assert not back.training
        for key in ("labels", "signatures", "custom_objects"):
            assert attached_of(back, key) == attached_of(before, key)
        metadata = dict(attached_of(back, "metadata"))
        assert metadata.pop("_is_predictor", None) == {"module": False}.get(variant)
        assert metadata == attached_of(before, "metadata")
        assert_bit_equal([session.predict([picture])[0] for picture in pictures()], wanted)
        assert (session.effective.precision, session.effective.device) == ("fp32", "cpu")
        assert "bentoml" in session.effective.versions


@pytest.mark.covers("M1")
def test_two_stores_in_one_process_are_told_apart_and_what_was_loaded_can_be_saved(tmp_path: Path) -> None:
    pytest.importorskip("detectron2")
    environment = dict(os.environ)
    model = changed_in_memory("d2_fasterrcnn_tiny", tmp_path / "source")
    first = saved(model, "module", tmp_path / "first")
    with ADAPTER.open(first, VARIANTS["module"], "cpu") as session:
        second = saved(again(model, session.restored), "module", tmp_path / "second")
        once = came_back(model, session.restored)
    rmtree(first)
    with ADAPTER.open(second, VARIANTS["module"], "cpu") as session:
        twice = came_back(model, session.restored)
    assert (once.tensors, once.config, once.attached) == (twice.tensors, twice.config, twice.attached)
    assert dict(os.environ) == environment
    assert [path.name for path in (second / "models").iterdir()] == ["d2_fasterrcnn_tiny"]


@pytest.mark.covers("M2")
def test_the_documented_predictor_route_is_left_as_it_is(tmp_path: Path) -> None:
    """See the finding bentoml-predictor-weights: it reads the checkpoint again, and needs it."""
    pytest.importorskip("detectron2")
    model = changed_in_memory("d2_fasterrcnn_tiny", tmp_path / "source")
    before = state(model)
    artifact = saved(model, "predictor", tmp_path / "artifact")
    with ADAPTER.open(artifact, VARIANTS["predictor"], "cpu") as session:
        assert came_back(model, session.restored).tensors != before.tensors
    rmtree(tmp_path / "source")
    with pytest.raises(AssertionError, match="not found"), ADAPTER.open(artifact, VARIANTS["predictor"], "cpu"):
        pass


@pytest.mark.covers("M3")
def test_what_saving_does_to_the_callers_dictionaries_is_seen(tmp_path: Path) -> None:
    """See the finding bentoml-callers-dictionaries: the adapter hands over the caller's own objects."""
    pytest.importorskip("detectron2")
    model = changed_in_memory("d2_fasterrcnn_tiny", tmp_path / "source")
    before = state(model)
    saved(model, "module", tmp_path / "artifact")
    after = state(model)
    assert (after.tensors, after.config) == (before.tensors, before.config)
    assert attached_of(after, "metadata") != attached_of(before, "metadata")
    assert sorted(model.attached["custom_objects"]) == ["classes", "config", "thresholds"]


def test_the_documented_pytorch_route_is_left_as_it_is(tmp_path: Path) -> None:
    """See the finding bentoml-pytorch-load."""
    artifact = saved(changed_in_memory("tv_fasterrcnn_tiny", tmp_path / "source"), "pytorch", tmp_path / "artifact")
    with pytest.raises(pickle.UnpicklingError, match="weights_only"), ADAPTER.open(artifact, VARIANTS["pytorch"], "cpu"):
        pass


@pytest.mark.covers("M3")
def test_a_batchable_signature_comes_back_with_its_dimension(tmp_path: Path) -> None:
    model = changed_in_memory("tv_fasterrcnn_tiny", tmp_path / "source")
    asked = {"__call__": {"batchable": True, "batch_dim": (0, 0)}}
    artifact = saved(replace(model, attached={**model.attached, "signatures": asked}), "pytorch_mended", tmp_path / "artifact")
    with ADAPTER.open(artifact, VARIANTS["pytorch_mended"], "cpu") as session:
        assert session.restored.attached["signatures"] == asked


@pytest.mark.parametrize("variant", THEIRS, ids=lambda variant: variant.id)
def test_each_route_is_for_one_family(variant: Any) -> None:
    by_node = [spec for spec in MODELS.values() if not lazy_spec(spec)]
    declined = {spec.family for spec in by_node if ADAPTER.declines(spec, variant, "cpu")}
    assert len(declined) == 1
    assert declined | {spec.family for spec in by_node if not ADAPTER.declines(spec, variant, "cpu")} == set(FAMILIES)


@pytest.mark.parametrize("variant", THEIRS, ids=lambda variant: variant.id)
def test_a_lazy_configuration_is_declined_in_words(variant: Any) -> None:
    lazy = [spec for spec in MODELS.values() if lazy_spec(spec)]
    assert lazy
    assert all(ADAPTER.declines(spec, variant, "cpu") for spec in lazy)


@pytest.mark.covers("M3", "M12")
@pytest.mark.parametrize("variant", ["torchscript", "onnx"])
def test_a_stored_graph_answers_and_what_was_stored_beside_it_comes_back(variant: str, tmp_path: Path) -> None:
    model = changed_in_memory("tv_ssdlite_tiny", tmp_path / "source")
    wanted = expected(model)
    artifact = saved(model, variant, tmp_path / "artifact")
    rmtree(tmp_path / "source")
    with ADAPTER.open(artifact.rename(tmp_path / "moved"), VARIANTS[variant], "cpu") as session:
        assert isinstance(session, StoredGraphSession)
        assert comparable(dict(session.attached)) == comparable(dict(model.attached))
        assert (session.effective.precision, session.effective.device) == ("fp32", "cpu")
        assert session.effective.provider.startswith("BentoML model store, ")
        processor = family("torchvision").processor(model.spec)
        prepared = [processor.prepare(picture) for picture in pictures()]
        for given, picture, answer in zip(session.run_many(prepared), pictures(), wanted, strict=True):
            found = processor.finish(given, picture)
            assert len(found.scores) == len(answer.scores)
            assert np.allclose(np.sort(found.scores), np.sort(answer.scores), atol=1e-4)
            assert np.allclose(np.sort(found.boxes_xyxy_px, axis=0), np.sort(answer.boxes_xyxy_px, axis=0), atol=1e-2)


def test_the_plain_route_is_for_every_detector() -> None:
    assert not [spec.id for spec in MODELS.values() if ADAPTER.declines(spec, VARIANTS["plain"], "cpu")]


THEIRS = """
import torch

class Detector(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, given):
        return self.layer(given)
"""

ELSEWHERE = """
import sys, warnings
warnings.simplefilter("ignore")
import bentoml, torch
print(bentoml.pytorch.load_model(sys.argv[1], weights_only=False)(torch.ones(1, 2)).item())
"""


@pytest.mark.covers("M1")
@pytest.mark.parametrize("training", [True, False])
def test_the_librarys_routes_bring_a_module_back_in_the_mode_that_it_was_saved_in(training: bool, tmp_path: Path) -> None:
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
    home = tmp_path / "home"
    home.mkdir()
    with bentoml_home(home), expected_warnings():
        import bentoml

        graph = torch.jit.trace(module.eval(), torch.ones(1, 2)).train(training)
        whole = bentoml.pytorch.save_model("whole", module.train(training)).tag
        traced = bentoml.torchscript.save_model("traced", graph).tag
        assert bentoml.pytorch.load_model(whole, weights_only=False).training is training
        assert bentoml.torchscript.load_model(traced).training is training


@pytest.mark.covers("M1")
@pytest.mark.parametrize("external", [True, False])
def test_a_model_class_that_cannot_be_imported_travels_as_an_external_module_alone(
    external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "my_detector.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path / "theirs")
    my_detector = importlib.import_module("my_detector")
    # Gone again after the test.
    monkeypatch.delitem(sys.modules, "my_detector")
    monkeypatch.setitem(sys.modules, "my_detector", my_detector)
    model = my_detector.Detector()
    home = tmp_path / "home"
    home.mkdir()
    with bentoml_home(home):
        import bentoml

        tag = bentoml.pytorch.save_model("theirs", model, external_modules=[my_detector] if external else None).tag
    elsewhere = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tag)], capture_output=True, text=True, check=False, cwd=home, env=elsewhere
    )
    if external:
        assert done.returncode == 0, done.stderr
        assert float(done.stdout.splitlines()[-1]) == model(torch.ones(1, 2)).item()
    else:
        assert "No module named 'my_detector'" in done.stderr
