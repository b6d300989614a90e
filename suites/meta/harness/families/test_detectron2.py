"""The Detectron2 family against Detectron2 itself: prepared tensors, answers and instances, bit for bit."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.checks.differences import unequal
from harness.detections import Detections, Pixels
from harness.errors import Broken, HarnessError, MalformedDetections, Unavailable, UnreadableConfig, WrongDigest
from harness.families import Model, family
from harness.families import detectron2 as detectron2_family
from harness.fixtures.models import MODELS
from harness.fixtures.scenes import SceneRecipe, draw
from harness.types import ModelSpec

pytest.importorskip("detectron2")

# Said by the libraries on import or by Detectron2's own calls; none is ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore:pkg_resources is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:Deprecated call to `pkg_resources:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning"),
]

MASK, BOX = MODELS["d2_maskrcnn_tiny"], MODELS["d2_fasterrcnn_tiny"]
# Native, shrunk to the longest side, stretched, portrait, and longer than MAX_SIZE_TEST allows.
SIZES = ((160, 192), (240, 321), (75, 99), (171, 113), (90, 330))
FAMILY: Any = family("detectron2")


@dataclass(frozen=True)
class Live:
    """A built model, a picture of each size with objects in it, and a blank one."""

    model: Model
    pictures: tuple[Pixels, ...]

    @property
    def predictor(self) -> Any:
        return self.model.native["predictor"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=[MASK, BOX], ids=lambda spec: spec.id)
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Live:
    folder = tmp_path_factory.mktemp(request.param.id)
    scenes = tuple(draw(SceneRecipe(h, w, (5, 9), (12, 50), seed=h)).pixels for h, w in SIZES)
    model = FAMILY.build(request.param, FAMILY.materialise(request.param, folder), scenes[0])
    return Live(model, (*scenes, np.full((100, 140, 3), 90, np.uint8)))


def answers(model: Model, picture: Pixels, margins: bool = False) -> Detections:
    return FAMILY.predict(model.module, model.config, [picture], margins)[0]


def assert_bit_equal(found: Detections, instances: Any) -> None:
    """``instances`` is Detectron2's own answer."""
    assert found.boxes_xyxy_px.tobytes() == instances.pred_boxes.tensor.numpy().tobytes()
    assert found.scores.tobytes() == instances.scores.numpy().tobytes()
    assert found.labels.tobytes() == instances.pred_classes.numpy().tobytes()
    assert (found.masks is None) == (not instances.has("pred_masks"))
    if found.masks is not None:
        for index, mask in enumerate(instances.pred_masks.numpy()):
            np.testing.assert_array_equal(found.masks.full(index), mask)


@pytest.mark.covers("M11")
def test_the_two_models_take_different_channel_orders() -> None:
    assert {detectron2_family.read_config(spec).INPUT.FORMAT for spec in (MASK, BOX)} == {"RGB", "BGR"}


@pytest.mark.covers("M11")
def test_prepared_tensors_are_the_predictors_bit_for_bit(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[Any] = []

    def remember(inputs: list[dict[str, Any]]) -> list[None]:
        fed.append(inputs[0]["image"].numpy())
        return [None]

    monkeypatch.setattr(live.predictor, "model", remember)
    processor = FAMILY.processor(live.model.spec)
    for picture in live.pictures:
        live.predictor(picture[:, :, ::-1])
        prepared = processor.prepare(picture)
        assert list(prepared) == ["image"]
        assert prepared["image"].dtype == np.float32
        assert prepared["image"].shape == fed[-1].shape
        assert prepared["image"].tobytes() == fed[-1].tobytes()
    longest = {max(image.shape[1:]) for image in fed}
    assert max(longest) == live.model.config.INPUT.MAX_SIZE_TEST
    assert any(image.shape[1:] == picture.shape[:2] for image, picture in zip(fed, live.pictures, strict=True))


@pytest.mark.covers("M11")
def test_answers_are_the_predictors_bit_for_bit(live: Live) -> None:
    found = [answers(live.model, picture) for picture in live.pictures]
    for picture, answer in zip(live.pictures, found, strict=True):
        assert_bit_equal(answer, live.predictor(picture[:, :, ::-1])["instances"])
    assert all(len(answer) for answer in found[:-1])


@pytest.mark.covers("M7")
def test_answers_are_the_plain_models_bit_for_bit(live: Live) -> None:
    import torch

    for picture in live.pictures:
        image = detectron2_family.prepare_pixels(live.model.config, picture)
        with torch.no_grad():
            given = [{"image": image, "height": picture.shape[0], "width": picture.shape[1]}]
            assert_bit_equal(answers(live.model, picture), live.model.module(given)[0]["instances"])


def test_swapped_channels_change_the_answer(live: Live) -> None:
    picture = live.pictures[0]
    swapped = answers(live.model, np.ascontiguousarray(picture[:, :, ::-1]))
    assert swapped.scores.tobytes() != answers(live.model, picture).scores.tobytes()


def test_answers_come_back_in_the_order_of_the_pictures(live: Live) -> None:
    mixed = [live.pictures[0], live.pictures[1], np.ascontiguousarray(live.pictures[0][::-1]), live.pictures[-1]]
    together = FAMILY.predict(live.model.module, live.model.config, mixed)
    assert [len(answer) for answer in together] == [len(answers(live.model, picture)) for picture in mixed]
    for alone, answer in zip([answers(live.model, picture) for picture in mixed], together, strict=True):
        np.testing.assert_array_equal(answer.labels, alone.labels)
        np.testing.assert_allclose(answer.boxes_xyxy_px, alone.boxes_xyxy_px, atol=1e-2)


@pytest.mark.covers("M8", "M10")
def test_the_graph_between_prepare_and_finish_answers_as_the_model(live: Live) -> None:
    import torch

    processor, graph = FAMILY.processor(live.model.spec), live.model.graph
    assert graph.outputs == (
        ("boxes", "classes", "masks", "scores", "image_size")
        if live.model.spec.task == "segmentation"
        else ("boxes", "classes", "scores", "image_size")
    )
    for picture in live.pictures:
        tensors = [torch.from_numpy(value.copy()) for value in processor.prepare(picture).values()]
        outputs = dict(zip(graph.outputs, (value.numpy() for value in graph.module(*tensors)), strict=True))
        found, expected = processor.finish(outputs, picture), answers(live.model, picture)
        assert found.boxes_xyxy_px.tobytes() == expected.boxes_xyxy_px.tobytes()
        assert found.scores.tobytes() == expected.scores.tobytes()
        assert found.labels.tobytes() == expected.labels.tobytes()
        if expected.masks is not None:
            assert found.masks is not None
            for index in range(len(expected)):
                np.testing.assert_array_equal(found.masks.full(index), expected.masks.full(index))
                np.testing.assert_array_equal(found.masks.near(index), expected.masks.near(index))


def traced(live: Live, picture: Pixels) -> tuple[Any, ...]:
    return tuple(live.model.graph.module(detectron2_family.prepare_pixels(live.model.config, picture)))


@pytest.mark.covers("M10")
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.9])
def test_instances_are_the_models_above_the_threshold(live: Live, threshold: float) -> None:
    kept = 0
    for picture in live.pictures[1:]:  # none of them square, none at the network's own size
        height, width = picture.shape[:2]
        instances = detectron2_family.to_instances(traced(live, picture), height, width, threshold)
        expected = live.predictor(picture[:, :, ::-1])["instances"]
        assert instances.image_size == (height, width)
        assert sorted(instances.get_fields()) == sorted(expected.get_fields())
        assert_bit_equal(detectron2_family.detections_of(instances), expected[expected.scores >= threshold])
        kept += len(instances)
    assert kept > 0


@pytest.mark.covers("M10")
def test_thresholds_tell_detections_apart(live: Live) -> None:
    outputs = traced(live, live.pictures[1])
    counts = [len(detectron2_family.to_instances(outputs, 240, 321, threshold)) for threshold in (0.0, 0.9, 1.01)]
    assert counts[0] > counts[1] >= counts[2] == 0


@pytest.mark.covers("M10")
def test_instances_of_nothing(live: Live) -> None:
    *found, image_size = traced(live, live.pictures[-1])
    outputs = [*(value[:0] for value in found), image_size]
    instances = detectron2_family.to_instances(outputs, 100, 140)
    assert len(instances) == 0
    if live.model.spec.task == "segmentation":
        assert tuple(instances.pred_masks.shape) == (0, 100, 140)


@pytest.mark.covers("M10")
def test_outputs_may_be_read_only_arrays_and_are_left_as_they_are(live: Live) -> None:
    outputs = [value.numpy().copy() for value in traced(live, live.pictures[1])]
    for value in outputs:
        value.flags.writeable = False
    before = [value.copy() for value in outputs]
    instances = detectron2_family.to_instances(outputs, 240, 321)
    for value, kept in zip(outputs, before, strict=True):
        np.testing.assert_array_equal(value, kept)
    assert_bit_equal(answers(live.model, live.pictures[1]), instances)


@pytest.mark.covers("M10")
@pytest.mark.parametrize("count", [0, 3, 6])
def test_another_number_of_outputs_is_an_error(count: int) -> None:
    with pytest.raises(MalformedDetections, match=f"{count} outputs"):
        detectron2_family.to_instances([np.zeros((0, 4), np.float32)] * count, 10, 10)


def test_near_pixels_are_those_on_the_threshold(live: Live) -> None:
    if live.model.spec.task != "segmentation":
        assert all(answers(live.model, picture).masks is None for picture in live.pictures)
        return
    from detectron2.layers.mask_ops import paste_masks_in_image

    picture = live.pictures[1]
    found, instances = answers(live.model, picture, margins=True), live.predictor(picture[:, :, ::-1])["instances"]
    # A negative threshold makes Detectron2 paste probabilities, as bytes: floor(255 p).
    soft = paste_masks_in_image(traced(live, picture)[2][:, 0], instances.pred_boxes, picture.shape[:2], threshold=-1).numpy()
    near = np.stack([found.masks.near(index) for index in range(len(found))])
    assert near.any()
    assert not (near & ((soft < 124) | (soft > 130))).any()
    assert near[(soft >= 125) & (soft <= 129)].all()
    unmarked = answers(live.model, picture)
    assert unequal(found, unmarked) == ""
    assert unmarked.masks.near_crops is None


def test_the_spec_sets_threshold_cap_and_classes() -> None:
    config = detectron2_family.read_config(replace(MASK, score_threshold=0.31, detection_cap=7))
    assert config.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.31
    assert config.TEST.DETECTIONS_PER_IMAGE == 7
    assert len(MASK.classes) == config.MODEL.ROI_HEADS.NUM_CLASSES


def broken_config(**changes: Any) -> ModelSpec:
    return replace(MASK, config={**MASK.config, **changes})


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (broken_config(opts={"MODEL.RESNETS.RES9_OUT_CHANNELS": 1}), "MODEL.RESNETS.RES9_OUT_CHANNELS"),
        (broken_config(opts={"INPUT.FORMAT": 7}), "INPUT.FORMAT"),
        (broken_config(zoo="COCO-Detection/no_such.yaml"), "COCO-Detection/no_such.yaml"),
        (broken_config(file="also.yaml"), "file"),
        (broken_config(yaml="x"), "yaml"),
    ],
    ids=["no such key", "wrong type", "no such zoo entry", "two starts", "no such word"],
)
@pytest.mark.covers("M7")
def test_a_config_that_cannot_be_read_is_named(spec: ModelSpec, named: str) -> None:
    with pytest.raises(UnreadableConfig, match=named):
        detectron2_family.read_config(spec)


def test_a_users_own_config_file_is_read_and_runs_no_code(tmp_path: Path) -> None:
    own, hostile, mark = tmp_path / "own.yaml", tmp_path / "hostile.yaml", tmp_path / "mark"
    own.write_text(detectron2_family.read_config(BOX).dump())
    hostile.write_text(f"MODEL:\n  MASK_ON: !!python/object/apply:os.mkdir ['{mark}']\n")
    spec = replace(BOX, config={"file": str(own)})
    assert FAMILY.config_text(detectron2_family.read_config(spec)) == FAMILY.config_text(detectron2_family.read_config(BOX))
    with pytest.raises(UnreadableConfig, match=r"hostile\.yaml"):
        detectron2_family.read_config(replace(BOX, config={"file": str(hostile)}))
    assert not mark.exists()


def test_config_text_tells_configurations_apart_but_not_hosts() -> None:
    first, second = detectron2_family.read_config(MASK), detectron2_family.read_config(MASK)
    second.MODEL.WEIGHTS, second.MODEL.DEVICE, second.OUTPUT_DIR = "/elsewhere/model_final.pth", "cuda", "/elsewhere"
    second.freeze()
    assert FAMILY.config_text(first) == FAMILY.config_text(second)
    assert second.MODEL.DEVICE == "cuda"
    third = detectron2_family.read_config(MASK)
    third.MODEL.RPN.NMS_THRESH = 0.69
    assert FAMILY.config_text(first) != FAMILY.config_text(third)
    assert json.loads(FAMILY.config_text(third))["MODEL"]["RPN"]["NMS_THRESH"] == 0.69


def test_every_shipped_tensor_is_in_the_checkpoint_and_in_the_model(live: Live, tmp_path: Path) -> None:
    import torch
    from safetensors.numpy import load_file

    from harness.families.checkpoints import weights_file

    shipped = load_file(weights_file(live.model.spec.weights))
    stored = torch.load(FAMILY.materialise(live.model.spec, tmp_path), weights_only=True)
    assert list(stored) == ["model"]
    state = live.model.module.state_dict()
    assert shipped.keys() == stored["model"].keys() == state.keys()
    for name, value in shipped.items():
        assert stored["model"][name].dtype in (torch.float32, torch.int64)
        np.testing.assert_array_equal(state[name].numpy(), value.astype(state[name].numpy().dtype))
    assert not any(part.training for part in live.model.module.modules())


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    picture = np.zeros((160, 192, 3), np.uint8)
    with pytest.raises(HarnessError, match="mask_head"):
        FAMILY.build(MASK, FAMILY.materialise(BOX, tmp_path), picture)


def test_a_changed_weights_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongDigest):
        FAMILY.materialise(replace(MASK, weights=replace(MASK.weights, sha256="0" * 64)), tmp_path)


def test_losses_reach_every_part_and_take_a_scene_without_objects() -> None:
    import torch

    module, config = FAMILY.construct(MASK)
    assert module.training
    scenes = [draw(SceneRecipe(120, 150, count, (20, 50), seed=4)) for count in ((4, 6), (0, 0))]
    losses = FAMILY.losses(module, config, [scene.pixels for scene in scenes], scenes)
    assert sorted(losses) == ["loss_box_reg", "loss_cls", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"]
    total = sum(losses.values(), torch.zeros(()))
    total.backward()
    assert torch.isfinite(total)
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("cause", "error", "cure"),
    [
        (ModuleNotFoundError("no", name="detectron2"), Unavailable, "02b5c4e2"),
        (ModuleNotFoundError("no", name="pkg_resources"), Broken, "setuptools<81"),
        (ModuleNotFoundError("no", name="fvcore"), Broken, "fvcore"),
        (ImportError("_C.so: undefined symbol: _ZN2at"), Broken, "undefined symbol"),
    ],
    ids=["absent", "pkg_resources gone", "a dependency gone", "built for another torch"],
)
def test_a_library_that_is_absent_or_broken_is_told_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, cause: ImportError, error: type[HarnessError], cure: str
) -> None:
    def refuse(_name: str) -> None:
        raise cause

    monkeypatch.setattr(detectron2_family, "import_module", refuse)
    with pytest.raises(error, match=cure):
        FAMILY.processor(MASK)


def test_knowing_the_family_imports_no_library() -> None:
    code = "import sys, harness.families.detectron2; print({'torch', 'detectron2'} & set(sys.modules))"
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert importlib.import_module("harness.families.detectron2").FAMILY.requires == ("torch", "detectron2")
