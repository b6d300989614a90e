"""Weights that nobody trained: that detections stand apart, that nothing else was changed, and who is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from harness.conditioned import PICTURES, SEED, conditioned
from harness.errors import HarnessError
from harness.families import conditioning, family
from harness.families.checkpoints import weights_file
from harness.families.conditioning import FEWEST, condition
from harness.fixtures.decks import deck
from harness.fixtures.full_size import FULL_SIZE
from harness.fixtures.models import MODELS
from harness.types import ModelSpec, Weights

if TYPE_CHECKING:
    from harness.detections import Pixels

pytestmark = [
    pytest.mark.covers("M7"),
    pytest.mark.covers("M12"),
    pytest.mark.covers("M19"),
    # Detectron2's model zoo brings its own
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def untrained(model_id: str) -> ModelSpec:
    """A small architecture that has weights, without them, with as many classes, proposals and answers as one of full size."""
    known = MODELS[model_id]
    more: dict[str, Any] = {"proposals_before_nms": 1000, "proposals": 400}
    if known.family == "detectron2":
        many = {"MODEL.RPN.PRE_NMS_TOPK_TEST": 1000, "MODEL.RPN.POST_NMS_TOPK_TEST": 400}
        more = {"opts": {**known.config["opts"], **many}} if "rcnn" in model_id else {}
    return dataclasses.replace(
        known,
        id=f"{model_id}_untrained",
        config={**known.config, **more},
        weights=Weights("conditioned", "", ""),
        classes=tuple(f"class {index}" for index in range(20)),
        detection_cap=100,
    )


def pictures(*names: str) -> list[Pixels]:
    scenes = deck("scenes")
    return [scenes.pixels(name) for name in names or PICTURES]


def built(spec: ModelSpec) -> tuple[Any, Any]:
    import torch

    torch.manual_seed(SEED)
    module, config = family(spec.family).construct(spec)
    return module.eval(), config


def made_of(spec: ModelSpec) -> tuple[Any, Any, list[int]]:
    """The module, its configuration, and the detections that each picture has."""
    import torch

    module, config = built(spec)
    kind = family(spec.family)

    def answer(some: Sequence[Pixels]) -> list[int]:
        return [len(one) for one in kind.predict(module, config, some)]

    with torch.no_grad():
        background = 0 if spec.family == "torchvision" else len(spec.classes)
        return module, config, condition(module, answer, pictures(), spec.score_threshold, background)


@pytest.fixture(scope="module", params=["tv_maskrcnn_tiny", "d2_maskrcnn_tiny"])
def made(request: pytest.FixtureRequest) -> tuple[ModelSpec, Any, Any, list[int]]:
    if request.param.startswith("d2_"):
        pytest.importorskip("detectron2")
    spec = untrained(request.param)
    return spec, *made_of(spec)


def test_detections_stand_apart_on_pictures_that_were_not_used_too(made: tuple[ModelSpec, Any, Any, list[int]]) -> None:
    spec, module, config, found = made
    assert min(found) >= FEWEST
    for answer in family(spec.family).predict(module, config, pictures("even_5", "even_6", "crowded")):
        assert len(answer) >= FEWEST // 2
        assert len(set(answer.labels.tolist())) > 1
        assert len(np.unique(answer.scores)) > 0.9 * len(answer)
        assert (answer.scores >= spec.score_threshold).all()


def test_layers_give_what_is_neither_vanishing_nor_exploding(made: tuple[ModelSpec, Any, Any, list[int]]) -> None:
    import torch

    spec, module, config, _ = made
    seen: dict[str, float] = {}
    handles = [
        layer.register_forward_hook(lambda _, __, out, name=name: None if name in seen else seen.update({name: float(out.std())}))
        for name, layer in module.named_modules()
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))
    ]
    try:
        family(spec.family).predict(module, config, pictures("even_7"))
    finally:
        for handle in handles:
            handle.remove()
    assert len(seen) > 20
    assert {name: spread for name, spread in seen.items() if not 0.02 < spread < 50} == {}


def test_the_file_is_made_once_and_has_the_digest_that_is_demanded(tmp_path: Path) -> None:
    spec, said = untrained("tv_fasterrcnn_tiny"), []
    first = conditioned(spec, tmp_path, said.append)
    assert len(said) == 1
    assert "making weights for tv_fasterrcnn_tiny_untrained" in said[0]
    assert conditioned(spec, tmp_path, said.append) == first
    assert len(said) == 1
    file = weights_file(first.weights)
    assert file.parent == tmp_path / "conditioned"
    assert sorted(one.suffix for one in file.parent.iterdir()) == [".lock", ".safetensors"]
    from safetensors import safe_open

    with safe_open(file, "pt") as stored:
        counts = json.loads(stored.metadata()["detections"])
    assert len(counts) == len(PICTURES)
    assert min(counts) >= FEWEST
    model = family(spec.family).build(first, family(spec.family).materialise(first, tmp_path), pictures("even_0")[0])
    assert len(family(spec.family).predict(model.module, model.config, pictures("even_0"))[0]) == counts[0]
    other = conditioned(dataclasses.replace(spec, detection_cap=90), tmp_path, said.append)
    assert other.weights.path != first.weights.path
    assert len(said) == 2


@pytest.mark.parametrize("model_id", ["d2_cascade_maskrcnn_tiny", "d2_retinanet_tiny", "tv_fcos_tiny"])
def test_what_has_no_recipe_is_refused_by_name(model_id: str) -> None:
    """A cascade has three box heads, the others none."""
    if model_id.startswith("d2_"):
        pytest.importorskip("detectron2")
    with pytest.raises(HarnessError, match="there is no recipe for weights of a"):
        made_of(untrained(model_id))


def test_what_cannot_be_made_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"weights for tv_ssdlite_tiny_untrained cannot be made: there is no recipe .* of a SSD"):
        conditioned(untrained("tv_ssdlite_tiny"), tmp_path, lambda _: None)
    assert not list((tmp_path / "conditioned").glob("*.safetensors"))


def test_a_detector_that_answers_too_little_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditioning, "_DOUBLINGS", 1)
    with pytest.raises(HarnessError, match=f"detections a picture, {FEWEST} are needed"):
        made_of(dataclasses.replace(untrained("tv_fasterrcnn_tiny"), detection_cap=3))


def test_those_of_full_size_are_detectors_of_the_zoos_and_nobody_trained_them() -> None:
    assert list(FULL_SIZE) == ["d2_fasterrcnn_r50_fpn_1x", "d2_maskrcnn_r50_fpn_3x", "tv_fasterrcnn_r50_fpn"]
    assert not FULL_SIZE.keys() & MODELS.keys()
    for spec in FULL_SIZE.values():
        assert spec.weights == Weights("conditioned", "", "")


def test_torchvisions_full_size_detector_is_its_own() -> None:
    spec = FULL_SIZE["tv_fasterrcnn_r50_fpn"]
    module, _ = family("torchvision").construct(spec)
    assert sum(parameter.numel() for parameter in module.parameters()) > 40e6
    assert module.transform.min_size == (800,)
    assert module.roi_heads.detections_per_img == spec.detection_cap
    assert module.roi_heads.box_predictor.cls_score.out_features == len(spec.classes) + 1
