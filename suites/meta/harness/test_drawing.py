"""A drawing is what a user's own call of the library's drawing gives, channel by channel, on a picture that tells them apart."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
import pytest

from harness.detections import Detections, Masks, Pixels
from harness.drawing import colour, drawn
from harness.errors import UsageError
from harness.fixtures.models import MODELS
from harness.suites.meta.harness.adapters.detectors import THEIR_WARNINGS
from harness.types import ModelSpec

pytestmark = [pytest.mark.covers("M5"), *THEIR_WARNINGS]
HEIGHT_PX, WIDTH_PX = 90, 120
PICTURE = np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.uint8)
PICTURE[:, :60] = (220, 60, 10)
PICTURE[:, 60:] = (5, 90, 170)
PICTURE[60:, 30:90] = (40, 200, 120)
INSIDE = (50, 34)
"""A pixel that lies in the first mask alone, away from lines and words."""

OUTSIDE = (85, 115)
MASKS = np.zeros((2, HEIGHT_PX, WIDTH_PX), np.bool_)
MASKS[0, 30:56, 20:50] = True
MASKS[0, 36:40, 40:50] = False
MASKS[1, 25:75, 70:100] = True
ANSWER = Detections(
    np.array([[20, 30, 50, 56], [70, 25, 100, 75]], np.float32),
    np.array([0.874, 0.512], np.float32),
    np.array([2, 0], np.int64),
    masks=Masks.from_full(MASKS),
)
KEYPOINTS = np.array([[[25, 35, 0.9], [45, 50, 0.8]], [[75, 30, 0.9], [95, 70, 0.7]]], np.float32)


def detectron2_spec() -> ModelSpec:
    pytest.importorskip("detectron2")
    pytest.importorskip("cv2")
    return MODELS["d2_maskrcnn_tiny"]


def by_their_visualizer(picture: Pixels, answer: Detections, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> Pixels:
    """As Detectron2's tutorial draws a predictor's answer; but its colours, which it draws by lot, are the classes' own."""
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.structures import Boxes, Instances
    from detectron2.utils import visualizer

    name = f"drawing of {spec.id}"
    metadata = MetadataCatalog.get(name).set(thing_classes=list(spec.classes))
    fields: dict[str, Any] = {
        "pred_boxes": Boxes(torch.from_numpy(answer.boxes_xyxy_px)),
        "scores": torch.from_numpy(answer.scores),
        "pred_classes": torch.from_numpy(answer.labels),
    }
    if answer.masks is not None:
        fields["pred_masks"] = torch.from_numpy(np.stack([answer.masks.full(at) for at in range(len(answer))]))
    if answer.keypoints is not None:
        fields["pred_keypoints"] = torch.from_numpy(answer.keypoints)
    lot = cycle([np.array(colour(int(label))) / 255 for label in answer.labels])
    monkeypatch.setattr(visualizer, "random_color", lambda **_: next(lot))
    try:
        found = visualizer.Visualizer(picture, metadata).draw_instance_predictions(Instances(picture.shape[:2], **fields))
    finally:
        MetadataCatalog.remove(name)
    pixels: Pixels = found.get_image()
    return pixels


@pytest.mark.parametrize("has", ["boxes", "masks", "keypoints"])
def test_detectron2s_models_are_drawn_as_their_own_visualizer_does(has: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = detectron2_spec()
    answer = replace(ANSWER, masks=ANSWER.masks if has == "masks" else None, keypoints=KEYPOINTS if has == "keypoints" else None)
    found = drawn(PICTURE, answer, spec)
    wanted = by_their_visualizer(PICTURE, answer, spec, monkeypatch)
    assert found.dtype == np.uint8
    assert found.shape == wanted.shape == PICTURE.shape
    for channel in range(3):
        assert np.array_equal(found[:, :, channel], wanted[:, :, channel])
    assert not np.array_equal(found, PICTURE)
    assert not np.array_equal(found, by_their_visualizer(PICTURE[:, :, ::-1], answer, spec, monkeypatch)[:, :, ::-1])


def test_torchvisions_models_are_drawn_as_its_own_functions_do() -> None:
    import torch
    from torchvision import utils

    spec = MODELS["tv_maskrcnn_tiny"]
    inks = [colour(2), colour(0)]
    canvas = torch.from_numpy(PICTURE).permute(2, 0, 1)
    canvas = utils.draw_segmentation_masks(canvas, torch.from_numpy(MASKS), alpha=0.4, colors=inks)
    words = [f"{spec.classes[2]} 87%", f"{spec.classes[0]} 51%"]
    canvas = utils.draw_bounding_boxes(canvas, torch.from_numpy(ANSWER.boxes_xyxy_px), words, inks, width=2)
    assert np.array_equal(drawn(PICTURE, ANSWER, spec), canvas.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("model_id", "opacity"), [("tv_maskrcnn_tiny", 0.4), ("d2_maskrcnn_tiny", 0.5)])
def test_a_mask_has_its_classs_colour_in_every_channel(model_id: str, opacity: float) -> None:
    if model_id.startswith("d2"):
        detectron2_spec()
    found = drawn(PICTURE, ANSWER, MODELS[model_id])
    wanted = (1 - opacity) * PICTURE[INSIDE] + opacity * np.array(colour(2))
    assert np.abs(found[INSIDE] - wanted).max() <= 2
    assert np.array_equal(found[OUTSIDE], PICTURE[OUTSIDE])


@pytest.mark.parametrize("model_id", ["tv_maskrcnn_tiny", "d2_maskrcnn_tiny"])
def test_what_scores_less_is_left_out_and_the_picture_left_alone(model_id: str) -> None:
    if model_id.startswith("d2"):
        detectron2_spec()
    spec, before = MODELS[model_id], PICTURE.copy()
    assert np.array_equal(drawn(PICTURE, ANSWER, spec, min_score=0.6), drawn(PICTURE, ANSWER.take([0]), spec))
    nothing = drawn(PICTURE, ANSWER, spec, min_score=0.9)
    assert np.array_equal(nothing, PICTURE)
    assert nothing is not PICTURE
    assert np.array_equal(PICTURE, before)
    with pytest.raises(UsageError, match=r"is outside 0\.\.1"):
        drawn(PICTURE, ANSWER, spec, min_score=1.5)


def test_classes_have_colours_that_differ() -> None:
    assert len({colour(label) for label in range(80)}) == 80
