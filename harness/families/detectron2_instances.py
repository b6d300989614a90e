"""Detectron2's answers: traced outputs as ``Instances``, and ``Instances`` as `Detections` of the original image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.detections import Detections, Masks, Panoptic, Segment
from harness.errors import MalformedDetections
from harness.families import whole_numbers
from harness.families.detectron2_keypoints import DECODED, HEATMAPS
from harness.types import Task

if TYPE_CHECKING:
    import torch

OUTPUTS: Mapping[Task, tuple[str, ...]] = {
    "detection": ("boxes", "classes", "scores", "image_size"),
    "segmentation": ("boxes", "classes", "masks", "scores", "image_size"),
    "keypoints": ("boxes", "classes", HEATMAPS, DECODED, "scores", "image_size"),
    "panoptic": ("boxes", "classes", "masks", "scores", "image_size", "sem_seg"),
}
"""What comes out of a traced model, in its order: the fields of `Instances` by name, then the semantic head's logits."""

_FIELDS = {
    "classes": "pred_classes",
    "scores": "scores",
    "masks": "pred_masks",
    DECODED: "pred_keypoints",
    HEATMAPS: "pred_keypoint_heatmaps",
}
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
    names = {len(OUTPUTS[task]): OUTPUTS[task] for task in _OF_GUIDES}
    if len(outputs) not in names:
        raise MalformedDetections(f"{len(outputs)} outputs: expected {', '.join(names[5])}, or the same without masks")
    named = dict(zip(names[len(outputs)], outputs, strict=True))
    return _at_original_size(raw_instances(named, conf_threshold), height, width)


_OF_GUIDES: tuple[Task, Task] = ("detection", "segmentation")


def raw_instances(outputs: Mapping[str, Any], conf_threshold: float = 0.0) -> Any:
    """The traced outputs by name as ``Instances`` in the resized frame, on tensors of their own."""
    import torch
    from detectron2.structures import Boxes, Instances, heatmaps_to_keypoints

    # Copies: detector_postprocess scales boxes in place, and a runtime may hand out read-only arrays.
    tensors = {
        name: value.detach().clone() if isinstance(value, torch.Tensor) else torch.tensor(np.array(value))
        for name, value in outputs.items()
        if name != "sem_seg"
    }
    if HEATMAPS in tensors and DECODED not in tensors:
        # What an exporter could not take along: decoded here, as the model itself would have.
        decoded = heatmaps_to_keypoints(tensors[HEATMAPS], tensors["boxes"])
        tensors[DECODED] = decoded[:, :, [0, 1, 3]]
    height, width = (int(side) for side in tensors["image_size"])
    kept = tensors["scores"] >= conf_threshold
    fields = {field: tensors[name][kept] for name, field in _FIELDS.items() if name in tensors}
    return Instances((height, width), pred_boxes=Boxes(tensors["boxes"][kept]), **fields)


def _at_original_size(raw: Any, height: int, width: int) -> Any:
    from detectron2.modeling.postprocessing import detector_postprocess

    return detector_postprocess(raw, height, width, MASK_THRESHOLD)


def detections_in_frame(raw: Any, height: int, width: int, margins: bool = False) -> Detections:
    """``Instances`` of the resized frame as detections of the original image.

    With ``margins`` the pixels near the masks' threshold are marked, which costs two pastings more.
    """
    return detections_of(*_with_margins(raw, height, width, margins))


def _with_margins(raw: Any, height: int, width: int, margins: bool) -> tuple[Any, Any]:
    from detectron2.layers.mask_ops import paste_masks_in_image

    if not raw.has("pred_masks"):
        return _at_original_size(raw, height, width), None
    # As a field of its own the probabilities pass through the same selection as the boxes they will be pasted into.
    raw.set(_PROBABILITIES, raw.pred_masks[:, 0])
    found = _at_original_size(raw, height, width)
    if not margins:
        return found, None
    low, high = (
        paste_masks_in_image(found.get(_PROBABILITIES), found.pred_boxes, (height, width), threshold)
        for threshold in (MASK_THRESHOLD - NEAR_THRESHOLD, MASK_THRESHOLD + NEAR_THRESHOLD)
    )
    return found, low.bool() & ~high.bool()


def detections_of(instances: Any, near: torch.Tensor | None = None, panoptic: Panoptic | None = None) -> Detections:
    """Postprocessed ``Instances`` as `Detections`; ``near`` is ``bool [N, H, W]``, the pixels on the mask threshold."""
    masks, raw_masks = None, None
    if instances.has(_PROBABILITIES):
        raw_masks = instances.get(_PROBABILITIES).detach().float().cpu().numpy()
    if instances.has("pred_masks"):
        near_masks = None if near is None else near.cpu().numpy()
        masks = Masks.from_full(instances.pred_masks.bool().cpu().numpy(), near_masks)
    keypoints = instances.pred_keypoints.detach().float().cpu().numpy() if instances.has("pred_keypoints") else None
    return Detections(
        boxes_xyxy_px=instances.pred_boxes.tensor.detach().float().cpu().numpy(),
        scores=instances.scores.detach().float().cpu().numpy(),
        labels=whole_numbers("pred_classes", instances.pred_classes.cpu().numpy()),
        masks=masks,
        raw_masks=raw_masks,
        keypoints=keypoints,
        panoptic=panoptic,
    )


def panoptic_of(ids: torch.Tensor, segments: Sequence[Mapping[str, Any]]) -> Panoptic:
    """A `PanopticFPN`'s answer: ``int32 [H, W]`` and Detectron2's ``segments_info``; its stuff counts from 1, 0 are all things."""
    found = []
    for segment in segments:
        thing = bool(segment["isthing"])
        label = int(segment["category_id"]) - (0 if thing else 1)
        found.append(Segment(int(segment["id"]), label, thing, float(segment["score"]) if thing else None))
    return Panoptic(ids.to("cpu").numpy().astype(np.int32), tuple(found))


@dataclass(frozen=True, slots=True)
class Combining:
    """How a `PanopticFPN` combines detections and semantics.

    A detection needs at least ``score``, and of its mask less than the share ``overlap`` hidden; stuff ``stuff_area_px`` pixels.
    """

    overlap: float
    stuff_area_px: float
    score: float

    @classmethod
    def of(cls, config: Any) -> Combining:
        """As a ``CfgNode`` says."""
        said = config.MODEL.PANOPTIC_FPN.COMBINE
        return cls(said.OVERLAP_THRESH, said.STUFF_AREA_LIMIT, said.INSTANCES_CONFIDENCE_THRESH)

    def detections(self, raw: Any, semantic: Any, height: int, width: int, margins: bool = False) -> Detections:
        """The raw detections of the resized frame, and ``semantic``, the logits ``[C, h, w]``, in the original image.

        Both go through Detectron2's own functions, in the order of `PanopticFPN.inference`.
        """
        import torch
        from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
        from detectron2.modeling.postprocessing import sem_seg_postprocess

        logits = semantic if isinstance(semantic, torch.Tensor) else torch.tensor(np.array(semantic))
        found, near = _with_margins(raw, height, width, margins)
        labels = sem_seg_postprocess(logits, raw.image_size, height, width).argmax(dim=0)
        ids, segments = combine_semantic_and_instance_outputs(found, labels, self.overlap, self.stuff_area_px, self.score)
        return detections_of(found, near, panoptic_of(ids, segments))
