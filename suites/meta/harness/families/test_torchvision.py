"""The torchvision family against torchvision itself: one conversion, strict weights, and the same answers every time."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.checks.differences import unequal
from harness.detections import Detections, Pixels
from harness.errors import UnreadableConfig, WrongDigest
from harness.families import Model
from harness.families.attached import attached_for
from harness.families.torchvision import FAMILY, TorchvisionProcessor
from harness.fixtures.decks import deck
from harness.fixtures.models import MODELS
from harness.types import ModelSpec, Weights

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

pytestmark = pytest.mark.usefixtures("one_thread")
SPECS = {name: spec for name, spec in MODELS.items() if spec.family == "torchvision"}
QUICK = deck("quick")


@pytest.fixture(scope="module")
def pictures() -> dict[str, Pixels]:
    return {image.id: QUICK.pixels(image.id) for image in QUICK.images}


@pytest.fixture(scope="module", params=SPECS.values(), ids=list(SPECS))
def model(request: pytest.FixtureRequest, pictures: dict[str, Pixels], tmp_path_factory: pytest.TempPathFactory) -> Model:
    spec: ModelSpec = request.param
    return FAMILY.build(spec, FAMILY.materialise(spec, tmp_path_factory.mktemp(spec.id)), pictures["even_0"])


def _same(first: Detections, second: Detections) -> bool:
    """Equal to the bit, in order, masks and near pixels included."""
    arrays = all(
        getattr(first, name).tobytes() == getattr(second, name).tobytes() for name in ("boxes_xyxy_px", "scores", "labels")
    )
    if first.masks is None or second.masks is None:
        return arrays and first.masks is second.masks
    masks, others = first.masks, second.masks
    near, other_near = masks.near_crops or (), others.near_crops or ()
    return (
        arrays
        and masks.origins_xy_px.tobytes() == others.origins_xy_px.tobytes()
        and all(np.array_equal(a, b) for a, b in zip(masks.crops, others.crops, strict=True))
        and all(np.array_equal(a, b) for a, b in zip(near, other_near, strict=True))
    )


def _through_graph(model: Model, image: Pixels) -> Detections:
    ends = FAMILY.processor(model.spec)
    inputs = [torch.from_numpy(np.array(value)) for value in ends.prepare(image).values()]
    with torch.no_grad():
        outputs = model.graph.module(*inputs)
    return ends.finish(dict(zip(model.graph.outputs, (output.numpy() for output in outputs), strict=True)), image)


def test_prepare_is_torchvisions_own_to_tensor(pictures: dict[str, Pixels]) -> None:
    from torchvision.transforms.functional import to_tensor

    ends = FAMILY.processor(SPECS["tv_fasterrcnn_tiny"])
    for image in pictures.values():
        prepared = ends.prepare(image)
        assert list(prepared) == ["image"]
        assert prepared["image"].dtype == np.float32
        assert prepared["image"].tobytes() == to_tensor(image).numpy().tobytes()


def test_finish_counts_classes_from_zero_and_thresholds_masks() -> None:
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    soft = np.zeros((2, 1, 4, 6), dtype=np.float32)
    soft[0, 0, 1, 1:4] = (0.5, 0.495, 0.48)
    soft[1, 0, 3, 5] = 0.9
    outputs = {
        "boxes": np.array([[1, 1, 4, 2], [5, 3, 6, 4]], dtype=np.float64),
        "labels": np.array([1, 3], dtype=np.int32),
        "scores": np.array([0.9, 0.2], dtype=np.float64),
        "masks": soft,
    }
    found = TorchvisionProcessor(margins=True).finish(outputs, image)
    assert found.labels.tolist() == [0, 2]
    assert found.boxes_xyxy_px.dtype == found.scores.dtype == np.float32
    assert found.masks is not None
    assert np.argwhere(found.masks.full(0)).tolist() == [[1, 1]]
    near = found.masks.near(0)
    assert near is not None
    assert np.argwhere(near).tolist() == [[1, 1], [1, 2]]
    assert np.argwhere(found.masks.full(1)).tolist() == [[3, 5]]
    unmarked = TorchvisionProcessor().finish(outputs, image)
    assert unequal(found, unmarked) == ""
    assert unmarked.masks is not None
    assert unmarked.masks.near_crops is None


@pytest.mark.parametrize("masks", [False, True])
def test_finish_of_no_detection(masks: bool) -> None:
    outputs = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, np.int64), "scores": np.zeros(0)}
    if masks:
        outputs["masks"] = np.zeros((0, 1, 5, 7))
    found = FAMILY.processor(SPECS["tv_maskrcnn_tiny"]).finish(outputs, np.zeros((5, 7, 3), dtype=np.uint8))
    assert len(found) == 0
    assert (found.masks is not None) == masks


@pytest.mark.covers("M12")
def test_eager_and_prepare_graph_finish_are_equal_to_the_bit(model: Model, pictures: dict[str, Pixels]) -> None:
    found = 0
    for image in pictures.values():
        eager = FAMILY.predict(model.module, model.config, [image])[0]
        assert _same(eager, _through_graph(model, image))
        found += len(eager)
    assert found > 20


def test_eager_is_bit_stable_at_one_thread(model: Model, pictures: dict[str, Pixels]) -> None:
    images = list(pictures.values())
    first, second = (FAMILY.predict(model.module, model.config, images) for _ in range(2))
    assert all(_same(a, b) for a, b in zip(first, second, strict=True))


def test_answers_come_in_the_order_of_the_images_whatever_their_sizes(model: Model, pictures: dict[str, Pixels]) -> None:
    """Equal sizes are batched, unequal ones never padded to each other: a batch answers as its images do one by one."""
    names = ["even_0", "blank", "even_1", "stretched_square", "even_2"]
    together = FAMILY.predict(model.module, model.config, [pictures[name] for name in names])
    for name, answer in zip(names, together, strict=True):
        alone = FAMILY.predict(model.module, model.config, [pictures[name]])[0]
        assert len(answer) == len(alone)
        np.testing.assert_allclose(answer.boxes_xyxy_px, alone.boxes_xyxy_px, atol=1e-2)
        np.testing.assert_allclose(answer.scores, alone.scores, atol=1e-4)


def test_the_sample_has_detections(model: Model) -> None:
    assert len(FAMILY.predict(model.module, model.config, [model.sample])[0]) > 3


def test_swapped_colour_channels_change_the_answer(model: Model, pictures: dict[str, Pixels]) -> None:
    image = pictures["even_0"]
    right, swapped = FAMILY.predict(model.module, model.config, [image, np.ascontiguousarray(image[:, :, ::-1])])
    assert len(right) != len(swapped) or float(np.abs(right.scores - swapped.scores).max()) > 0.05


def test_the_graph_names_what_it_takes_and_gives(model: Model) -> None:
    more = {"detection": (), "segmentation": ("masks",), "keypoints": ("keypoints", "keypoints_scores")}[model.spec.task]
    assert model.graph.outputs == ("boxes", "labels", "scores", *more)
    assert set(model.graph.dynamic_axes) == {"image", *model.graph.outputs}
    assert tuple(model.graph.example["image"].shape) == (3, *model.sample.shape[:2])
    assert not model.graph.module.training
    assert not model.module.training


def test_a_saved_module_needs_torchvision_only(model: Model) -> None:
    """A pickled module that named classes of this project could not be loaded by torchvision's users."""
    assert {type(part).__module__.partition(".")[0] for part in model.module.modules()} == {"torch", "torchvision"}
    torch.save(model.module, io.BytesIO())


def test_a_checkpoint_with_a_tensor_too_few_or_too_many_is_refused(model: Model, tmp_path: Path) -> None:
    state = model.module.state_dict()
    name = next(iter(state))
    for wrong in ({key: value for key, value in state.items() if key != name}, {**state, "extra": torch.zeros(1)}):
        torch.save(wrong, tmp_path / "wrong.pth")
        with pytest.raises(RuntimeError, match=f"{name}|extra"):
            FAMILY.build(model.spec, tmp_path / "wrong.pth", model.sample)


def test_materialised_weights_are_fp32_and_all_there(model: Model, tmp_path: Path) -> None:
    stored = torch.load(FAMILY.materialise(model.spec, tmp_path), weights_only=True)
    state = model.module.state_dict()
    assert set(stored) == set(state)
    assert {value.dtype for value in stored.values()} <= {torch.float32, torch.int64}
    assert all(torch.equal(stored[name], state[name]) for name in state)


def test_a_wrong_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not what was pinned")
    spec = replace(SPECS["tv_fasterrcnn_tiny"], weights=Weights("path", str(path), "0" * 64))
    with pytest.raises(WrongDigest):
        FAMILY.materialise(spec, tmp_path)


def test_a_config_that_cannot_be_read_says_what_is_wrong() -> None:
    spec = SPECS["tv_fasterrcnn_tiny"]
    with pytest.raises(UnreadableConfig, match="retinanet_mobilenet_v3_small_fpn"):
        FAMILY.construct(replace(spec, config={**spec.config, "architecture": "yolo"}))
    with pytest.raises(UnreadableConfig, match="fpn_channels"):
        FAMILY.construct(replace(spec, config={key: value for key, value in spec.config.items() if key != "fpn_channels"}))


def test_equal_configurations_have_equal_text() -> None:
    spec = SPECS["tv_fasterrcnn_tiny"]
    first, again = FAMILY.construct(spec)[1], FAMILY.construct(spec)[1]
    assert FAMILY.config_text(first) == FAMILY.config_text(dict(reversed(again.items())))
    assert FAMILY.config_text(first) != FAMILY.config_text(FAMILY.construct(replace(spec, detection_cap=7))[1])


def test_every_parameter_learns() -> None:
    """Nothing is frozen: one scene gives every parameter of a Mask R-CNN a gradient."""
    torch.manual_seed(0)
    module, config = FAMILY.construct(SPECS["tv_maskrcnn_tiny"])
    scene = QUICK.truth("even_0")
    losses = FAMILY.losses(module, config, [scene.pixels] * 2, [scene] * 2)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == []


@pytest.mark.covers("M3")
def test_what_is_attached_survives_the_store_that_is_strictest() -> None:
    """BentoML validates labels and metadata; objects are fresh on every call, so no route can change another's."""
    spec = SPECS["tv_fasterrcnn_tiny"]
    first, second = attached_for(spec), attached_for(spec)
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in first["labels"].items())
    utils = pytest.importorskip("bentoml._internal.utils")
    utils.validate_labels(first["labels"])
    utils.validate_metadata(first["metadata"])
    assert first["metadata"] == second["metadata"], "the store's own validation changed an entry"
    first["metadata"]["nested"]["inner"]["deeper"].append(3)
    assert first["metadata"] != attached_for(spec)["metadata"]
    assert first["custom_objects"]["thresholds"].dtype == np.float32
