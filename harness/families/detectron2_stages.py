"""The stages of Detectron2's architectures: the module's own parts, called as the module itself calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.stages import Stage

if TYPE_CHECKING:
    from harness.types import ModelSpec

_BOXES = ("boxes", "classes", "scores")


def stages(spec: ModelSpec, module: Any) -> tuple[Stage, ...]:
    """From ``image`` to the outputs of the model's graph, under the graph's names."""
    from detectron2.modeling import GeneralizedRCNN

    found = _rcnn(spec, module) if isinstance(module, GeneralizedRCNN) else _dense(module)
    return tuple(replace(stage, call=_with_free_lengths(stage.call)) for stage in found)


def _with_free_lengths(call: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """As Detectron2's `TracingAdapter` calls a model: ``len`` of a tensor must not become a constant of the trace."""

    def patched(*tensors: Any) -> tuple[Any, ...]:
        from detectron2.export.torchscript_patch import patch_builtin_len

        with patch_builtin_len():
            return call(*tensors)

    return patched


def _rcnn(spec: ModelSpec, module: Any) -> Iterator[Stage]:
    from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads

    heads = module.roi_heads
    yield _preprocess(module)
    yield _backbone(module)
    if "panoptic" in spec.outputs:
        yield _semantic(module)
    yield from _proposals(module.proposal_generator)
    if isinstance(heads, CascadeROIHeads):
        yield from _cascade(heads)
    elif isinstance(heads, Res5ROIHeads):
        yield from _res5(heads)
    else:
        yield _pooler("pooler", heads.box_pooler, heads.box_in_features, "proposals", "pooled")
        yield _box_head("heads", heads.box_head, heads.box_predictor, "pooled", "")
        yield _nms(heads.box_predictor)
    if "masks" in spec.outputs:
        yield from _masks(heads)
    if "keypoints" in spec.outputs:
        yield from _keypoints(heads)


def _preprocess(module: Any) -> Stage:
    def call(image: Any) -> tuple[Any, ...]:
        images = module.preprocess_image([{"image": image}])
        return images.tensor, _size_tensor(images.image_sizes[0])

    return Stage("preprocess", ("image",), ("pixels", "image_size"), call)


def _backbone(module: Any) -> Stage:
    levels = tuple(module.backbone.output_shape())

    def call(pixels: Any) -> tuple[Any, ...]:
        found = module.backbone(pixels)
        return tuple(found[level] for level in levels)

    return Stage("backbone", ("pixels",), _named("features", levels), call, (module.backbone,))


def _semantic(module: Any) -> Stage:
    head = module.sem_seg_head

    def call(*features: Any) -> tuple[Any, ...]:
        logits, _ = head(dict(zip(head.in_features, features, strict=True)), None)
        return (logits[0],)

    return Stage("semantic head", _named("features", head.in_features), ("sem_seg",), call, (head,))


def _proposals(rpn: Any) -> Iterator[Stage]:
    levels = tuple(rpn.in_features)
    logits, deltas = _named("rpn_logits", levels), _named("rpn_deltas", levels)

    def head(*features: Any) -> tuple[Any, ...]:
        found = rpn.rpn_head(list(features))
        return (*found[0], *found[1])

    def select(*tensors: Any) -> tuple[Any, ...]:
        *maps, size = tensors
        scores, offsets = maps[: len(levels)], maps[len(levels) :]
        # The anchors depend on the levels' heights and widths only, which the scores share with the features.
        anchors = rpn.anchor_generator(list(scores))
        flat = [score.permute(0, 2, 3, 1).flatten(1) for score in scores]
        boxes = rpn.anchor_generator.box_dim
        moved = [
            offset.view(offset.shape[0], -1, boxes, offset.shape[-2], offset.shape[-1]).permute(0, 3, 4, 1, 2).flatten(1, -2)
            for offset in offsets
        ]
        found = rpn.predict_proposals(anchors, flat, moved, [_size(size)])[0]
        return found.proposal_boxes.tensor, found.objectness_logits

    yield Stage("proposal head", _named("features", levels), (*logits, *deltas), head, (rpn.rpn_head,))
    outputs = ("proposals", "proposal_logits")
    yield Stage("proposals", (*logits, *deltas, "image_size"), outputs, select, (rpn.anchor_generator,), outputs)


def _pooler(name: str, pooler: Any, levels: Sequence[str], boxes: str, pooled: str) -> Stage:
    from detectron2.structures import Boxes

    def call(*tensors: Any) -> tuple[Any, ...]:
        *features, found = tensors
        return (pooler(list(features), [Boxes(found)]),)

    return Stage(name, (*_named("features", levels), boxes), (pooled,), call, (pooler,))


def _box_head(name: str, head: Any, predictor: Any, pooled: str, suffix: str) -> Stage:
    def call(tensor: Any) -> tuple[Any, ...]:
        scores, deltas = predictor(head(tensor))
        return scores, deltas

    return Stage(name, (pooled,), (f"class_logits{suffix}", f"box_deltas{suffix}"), call, (head, predictor))


def _nms(predictor: Any) -> Stage:
    from detectron2.structures import Boxes, Instances

    def call(logits: Any, deltas: Any, proposals: Any, size: Any) -> tuple[Any, ...]:
        given = Instances(_size(size), proposal_boxes=Boxes(proposals))
        found = predictor.inference((logits, deltas), [given])[0][0]
        return found.pred_boxes.tensor, found.pred_classes, found.scores

    return Stage("NMS", ("class_logits", "box_deltas", "proposals", "image_size"), _BOXES, call, (), _BOXES)


def _cascade(heads: Any) -> Iterator[Stage]:
    """Pooler, head and refined boxes of each stage of the cascade; at the end the averaged scores and NMS."""
    last = heads.num_cascade_stages - 1
    boxes = "proposals"
    for index in range(heads.num_cascade_stages):
        suffix = f".{index + 1}"
        yield _pooler(f"pooler {index + 1}", heads.box_pooler, heads.box_in_features, boxes, f"pooled{suffix}")
        yield _box_head(f"heads {index + 1}", heads.box_head[index], heads.box_predictor[index], f"pooled{suffix}", suffix)
        if index < last:
            yield _refine(heads, index, boxes, f"proposals{suffix}")
            boxes = f"proposals{suffix}"
    yield _cascade_nms(heads, boxes)


def _refine(heads: Any, index: int, before: str, after: str) -> Stage:
    from detectron2.structures import Boxes, Instances

    suffix = f".{index + 1}"

    def call(logits: Any, deltas: Any, proposals: Any, size: Any) -> tuple[Any, ...]:
        given = [Instances(_size(size), proposal_boxes=Boxes(proposals))]
        boxes = heads.box_predictor[index].predict_boxes((logits, deltas), given)
        return (heads._create_proposals_from_boxes(boxes, [_size(size)])[0].proposal_boxes.tensor,)  # noqa: SLF001 - no other way

    return Stage(f"refine {index + 1}", (f"class_logits{suffix}", f"box_deltas{suffix}", before, "image_size"), (after,), call)


def _cascade_nms(heads: Any, boxes: str) -> Stage:
    from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
    from detectron2.structures import Boxes, Instances

    count = heads.num_cascade_stages
    logits = tuple(f"class_logits.{index + 1}" for index in range(count))

    def call(*tensors: Any) -> tuple[Any, ...]:
        *all_logits, deltas, proposals, size = tensors
        given = [Instances(_size(size), proposal_boxes=Boxes(proposals))]
        probabilities = [
            predictor.predict_probs((one, deltas), given)[0] for predictor, one in zip(heads.box_predictor, all_logits, strict=True)
        ]
        scores = sum(probabilities) * (1.0 / count)
        last = heads.box_predictor[count - 1]
        moved = last.predict_boxes((all_logits[-1], deltas), given)
        limits = last.test_score_thresh, last.test_nms_thresh, last.test_topk_per_image
        found = fast_rcnn_inference(moved, [scores], [_size(size)], *limits)[0][0]
        return found.pred_boxes.tensor, found.pred_classes, found.scores

    return Stage("NMS", (*logits, f"box_deltas.{count}", boxes, "image_size"), _BOXES, call, (), _BOXES)


def _res5(heads: Any) -> Iterator[Stage]:
    yield _pooler("pooler", heads.pooler, heads.in_features, "proposals", "pooled")

    def call(pooled: Any) -> tuple[Any, ...]:
        scores, deltas = heads.box_predictor(heads.res5(pooled).mean(dim=[2, 3]))
        return scores, deltas

    yield Stage("heads", ("pooled",), ("class_logits", "box_deltas"), call, (heads.res5, heads.box_predictor))
    yield _nms(heads.box_predictor)


def _masks(heads: Any) -> Iterator[Stage]:
    from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference
    from detectron2.structures import Boxes, Instances

    def call(pooled: Any, boxes: Any, classes: Any) -> tuple[Any, ...]:
        # The boxes are there for their number: of the fields, theirs is the one that a trace keeps free.
        given = Instances((0, 0), pred_boxes=Boxes(boxes), pred_classes=classes)
        mask_rcnn_inference(heads.mask_head.layers(pooled), [given])
        return (given.pred_masks,)

    yield _pooler("mask pooler", heads.mask_pooler, heads.mask_in_features, "boxes", "mask_pooled")
    yield Stage("mask head", ("mask_pooled", "boxes", "classes"), ("masks",), call, (heads.mask_head,))


def _keypoints(heads: Any) -> Iterator[Stage]:
    from detectron2.structures import heatmaps_to_keypoints

    def head(pooled: Any) -> tuple[Any, ...]:
        return (heads.keypoint_head.layers(pooled),)

    def decode(heatmaps: Any, boxes: Any) -> tuple[Any, ...]:
        return (heatmaps_to_keypoints(heatmaps, boxes)[:, :, [0, 1, 3]],)

    yield _pooler("keypoint pooler", heads.keypoint_pooler, heads.keypoint_in_features, "boxes", "keypoint_pooled")
    yield Stage("keypoint head", ("keypoint_pooled",), ("keypoint_heatmaps",), head, (heads.keypoint_head,))
    yield Stage("keypoint decoding", ("keypoint_heatmaps", "boxes"), ("keypoints",), decode)


def _dense(module: Any) -> Iterator[Stage]:
    """RetinaNet and FCOS: a head on every level, the best of all, decoded, and what is left of these inside the picture.

    The last is part of the graph here, unlike in a `GeneralizedRCNN`, which is traced without its postprocessing.
    """
    from detectron2.modeling.meta_arch.fcos import FCOS
    from detectron2.modeling.postprocessing import detector_postprocess
    from detectron2.structures import Boxes, ImageList, Instances

    levels = tuple(module.head_in_features)
    kinds = ("class_logits", "box_deltas", *(("centerness",) if isinstance(module, FCOS) else ()))
    maps = tuple(name for kind in kinds for name in _named(kind, levels))

    def head(*features: Any) -> tuple[Any, ...]:
        return tuple(one for kind in module.head(list(features)) for one in kind)

    def select(*tensors: Any) -> tuple[Any, ...]:
        *given, size = tensors
        grouped = [list(given[index : index + len(levels)]) for index in range(0, len(given), len(levels))]
        # Only the sizes of the images are read, and of the features only heights and widths.
        found = module.forward_inference(ImageList(given[0], [_size(size)]), grouped[0], grouped)[0]
        return found.pred_boxes.tensor, found.pred_classes, found.scores

    def clip(boxes: Any, classes: Any, scores: Any, size: Any) -> tuple[Any, ...]:
        height, width = _size(size)
        selected = Instances((height, width), pred_boxes=Boxes(boxes), pred_classes=classes, scores=scores)
        found = detector_postprocess(selected, height, width)
        return found.pred_boxes.tensor, found.pred_classes, found.scores

    selected = _named("selected", _BOXES)
    yield _preprocess(module)
    yield _backbone(module)
    yield Stage("heads", _named("features", levels), maps, head, (module.head,))
    yield Stage("NMS", (*maps, "image_size"), selected, select, (module.anchor_generator,), selected)
    yield Stage("postprocess", (*selected, "image_size"), _BOXES, clip, (), _BOXES)


def _named(kind: str, levels: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{kind}.{level}" for level in levels)


def _size_tensor(size: Any) -> Any:
    import torch

    return size if isinstance(size, torch.Tensor) else torch.tensor([int(side) for side in size])


def _size(size: Any) -> Any:
    """Height and width: whole numbers as in a live model, tensors as in a traced one."""
    import torch

    return size if torch.jit.is_tracing() else tuple(int(side) for side in size)
