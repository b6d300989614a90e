"""Detectron2's answers: traced outputs as ``Instances``, and ``Instances`` as `Detections` of the original image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import MalformedDetections
from harness.types import Detections, Masks

if TYPE_CHECKING:
    import torch

OUTPUTS = ("boxes", "classes", "scores", "image_size")
OUTPUTS_WITH_MASKS = ("boxes", "classes", "masks", "scores", "image_size")
MASK_THRESHOLD = 0.5
NEAR_THRESHOLD = 0.01
_PROBABILITIES = "mask_probabilities"


def to_instances(outputs: Sequence[Any], height: int, width: int, conf_threshold: float = 0.0) -> Any:
    """Outputs in the traced order as Detectron2 ``Instances`` at ``height`` x ``width`` px, through `detector_postprocess`.

    ``outputs``: boxes ``float32 [N, 4]`` xyxy px of the resized frame, classes ``int64 [N]``, masks ``float32 [N, 1, M, M]`` in
    0..1 if there are any, scores ``float32 [N]`` in 0..1, image size ``[2]`` (height, width of the resized frame, px); tensors or
    arrays, left as they are. Detections with a score below ``conf_threshold`` are dropped. Raises `MalformedDetections` for
    another number of outputs than four or five.
    """
    return _at_original_size(raw_instances(outputs, conf_threshold), height, width)


def raw_instances(outputs: Sequence[Any], conf_threshold: float = 0.0) -> Any:
    """The traced outputs as ``Instances`` in the resized frame, on tensors of their own."""
    import torch
    from detectron2.structures import Boxes, Instances

    if len(outputs) not in (len(OUTPUTS), len(OUTPUTS_WITH_MASKS)):
        raise MalformedDetections(f"{len(outputs)} outputs: expected {', '.join(OUTPUTS_WITH_MASKS)}, or the same without masks")
    # Copies: detector_postprocess scales boxes in place, and a runtime may hand out read-only arrays.
    tensors = [t.detach().clone() if isinstance(t, torch.Tensor) else torch.tensor(np.array(t)) for t in outputs]
    boxes, classes, *masks, scores, image_size = tensors
    kept = scores >= conf_threshold
    fields = {"pred_boxes": Boxes(boxes[kept]), "pred_classes": classes[kept], "scores": scores[kept]}
    if masks:
        fields["pred_masks"] = masks[0][kept]
    return Instances((int(image_size[0]), int(image_size[1])), **fields)


def _at_original_size(raw: Any, height: int, width: int) -> Any:
    from detectron2.modeling.postprocessing import detector_postprocess

    return detector_postprocess(raw, height, width, MASK_THRESHOLD)


def detections_in_frame(raw: Any, height: int, width: int, margins: bool = False) -> Detections:
    """``Instances`` of the resized frame as detections of the original image.

    With ``margins`` the pixels near the masks' threshold are marked, which costs two pastings more.
    """
    from detectron2.layers.mask_ops import paste_masks_in_image

    if not margins or not raw.has("pred_masks"):
        return detections_of(_at_original_size(raw, height, width))
    # As a field of its own the probabilities pass through the same selection as the boxes they will be pasted into.
    raw.set(_PROBABILITIES, raw.pred_masks[:, 0])
    found = _at_original_size(raw, height, width)
    low, high = (
        paste_masks_in_image(found.get(_PROBABILITIES), found.pred_boxes, (height, width), threshold)
        for threshold in (MASK_THRESHOLD - NEAR_THRESHOLD, MASK_THRESHOLD + NEAR_THRESHOLD)
    )
    return detections_of(found, near=low.bool() & ~high.bool())


def detections_of(instances: Any, near: torch.Tensor | None = None) -> Detections:
    """Postprocessed ``Instances`` as `Detections`; ``near`` is ``bool [N, H, W]``, the pixels on the mask threshold."""
    masks = None
    if instances.has("pred_masks"):
        near_masks = None if near is None else near.cpu().numpy()
        masks = Masks.from_full(instances.pred_masks.bool().cpu().numpy(), near_masks)
    return Detections(
        boxes_xyxy_px=instances.pred_boxes.tensor.detach().float().cpu().numpy(),
        scores=instances.scores.detach().float().cpu().numpy(),
        labels=instances.pred_classes.long().cpu().numpy(),
        masks=masks,
    )
