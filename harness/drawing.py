"""An answer drawn onto its picture: box, name and score of every detection, in one colour a class.

Detectron2's models are drawn by its own `Visualizer`, torchvision's by `torchvision.utils`; both take the same colours.
"""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from harness.detections import Detections, Pixels
    from harness.types import ModelSpec

_GOLDEN = 0.618033988749895
"""Hues that far apart stay apart, however many there are."""

_LINE_PX = 2
_KEYPOINT_PX = 2


def colour(label: int) -> tuple[int, int, int]:
    """The colour of a class, RGB in 0..255: the same for a label wherever it is drawn."""
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1, 0.85, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def drawn(picture: Pixels, answer: Detections, spec: ModelSpec, min_score: float = 0.0) -> Pixels:
    """A copy of the picture, ``uint8 [H, W, 3]``, with the detections that score ``min_score`` (0..1) or more.

    Raises `UsageError` for a score outside 0..1, `harness.errors.Unavailable` where the family's library is not installed.
    """
    if not 0 <= min_score <= 1:
        raise UsageError(f"a score of {min_score} is outside 0..1", "Give one in 0..1.")
    kept = answer.take(np.flatnonzero(answer.scores >= min_score))
    if not len(kept.scores):
        return picture.copy()
    draw = _by_detectron2 if spec.family == "detectron2" else _by_torchvision
    found: Pixels = draw(picture, kept, _captions(kept, spec))
    return found


def _captions(answer: Detections, spec: ModelSpec) -> list[str]:
    return [f"{spec.classes[label]} {score:.0%}" for label, score in zip(answer.labels, answer.scores, strict=True)]


def _full_masks(answer: Detections) -> Any:
    masks = answer.masks
    return None if masks is None else np.stack([masks.full(index) for index in range(len(masks))])


def _by_detectron2(picture: Pixels, answer: Detections, captions: list[str]) -> Pixels:
    from harness.families.detectron2 import require

    require()
    try:
        from detectron2.utils.visualizer import Visualizer
    except ModuleNotFoundError as error:
        # Detectron2 asks for OpenCV there alone, and does not install it.
        raise Unavailable(
            f"Detectron2's Visualizer needs {error.name}, which is not installed", "pip install 'detection-harness[serve]'"
        ) from error

    canvas = Visualizer(picture, metadata=None, scale=1.0)
    drawing = canvas.overlay_instances(
        boxes=answer.boxes_xyxy_px,
        labels=captions,
        masks=_full_masks(answer),
        keypoints=answer.keypoints,
        assigned_colors=[tuple(channel / 255 for channel in colour(int(label))) for label in answer.labels],
    )
    found: Pixels = np.ascontiguousarray(drawing.get_image())
    return found


def _by_torchvision(picture: Pixels, answer: Detections, captions: list[str]) -> Pixels:
    import torch
    from torchvision.utils import draw_bounding_boxes, draw_keypoints, draw_segmentation_masks

    colours = [colour(int(label)) for label in answer.labels]
    canvas = torch.from_numpy(picture.copy()).permute(2, 0, 1)
    masks = _full_masks(answer)
    if masks is not None:
        canvas = draw_segmentation_masks(canvas, torch.from_numpy(masks), alpha=0.4, colors=colours)
    canvas = draw_bounding_boxes(canvas, torch.from_numpy(answer.boxes_xyxy_px), captions, colours, width=_LINE_PX)
    if answer.keypoints is not None:
        for points, rgb in zip(torch.from_numpy(answer.keypoints), colours, strict=True):
            canvas = draw_keypoints(canvas, points[None, :, :2], colors=rgb, radius=_KEYPOINT_PX)
    found: Pixels = np.ascontiguousarray(canvas.permute(1, 2, 0).numpy())
    return found
