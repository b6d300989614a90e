"""The ledger of a torchvision detector, recorded while the live module answers one image."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.families.recording import Rules, array, box_head, dense, keypoint_ties, overheard, region_proposals, rows_of, tied_out
from harness.ledger import KeypointTies, Ledger, Selection, scale_xy

if TYPE_CHECKING:
    import torch

_MIN_SIDE_PX = 1e-2
"""`RoIHeads.postprocess_detections` drops smaller boxes; it has no name for it."""


def record(module: Any, answer: Callable[[], object], size_hw_px: tuple[int, int]) -> Ledger | None:
    """What the module weighs up while ``answer`` has it answer one image of that size; None for an architecture not known here.

    A subclass of one of torchvision's own may decide otherwise, so it is not known.
    """
    from torchvision.models.detection import FCOS, RetinaNet
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
    from torchvision.models.detection.roi_heads import RoIHeads
    from torchvision.models.detection.rpn import RegionProposalNetwork
    from torchvision.models.detection.ssd import SSD

    if isinstance(module, GeneralizedRCNN):
        known = type(module.rpn) is RegionProposalNetwork and type(module.roi_heads) is RoIHeads
        return _RCNN(module, size_hw_px).ledger(answer) if known else None
    read = {FCOS: _fcos, RetinaNet: _retinanet, SSD: _ssd}.get(type(module))
    return None if read is None else _dense(module, read, answer, size_hw_px)


class _RCNN:
    """Listens to the region proposals, to the box head, and to the keypoint head if there is one."""

    def __init__(self, module: Any, size_hw_px: tuple[int, int]) -> None:
        self._rpn, self._heads, self._size = module.rpn, module.roi_heads, size_hw_px
        self._heard: dict[str, tuple[tuple[Any, ...], Any]] = {}
        self._maps: torch.Tensor | None = None

    def ledger(self, answer: Callable[[], object]) -> Ledger:
        import torch

        heads = self._heads
        with ExitStack() as hearing:
            hearing.enter_context(overheard(self._rpn, "filter_proposals", self._hear("proposals")))
            hearing.enter_context(overheard(heads, "postprocess_detections", self._hear("boxes")))
            hearing.enter_context(overheard(heads, "forward", self._hear("heads")))
            if heads.has_keypoint():
                hearing.enter_context(overheard(heads.keypoint_predictor, "forward", self._keep_maps))
            answer()
            proposals = self._proposals()
            frame = self._heard["heads"][0][2][0]
            scale = scale_xy(self._size, frame)
            taken = rows_of(array(self._heard["heads"][0][1][0]), proposals)
            first = self._head_inputs()
            keypoints = self._keypoints(scale)
            tied = tied_out(proposals, taken, scale)
            parts = [first]
            if len(tied):
                features, like, shapes = self._heard["heads"][0][:3]
                boxes = torch.from_numpy(proposals.boxes_xyxy_px[tied]).to(like[0])
                with torch.no_grad():
                    heads(features, [boxes], shapes)
                parts.append(self._head_inputs())
        boxes, scores = (torch.cat(part) for part in zip(*parts, strict=True))
        detections = self._detections(boxes, scores, np.concatenate([taken, tied]))
        return Ledger(self._size, frame, detections, proposals, keypoints)

    def _hear(self, name: str) -> Callable[[tuple[Any, ...], Any], None]:
        def listen(arguments: tuple[Any, ...], result: Any) -> None:
            self._heard[name] = arguments, result

        return listen

    def _keep_maps(self, _: tuple[Any, ...], maps: torch.Tensor) -> None:
        self._maps = maps

    def _proposals(self) -> Selection:
        import torch
        from torchvision.ops import clip_boxes_to_image

        rpn = self._rpn
        decoded, objectness, shapes, counts = self._heard["proposals"][0]
        boxes = clip_boxes_to_image(decoded[0], shapes[0]).split(counts)
        logits = objectness.detach().reshape(-1).split(counts)

        def fits(boxes: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            sides = boxes[:, 2:] - boxes[:, :2]
            return (sides >= rpn.min_size).all(dim=1) & (torch.sigmoid(logits) >= rpn.score_thresh)

        rules = Rules(-np.inf, rpn.nms_thresh, rpn.pre_nms_top_n(), rpn.post_nms_top_n())
        return region_proposals(boxes, logits, fits, rules)

    def _head_inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes ``[R, K, 4]`` and scores ``[R, K]`` of the box head as it last ran, background left out."""
        from torch.nn.functional import softmax
        from torchvision.ops import clip_boxes_to_image

        logits, deltas, proposals, shapes = self._heard["boxes"][0]
        boxes = clip_boxes_to_image(self._heads.box_coder.decode(deltas, proposals), shapes[0])
        return boxes[:, 1:], softmax(logits, -1)[:, 1:]

    def _detections(self, boxes: torch.Tensor, scores: torch.Tensor, sources: NDArray[np.int32]) -> Selection:
        heads = self._heads
        rules = Rules(heads.score_thresh, heads.nms_thresh, 0, heads.detections_per_img)
        return box_head(boxes, scores, sources, lambda own: ((own[:, 2:] - own[:, :2]) >= _MIN_SIDE_PX).all(dim=1), rules)

    def _keypoints(self, scale: tuple[float, float]) -> KeypointTies | None:
        if self._maps is None:
            return None
        boxes = self._heard["boxes"][1][0][0]
        return keypoint_ties(self._maps, boxes, scale)


def _dense(module: Any, read: Callable[..., Selection], answer: Callable[[], object], size_hw_px: tuple[int, int]) -> Ledger:
    found: list[Ledger] = []

    def listen(arguments: tuple[Any, ...], _: Any) -> None:
        outputs, anchors, shapes = arguments
        rules = Rules(module.score_thresh, module.nms_thresh, module.topk_candidates, module.detections_per_img)
        rows = read(module, outputs, anchors[0], shapes[0], rules)
        found.append(Ledger(size_hw_px, shapes[0], rows))

    with overheard(module, "postprocess_detections", listen):
        answer()
    return found[0]


def _by_level(
    module: Any, scores: list[torch.Tensor], outputs: Any, anchors: Any, shape: tuple[int, int], rules: Rules
) -> Selection:
    """Pools are the pyramid's levels; ``scores`` ``[Ai, K]`` of each."""
    import torch
    from torchvision.ops import clip_boxes_to_image

    classes = scores[0].shape[1]

    def decode(level: int, taken: torch.Tensor) -> torch.Tensor:
        places = torch.div(taken, classes, rounding_mode="floor")
        deltas = outputs["bbox_regression"][level][0]
        coder = module.box_coder
        # FCOS's coder has one method for one image and for many, RetinaNet's two.
        decoding = getattr(coder, "decode_single", coder.decode)
        return clip_boxes_to_image(decoding(deltas[places], anchors[level][places]), shape)

    flat = [own.flatten() for own in scores]
    # Labels count from 1 in torchvision, and a dense head learns that nothing is of class 0.
    return dense([(own, torch.arange(len(own), device=own.device) % classes - 1) for own in flat], decode, rules)


def _retinanet(module: Any, outputs: Any, anchors: Any, shape: tuple[int, int], rules: Rules) -> Selection:
    scores = [logits[0].sigmoid() for logits in outputs["cls_logits"]]
    return _by_level(module, scores, outputs, anchors, shape, rules)


def _fcos(module: Any, outputs: Any, anchors: Any, shape: tuple[int, int], rules: Rules) -> Selection:
    both = zip(outputs["cls_logits"], outputs["bbox_ctrness"], strict=True)
    scores = [(logits[0].sigmoid() * centre[0].sigmoid()).sqrt() for logits, centre in both]
    return _by_level(module, scores, outputs, anchors, shape, rules)


def _ssd(module: Any, outputs: Any, anchors: Any, shape: tuple[int, int], rules: Rules) -> Selection:
    """Pools are the classes."""
    import torch
    from torchvision.ops import clip_boxes_to_image

    scores = outputs["cls_logits"].softmax(dim=-1)[0]
    boxes = clip_boxes_to_image(module.box_coder.decode_single(outputs["bbox_regression"][0], anchors), shape)
    # 0 is the background, which torchvision's own loop leaves out as well.
    pools = [(scores[:, label], torch.full_like(scores[:, label], label - 1)) for label in range(1, scores.shape[1])]
    return dense(pools, lambda _, taken: boxes[taken], rules)
