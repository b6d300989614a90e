"""The ledger of a Detectron2 detector, recorded while the live module answers one image."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.families.recording import Rules, array, box_head, dense, keypoint_ties, overheard, region_proposals, rows_of, tied_out
from harness.ledger import KeypointTies, Ledger, Selection, scale_xy

if TYPE_CHECKING:
    import torch


def record(module: Any, answer: Callable[[], object], size_hw_px: tuple[int, int]) -> Ledger | None:
    """What the module weighs up while ``answer`` has it answer one image of that size; None for an architecture not known here.

    Known are `GeneralizedRCNN`, also as `PanopticFPN`, with Detectron2's own RPN and box heads, cascade and C4 included, and the
    dense detectors `RetinaNet` and `FCOS`. A subclass of one of these parts may decide otherwise, so it is not known.
    """
    from detectron2.modeling import GeneralizedRCNN
    from detectron2.modeling.meta_arch.fcos import FCOS
    from detectron2.modeling.meta_arch.retinanet import RetinaNet
    from detectron2.modeling.proposal_generator.rpn import RPN
    from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers, Res5ROIHeads, StandardROIHeads

    if type(module) in (RetinaNet, FCOS):
        return _dense(module, answer, size_hw_px)
    if not isinstance(module, GeneralizedRCNN) or type(module.proposal_generator) is not RPN:
        return None
    heads = module.roi_heads
    if type(heads) not in (StandardROIHeads, CascadeROIHeads, Res5ROIHeads):
        return None
    # A cascade has one predictor a stage, in a ModuleList.
    predictors = list(heads.box_predictor) if type(heads) is CascadeROIHeads else [heads.box_predictor]
    known = all(type(predictor) is FastRCNNOutputLayers for predictor in predictors)
    return _RCNN(module, predictors, size_hw_px).ledger(answer) if known else None


def _clipped(boxes: torch.Tensor, frame_hw_px: tuple[int, int]) -> torch.Tensor:
    """Boxes ``[N, 4]`` inside the frame, by Detectron2's own rule."""
    from detectron2.structures import Boxes

    held = Boxes(boxes)
    held.clip(frame_hw_px)
    return held.tensor


def _answered(rows: Selection, frame_hw_px: tuple[int, int], size_hw_px: tuple[int, int]) -> Selection:
    """The rows, those not shown that `detector_postprocess` drops: scaled to the image and clipped to it they have no area."""
    import torch
    from detectron2.structures import Boxes

    boxes = Boxes(torch.from_numpy(rows.boxes_xyxy_px.copy()))
    boxes.scale(*scale_xy(size_hw_px, frame_hw_px))
    boxes.clip(size_hw_px)
    return replace(rows, shown=array(boxes.nonempty(), np.bool_))


class _RCNN:
    """Listens to the region proposals, to every stage of the box head, and to the keypoint head if there is one."""

    def __init__(self, module: Any, predictors: list[Any], size_hw_px: tuple[int, int]) -> None:
        self._rpn, self._heads, self._size = module.proposal_generator, module.roi_heads, size_hw_px
        self._predictors = predictors
        self._proposed: Selection | None = None
        self._given: tuple[Any, ...] = ()
        self._probabilities: list[torch.Tensor] = []
        self._boxes: torch.Tensor | None = None
        self._keypoints: KeypointTies | None = None

    def ledger(self, answer: Callable[[], object]) -> Ledger:
        import torch

        with ExitStack() as hearing:
            hearing.enter_context(overheard(self._rpn, "predict_proposals", self._keep_proposals))
            hearing.enter_context(overheard(self._heads, "forward", self._keep_given))
            for predictor in self._predictors:
                hearing.enter_context(overheard(predictor, "predict_probs", self._keep_probabilities))
                hearing.enter_context(overheard(predictor, "predict_boxes", self._keep_boxes))
            with ExitStack() as first_time:
                if getattr(self._heads, "keypoint_on", False):
                    first_time.enter_context(overheard(self._heads.keypoint_head, "forward", self._keep_keypoints))
                answer()
            images, features, given = self._given[:3]
            frame = given[0].image_size
            proposals = self._proposed
            if proposals is None:
                raise AssertionError("the region proposals were not asked")
            scale = scale_xy(self._size, frame)
            taken = rows_of(array(given[0].proposal_boxes.tensor), proposals)
            tied = tied_out(proposals, taken, scale)
            parts = [self._head_inputs(frame)]
            if len(tied):
                with torch.no_grad():
                    self._heads(images, features, [self._proposing(proposals, tied, given[0])], None)
                parts.append(self._head_inputs(frame))
        boxes, scores = (torch.cat(part) for part in zip(*parts, strict=True))
        detections = self._detections(boxes, scores, np.concatenate([taken, tied]))
        return Ledger(self._size, frame, _answered(detections, frame, self._size), proposals, self._keypoints)

    def _keep_given(self, arguments: tuple[Any, ...], _: Any) -> None:
        self._given = arguments

    def _keep_probabilities(self, _: tuple[Any, ...], scores: Any) -> None:
        self._probabilities.append(scores[0])

    def _keep_boxes(self, _: tuple[Any, ...], boxes: Any) -> None:
        self._boxes = boxes[0]

    def _keep_keypoints(self, _: tuple[Any, ...], instances: Any) -> None:
        # At once: postprocessing scales the boxes in place.
        frame = instances[0].image_size
        scale = scale_xy(self._size, frame)
        self._keypoints = keypoint_ties(instances[0].pred_keypoint_heatmaps, instances[0].pred_boxes.tensor, scale)

    def _keep_proposals(self, arguments: tuple[Any, ...], _: Any) -> None:
        import torch

        rpn = self._rpn
        anchors, logits, deltas, frames = arguments
        with torch.no_grad():
            boxes = [_clipped(own[0], frames[0]) for own in rpn._decode_proposals(anchors, deltas)]  # noqa: SLF001 - no public way

        def fits(boxes: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            large = ((boxes[:, 2:] - boxes[:, :2]) > rpn.min_box_size).all(dim=1)
            return large & boxes.isfinite().all(dim=1) & logits.isfinite()

        rules = Rules(-np.inf, rpn.nms_thresh, rpn.pre_nms_topk[False], rpn.post_nms_topk[False])
        self._proposed = region_proposals(boxes, [own[0].detach() for own in logits], fits, rules)

    @staticmethod
    def _proposing(proposals: Selection, rows: NDArray[np.int32], like: Any) -> Any:
        """Those rows as Detectron2's proposals."""
        import torch
        from detectron2.structures import Boxes, Instances

        boxes = torch.from_numpy(proposals.boxes_xyxy_px[rows]).to(like.proposal_boxes.device)
        logits = torch.from_numpy(proposals.scores[rows]).to(boxes.device)
        return Instances(like.image_size, proposal_boxes=Boxes(boxes), objectness_logits=logits)

    def _head_inputs(self, frame_hw_px: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes ``[R, K, 4]`` and scores ``[R, K]`` of the box head as it last ran: the last stage's, and the mean over stages."""
        stages = self._probabilities[-len(self._predictors) :]
        # As `CascadeROIHeads` has it, to the bit.
        scores = (sum(stages) * (1.0 / len(stages)))[:, :-1] if len(stages) > 1 else stages[0][:, :-1]
        if self._boxes is None:
            raise AssertionError("the box head was not asked")
        boxes = _clipped(self._boxes.reshape(-1, 4), frame_hw_px).reshape(len(scores), -1, 4)
        return boxes.expand(len(scores), scores.shape[1], 4), scores

    def _detections(self, boxes: torch.Tensor, scores: torch.Tensor, sources: NDArray[np.int32]) -> Selection:
        last = self._predictors[-1]
        # Detectron2's word for no cap is a negative one.
        rules = Rules(last.test_score_thresh, last.test_nms_thresh, 0, max(last.test_topk_per_image, 0))
        return box_head(boxes, scores, sources, lambda own: own.isfinite().all(dim=1), rules)


def _dense(module: Any, answer: Callable[[], object], size_hw_px: tuple[int, int]) -> Ledger:
    found: list[Ledger] = []

    def listen(arguments: tuple[Any, ...], _: Any) -> None:
        anchors, scores, deltas, frame = arguments
        rows = _dense_rows(module, anchors, scores, deltas)
        found.append(Ledger(size_hw_px, frame, _answered(rows, frame, size_hw_px)))

    with overheard(module, "inference_single_image", listen):
        answer()
    return found[0]


def _dense_rows(module: Any, anchors: Any, scores: Any, deltas: Any) -> Selection:
    """Pools are the pyramid's levels. Boxes are not clipped before suppression, but by postprocessing."""
    import torch

    classes = scores[0].shape[1]

    def decode(level: int, taken: torch.Tensor) -> torch.Tensor:
        places = torch.div(taken, classes, rounding_mode="floor")
        return module.box2box_transform.apply_deltas(deltas[level][places], anchors[level].tensor[places])

    rules = Rules(module.test_score_thresh, module.test_nms_thresh, module.test_topk_candidates, module.max_detections_per_image)
    flat = [own.flatten() for own in scores]
    return dense([(own, torch.arange(len(own), device=own.device) % classes) for own in flat], decode, rules)
