"""torchvision's detectors: Faster R-CNN, Mask R-CNN and RetinaNet on a MobileNetV3 with a feature pyramid.

The resize, the normalisation and the pasting of masks are inside the module, so the graph takes the picture at its own size and
answers in its pixels. Labels count from 1 inside the module (0 is background) and from 0 outside.

Besides the `harness.families.Family` protocol this family offers what `harness.fixtures.train` needs: `construct` and `losses`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.errors import UnreadableConfig
from harness.families import Graph, Model, Processor
from harness.families.attached import attached_for
from harness.families.checkpoints import float32_tensors, weights_file
from harness.types import Detections, Masks, ModelSpec, Pixels, Tensors

if TYPE_CHECKING:
    import torch

MASK_THRESHOLD = 0.5
MASK_NEAR = 0.01


class Truth(Protocol):
    """What `losses` reads of a scene: see `harness.fixtures.scenes.Scene`."""

    @property
    def boxes_xyxy_px(self) -> NDArray[np.float32]:
        """``[N, 4]``, pixels of the image."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """``[N]``, from 0."""

    @property
    def masks(self) -> NDArray[np.bool_]:
        """``[N, H, W]``."""


class TorchvisionProcessor:
    """`prepare` scales to 0..1 and puts the channels first; `finish` counts labels from 0 and thresholds the soft masks.

    With ``margins`` it marks the pixels near that threshold too.
    """

    def __init__(self, margins: bool = False) -> None:
        self._margins = margins

    def prepare(self, image: Pixels) -> Tensors:
        """``{"image": float32 [3, H, W]}`` in 0..1, RGB, at the picture's own size."""
        return {"image": np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)}

    def finish(self, outputs: Tensors, image: Pixels) -> Detections:
        """``boxes`` ``[N, 4]``, ``labels`` ``[N]`` from 1, ``scores`` ``[N]``, and ``masks`` ``[N, 1, H, W]`` in 0..1 if any."""
        masks = None
        if "masks" in outputs:
            soft = np.asarray(outputs["masks"], dtype=np.float32).reshape(-1, *image.shape[:2])
            near = np.abs(soft - np.float32(MASK_THRESHOLD)) <= MASK_NEAR if self._margins else None
            masks = Masks.from_full(soft >= MASK_THRESHOLD, near)
        return Detections(
            np.asarray(outputs["boxes"], dtype=np.float32).reshape(-1, 4),
            np.asarray(outputs["scores"], dtype=np.float32).reshape(-1),
            np.asarray(outputs["labels"], dtype=np.int64).reshape(-1) - 1,
            masks,
        )


class TorchvisionFamily:
    """The family object; see `harness.families.Family`. Its configuration is the spec's ``config`` with what the spec adds."""

    name = "torchvision"
    requires = ("torch", "torchvision")

    def materialise(self, spec: ModelSpec, folder: Path) -> Path:
        """A ``.pth`` file with a float32 ``state_dict``. Raises `harness.errors.WrongDigest`."""
        import torch

        tensors = float32_tensors(weights_file(spec.weights))
        path = folder / f"{spec.id}.pth"
        torch.save({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}, path)
        return path

    def build(self, spec: ModelSpec, checkpoint: Path, sample: Pixels) -> Model:
        """The detector with every tensor of the checkpoint and no other: a missing or extra name is an error."""
        import torch

        module, config = self.construct(spec)
        module.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True), strict=True)
        module.eval()
        graph = self.graph(spec, module, sample)
        return Model(spec, module, config, sample, graph, native={}, attached=attached_for(spec))

    def construct(self, spec: ModelSpec) -> tuple[Any, dict[str, Any]]:
        """The untrained module, in training mode, and its configuration. Raises `UnreadableConfig`."""
        config = {
            **spec.config,
            "num_classes": len(spec.classes) + 1,
            "score_threshold": spec.score_threshold,
            "detection_cap": spec.detection_cap,
        }
        architecture = config.get("architecture")
        if architecture not in _ARCHITECTURES:
            raise UnreadableConfig(
                f"{spec.id}: torchvision architecture {architecture!r}", f"Valid: {', '.join(sorted(_ARCHITECTURES))}."
            )
        try:
            return _ARCHITECTURES[architecture](config), config
        except KeyError as error:
            raise UnreadableConfig(f"{spec.id}: the configuration lacks {error}", "Compare with fixtures/models.py.") from error

    def graph(self, spec: ModelSpec, module: Any, sample: Pixels) -> Graph:
        """The module as a function of one image tensor; ``spec.task`` says whether masks come out."""
        import torch

        names = ("boxes", "labels", "scores", "masks") if spec.task == "segmentation" else ("boxes", "labels", "scores")
        axes: dict[str, dict[int, str]] = {"image": {1: "height", 2: "width"}, **{name: {0: "n"} for name in names}}
        if "masks" in axes:
            axes["masks"] = {0: "n", 2: "height", 3: "width"}
        image = torch.from_numpy(np.array(self.processor(spec).prepare(sample)["image"]))
        return Graph(_one_image(module, names), {"image": image}, names, axes)

    def processor(self, spec: ModelSpec) -> Processor:
        """The same for every spec: sizes, means and thresholds are inside the module."""
        return TorchvisionProcessor()

    def predict(self, module: Any, config: Any, images: Sequence[Pixels], margins: bool = False) -> list[Detections]:
        """Answers in order; pictures of one size go in as one list, so that nothing is padded to a neighbour's size."""
        import torch

        ends = TorchvisionProcessor(margins)
        device = next(module.parameters()).device
        answers: dict[int, Detections] = {}
        with torch.no_grad():
            for indices in _by_size(images):
                tensors = [torch.from_numpy(ends.prepare(images[i])["image"]).to(device) for i in indices]
                for index, answer in zip(indices, module(tensors), strict=True):
                    outputs = {name: value.cpu().numpy() for name, value in answer.items()}
                    answers[index] = ends.finish(outputs, images[index])
        return [answers[index] for index in range(len(images))]

    def losses(self, module: Any, config: Any, images: Sequence[Pixels], truths: Sequence[Truth]) -> dict[str, torch.Tensor]:
        """The training losses by name, scalars with gradients, of ``uint8 [H, W, 3]`` images and their truths."""
        import torch

        ends = TorchvisionProcessor()
        targets = [
            {
                "boxes": torch.from_numpy(truth.boxes_xyxy_px.copy()),
                "labels": torch.from_numpy(truth.labels + 1),
                "masks": torch.from_numpy(truth.masks.astype(np.uint8)),
            }
            for truth in truths
        ]
        found: dict[str, torch.Tensor] = module([torch.from_numpy(ends.prepare(image)["image"]) for image in images], targets)
        return found

    def config_text(self, config: Any) -> str:
        """JSON with sorted keys."""
        return json.dumps(config, sort_keys=True, indent=1)


def _by_size(images: Sequence[Pixels]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.shape, []).append(index)
    return list(groups.values())


def _one_image(module: Any, names: tuple[str, ...]) -> Any:
    from torch import Tensor, nn

    class OneImage(nn.Module):  # type: ignore[misc]  # torch is not followed
        """``float32 [3, H, W]`` in 0..1 to the named outputs of torchvision's own answer, as a tuple."""

        def __init__(self) -> None:
            super().__init__()
            self.detector = module

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            answer = self.detector([image])[0]
            return tuple(answer[name] for name in names)

    return OneImage().eval()


def _backbone(config: Mapping[str, Any]) -> Any:
    from torch import nn
    from torchvision.models import mobilenet_v3_small
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    # The moving averages of torchvision's own momentum, 0.01, are too slow for a thousand steps.
    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.05)
    features = mobilenet_v3_small(weights=None, width_mult=config["width"], norm_layer=norm).features
    strided = [index for index, block in enumerate(features) if getattr(block, "_is_cn", False)]
    # The last block of each of the strides 4, 8, 16 and 32.
    taken = [*(index - 1 for index in strided[1:]), len(features) - 1]
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


_ARCHITECTURES = {
    "fasterrcnn_mobilenet_v3_small_fpn": _fasterrcnn,
    "maskrcnn_mobilenet_v3_small_fpn": _maskrcnn,
    "retinanet_mobilenet_v3_small_fpn": _retinanet,
}

FAMILY = TorchvisionFamily()
