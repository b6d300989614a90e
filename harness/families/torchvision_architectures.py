"""torchvision's detectors on a MobileNetV3, made small: what each architecture of a ``ModelSpec.config`` is built of.

``config`` is the spec's, with ``num_classes`` (background included), ``score_threshold`` and ``detection_cap`` added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any


def _features(config: Mapping[str, Any]) -> tuple[Any, list[int]]:
    """A MobileNetV3's blocks, and which of them end the strides 4, 8, 16 and 32."""
    from torchvision.models import mobilenet_v3_small

    features = mobilenet_v3_small(weights=None, width_mult=config["width"], norm_layer=_norm()).features
    strided = [index for index, block in enumerate(features) if getattr(block, "_is_cn", False)]
    return features, [*(index - 1 for index in strided[1:]), len(features) - 1]


def _norm() -> Any:
    """Batch normalisation; the moving averages of torchvision's own momentum, 0.01, are too slow for a thousand steps."""
    from torch import nn

    return partial(nn.BatchNorm2d, eps=1e-3, momentum=0.05)


def _backbone(config: Mapping[str, Any]) -> Any:
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    features, taken = _features(config)
    return BackboneWithFPN(
        features,
        {str(index): str(level) for level, index in enumerate(taken)},
        [features[index].out_channels for index in taken],
        config["fpn_channels"],
        LastLevelMaxPool(),
    )


def _anchors(config: Mapping[str, Any]) -> Any:
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    sizes = tuple(tuple(level) for level in config["anchor_sizes_px"])
    return AnchorGenerator(sizes, (tuple(config["anchor_ratios"]),) * len(sizes))


def _pooler(config: Mapping[str, Any], side: int) -> Any:
    """RoIAlign that spreads boxes over the pyramid's levels; with torchvision's own canonical 224 px all would come from one."""
    from torchvision.ops import MultiScaleRoIAlign

    return MultiScaleRoIAlign(["0", "1", "2", "3"], side, 2, canonical_scale=config["canonical_box_px"])


def _rcnn_options(config: Mapping[str, Any]) -> dict[str, Any]:
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

    return {
        "min_size": config["min_size_px"],
        "max_size": config["max_size_px"],
        "rpn_anchor_generator": _anchors(config),
        "rpn_pre_nms_top_n_train": 240,
        "rpn_pre_nms_top_n_test": config["proposals_before_nms"],
        "rpn_post_nms_top_n_train": 120,
        "rpn_post_nms_top_n_test": config["proposals"],
        "rpn_batch_size_per_image": 96,
        "box_batch_size_per_image": 40,
        "box_roi_pool": _pooler(config, 7),
        "box_head": TwoMLPHead(config["fpn_channels"] * 7 * 7, config["box_channels"]),
        "box_predictor": FastRCNNPredictor(config["box_channels"], config["num_classes"]),
        "box_score_thresh": config["score_threshold"],
        "box_detections_per_img": config["detection_cap"],
    }


def _fasterrcnn(config: Mapping[str, Any]) -> Any:
    from torchvision.models.detection import FasterRCNN

    return FasterRCNN(_backbone(config), **_rcnn_options(config))


def _fasterrcnn_resnet50(config: Mapping[str, Any]) -> Any:
    """As torchvision makes it, at its own sizes, without weights of any part."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    return fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=config["num_classes"],
        box_score_thresh=config["score_threshold"],
        box_detections_per_img=config["detection_cap"],
    )


def _maskrcnn(config: Mapping[str, Any]) -> Any:
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

    channels = config["mask_channels"]
    return MaskRCNN(
        _backbone(config),
        mask_roi_pool=_pooler(config, 14),
        mask_head=MaskRCNNHeads(config["fpn_channels"], (channels,) * 3, 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, config["num_classes"]),
        **_rcnn_options(config),
    )


def _keypointrcnn(config: Mapping[str, Any]) -> Any:
    from torchvision.models.detection import KeypointRCNN
    from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor

    channels = config["keypoint_channels"]
    return KeypointRCNN(
        _backbone(config),
        keypoint_roi_pool=_pooler(config, 14),
        keypoint_head=KeypointRCNNHeads(config["fpn_channels"], (channels,) * 4),
        keypoint_predictor=KeypointRCNNPredictor(channels, config["num_keypoints"]),
        **_rcnn_options(config),
    )


def _retinanet(config: Mapping[str, Any]) -> Any:
    from torch import nn
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.retinanet import RetinaNetHead

    anchors = _anchors(config)
    norm = partial(nn.GroupNorm, 8)
    head = RetinaNetHead(config["fpn_channels"], anchors.num_anchors_per_location()[0], config["num_classes"], norm_layer=norm)
    return RetinaNet(
        _backbone(config),
        config["num_classes"],
        min_size=config["min_size_px"],
        max_size=config["max_size_px"],
        anchor_generator=anchors,
        head=head,
        score_thresh=config["score_threshold"],
        detections_per_img=config["detection_cap"],
        topk_candidates=config["proposals"],
    )


def _fcos(config: Mapping[str, Any]) -> Any:
    from torchvision.models.detection import FCOS

    # One point a place; FCOS counts distances in the size that the generator says, the stride of the level.
    anchors = _anchors({"anchor_sizes_px": config["strides_px"], "anchor_ratios": [1.0]})
    return FCOS(
        _backbone(config),
        config["num_classes"],
        min_size=config["min_size_px"],
        max_size=config["max_size_px"],
        anchor_generator=anchors,
        score_thresh=config["score_threshold"],
        detections_per_img=config["detection_cap"],
        topk_candidates=config["proposals"],
    )


def _ssdlite(config: Mapping[str, Any]) -> Any:
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD
    from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead

    features, taken = _features(config)
    # Up to stride 16, and the first answer from stride 8: SSDlite's own 16 and 32 are too coarse for objects of 13 px.
    strided = taken[1] + 1
    extractor = SSDLiteFeatureExtractorMobileNet(features[: taken[2] + 1], strided, _norm(), width_mult=config["extra_width"])
    boxes = DefaultBoxGenerator(config["anchor_ratios"], scales=config["anchor_scales"])
    side = config["side_px"]
    return SSD(
        extractor,
        boxes,
        (side, side),
        config["num_classes"],
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        head=SSDLiteHead(_channels(extractor, side), boxes.num_anchors_per_location(), config["num_classes"], _norm()),
        score_thresh=config["score_threshold"],
        detections_per_img=config["detection_cap"],
        topk_candidates=config["proposals"],
    )


def _channels(extractor: Any, side_px: int) -> list[int]:
    """How many channels each level has, asked of the extractor itself, in eval mode so that nothing of it moves."""
    import torch

    was = extractor.training
    with torch.no_grad():
        found = extractor.eval()(torch.zeros(1, 3, side_px, side_px))
    extractor.train(was)
    return [int(level.shape[1]) for level in found.values()]


ARCHITECTURES: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "fasterrcnn_mobilenet_v3_small_fpn": _fasterrcnn,
    "fasterrcnn_resnet50_fpn": _fasterrcnn_resnet50,
    "maskrcnn_mobilenet_v3_small_fpn": _maskrcnn,
    "keypointrcnn_mobilenet_v3_small_fpn": _keypointrcnn,
    "retinanet_mobilenet_v3_small_fpn": _retinanet,
    "fcos_mobilenet_v3_small_fpn": _fcos,
    "ssdlite_mobilenet_v3_small": _ssdlite,
}
"""Builders by name; each raises `KeyError` for what its configuration lacks."""
