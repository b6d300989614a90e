"""The stages of torchvision's architectures: the module's own parts, called as the module itself calls them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.levels import RESIZED_PER_MAX
from harness.stages import Stage

_FOUND = ("resized_boxes", "labels", "scores")
_IMAGES = ("pixels", "resized_size")


def stages(module: Any) -> tuple[Stage, ...]:
    """From ``image`` to the outputs of the model's graph, under the graph's names."""
    return tuple(_rcnn(module) if hasattr(module, "roi_heads") else _dense(module))


def _rcnn(module: Any) -> Iterator[Stage]:
    levels = _levels(module)
    yield from _shared(module, levels)
    yield from _proposals(module.rpn, levels)
    yield from _boxes(module.roi_heads, levels)
    if module.roi_heads.has_mask():
        yield from _masks(module.roi_heads, levels)
    if module.roi_heads.has_keypoint():
        yield from _keypoints(module.roi_heads, levels)
    yield _postprocess(module)


def _dense(module: Any) -> Iterator[Stage]:
    """RetinaNet, FCOS and SSD: a head on every level, and at the end the best of all, decoded."""
    levels = _levels(module)
    yield from _shared(module, levels)
    kinds = ("cls_logits", "bbox_regression", *(("bbox_ctrness",) if _has_centerness(module) else ()))

    def head(*features: Any) -> tuple[Any, ...]:
        found = module.head(list(features))
        return tuple(found[kind] for kind in kinds)

    def select(*tensors: Any) -> tuple[Any, ...]:
        answers, features = dict(zip(kinds, tensors, strict=False)), list(tensors[len(kinds) : -2])
        pixels, size = tensors[-2:]
        anchors = module.anchor_generator(_images(pixels, size), features)
        if _splits_levels(module):
            each = module.anchor_generator.num_anchors_per_location()[0]
            counts = [level.size(2) * level.size(3) * each for level in features]
            answers = {kind: list(tensor.split(counts, dim=1)) for kind, tensor in answers.items()}
            anchors = [list(one.split(counts)) for one in anchors]
        found = module.postprocess_detections(answers, anchors, [_size(size)])[0]
        return found["boxes"], found["labels"], found["scores"]

    features = _features(levels)
    yield Stage("heads", features, kinds, head, (module.head,))
    yield Stage("NMS", (*kinds, *features, *_IMAGES), _FOUND, select, (module.anchor_generator,), _FOUND)
    yield _postprocess(module)


def _levels(module: Any) -> tuple[str, ...]:
    """The names of the backbone's levels, asked of the backbone itself: it is in eval mode, and nothing of it moves."""
    import torch

    with torch.no_grad():
        return tuple(module.backbone(torch.zeros(1, 3, 256, 256, device=next(module.parameters()).device)))


def _features(levels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"features.{level}" for level in levels)


def _has_centerness(module: Any) -> bool:
    from torchvision.models.detection import FCOS

    return isinstance(module, FCOS)


def _splits_levels(module: Any) -> bool:
    from torchvision.models.detection import FCOS, RetinaNet

    return isinstance(module, FCOS | RetinaNet)


def _shared(module: Any, levels: tuple[str, ...]) -> Iterator[Stage]:
    import torch

    def preprocess(image: Any) -> tuple[Any, ...]:
        images, _ = module.transform([image])
        size = images.image_sizes[0]
        # Traced, the sizes are tensors of their own: they are put together, so that the trace keeps them.
        together = torch.stack([torch.as_tensor(side) for side in size])
        return images.tensors, together

    def backbone(pixels: Any) -> tuple[Any, ...]:
        found = module.backbone(pixels)
        return tuple(found[level] for level in levels)

    yield Stage("preprocess", ("image",), _IMAGES, preprocess, (module.transform,), per_max=RESIZED_PER_MAX)
    yield Stage("backbone", ("pixels",), _features(levels), backbone, (module.backbone,))


def _proposals(rpn: Any, levels: tuple[str, ...]) -> Iterator[Stage]:
    from torchvision.models.detection.rpn import concat_box_prediction_layers

    logits = tuple(f"rpn_logits.{level}" for level in levels)
    deltas = tuple(f"rpn_deltas.{level}" for level in levels)

    def head(*features: Any) -> tuple[Any, ...]:
        found = rpn.head(list(features))
        return (*found[0], *found[1])

    def select(*tensors: Any) -> tuple[Any, ...]:
        *maps, pixels, size = tensors
        scores, offsets = list(maps[: len(levels)]), list(maps[len(levels) :])
        # The anchors depend on the levels' heights and widths only, which the scores share with the features.
        images = _images(pixels, size)
        anchors = rpn.anchor_generator(images, scores)
        counts = [shape[0] * shape[1] * shape[2] for shape in (score[0].shape for score in scores)]
        flat, moved = concat_box_prediction_layers(scores, offsets)
        boxes = rpn.box_coder.decode(moved, anchors).view(len(anchors), -1, 4)
        found, kept = rpn.filter_proposals(boxes, flat, images.image_sizes, counts)
        return found[0], kept[0]

    outputs = ("proposals", "proposal_scores")
    yield Stage("proposal head", _features(levels), (*logits, *deltas), head, (rpn.head,))
    yield Stage("proposals", (*logits, *deltas, *_IMAGES), outputs, select, (rpn.anchor_generator,), outputs)


def _pooler(name: str, pool: Any, levels: tuple[str, ...], boxes: str, pooled: str) -> Stage:
    def call(*tensors: Any) -> tuple[Any, ...]:
        *features, found, size = tensors
        return (pool(dict(zip(levels, features, strict=True)), [found], [_size(size)]),)

    return Stage(name, (*_features(levels), boxes, "resized_size"), (pooled,), call, (pool,))


def _boxes(heads: Any, levels: tuple[str, ...]) -> Iterator[Stage]:
    def head(pooled: Any) -> tuple[Any, ...]:
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        return logits, deltas

    def select(logits: Any, deltas: Any, proposals: Any, size: Any) -> tuple[Any, ...]:
        boxes, scores, labels = heads.postprocess_detections(logits, deltas, [proposals], [_size(size)])
        return boxes[0], labels[0], scores[0]

    yield _pooler("pooler", heads.box_roi_pool, levels, "proposals", "pooled")
    yield Stage("heads", ("pooled",), ("class_logits", "box_deltas"), head, (heads.box_head, heads.box_predictor))
    yield Stage("NMS", ("class_logits", "box_deltas", "proposals", "resized_size"), _FOUND, select, (), _FOUND)


def _masks(heads: Any, levels: tuple[str, ...]) -> Iterator[Stage]:
    from torchvision.models.detection.roi_heads import maskrcnn_inference

    def head(pooled: Any, labels: Any) -> tuple[Any, ...]:
        return (maskrcnn_inference(heads.mask_predictor(heads.mask_head(pooled)), [labels])[0],)

    yield _pooler("mask pooler", heads.mask_roi_pool, levels, "resized_boxes", "mask_pooled")
    yield Stage("mask head", ("mask_pooled", "labels"), ("raw_masks",), head, (heads.mask_head, heads.mask_predictor))


def _keypoints(heads: Any, levels: tuple[str, ...]) -> Iterator[Stage]:
    from torchvision.models.detection.roi_heads import keypointrcnn_inference

    def head(pooled: Any) -> tuple[Any, ...]:
        return (heads.keypoint_predictor(heads.keypoint_head(pooled)),)

    def decode(heatmaps: Any, boxes: Any) -> tuple[Any, ...]:
        points, scores = keypointrcnn_inference(heatmaps, [boxes])
        return points[0], scores[0]

    heatmaps, outputs = ("keypoint_heatmaps",), ("resized_keypoints", "keypoints_scores")
    yield _pooler("keypoint pooler", heads.keypoint_roi_pool, levels, "resized_boxes", "keypoint_pooled")
    yield Stage("keypoint head", ("keypoint_pooled",), heatmaps, head, (heads.keypoint_head, heads.keypoint_predictor))
    yield Stage("keypoint decoding", (*heatmaps, "resized_boxes"), outputs, decode)


def _postprocess(module: Any) -> Stage:
    """Boxes, masks and keypoints in the original picture, whose size is that of ``image``."""
    heads = getattr(module, "roi_heads", None)
    taken = {"boxes": "resized_boxes"}
    if heads is not None and heads.has_mask():
        taken["masks"] = "raw_masks"
    if heads is not None and heads.has_keypoint():
        taken["keypoints"] = "resized_keypoints"

    def call(*tensors: Any) -> tuple[Any, ...]:
        *given, size, image = tensors
        sides = image.shape[-2:]
        found = module.transform.postprocess([dict(zip(taken, given, strict=True))], [_size(size)], [(sides[0], sides[1])])[0]
        return tuple(found[name] for name in taken)

    inputs = (*taken.values(), "resized_size", "image")
    return Stage("postprocess", inputs, tuple(taken), call, (module.transform,), per_max=RESIZED_PER_MAX)


def _images(pixels: Any, size: Any) -> Any:
    from torchvision.models.detection.image_list import ImageList

    return ImageList(pixels, [_size(size)])


def _size(size: Any) -> Any:
    """Height and width: whole numbers as in a live model, tensors as in a traced one."""
    import torch

    return (size[0], size[1]) if torch.jit.is_tracing() else tuple(int(side) for side in size)
