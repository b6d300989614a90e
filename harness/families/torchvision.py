"""torchvision's detectors on a MobileNetV3: Faster, Mask and Keypoint R-CNN, RetinaNet and FCOS with a feature pyramid, SSDlite.

The resize, the normalisation and the pasting of masks are inside the module, so the graph takes the picture at its own size and
answers in its pixels. Labels count from 1 inside the module (0 is background) and from 0 outside.

Besides the `harness.families.Family` protocol this family offers what `harness.fixtures.train` needs: `construct` and `losses`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.detections import Detections, Masks, Pixels, Tensors
from harness.errors import UnreadableConfig
from harness.families import Graph, Model, Processor, whole_numbers
from harness.families.attached import attached_for
from harness.families.checkpoints import float32_tensors, weights_file
from harness.families.torchvision_architectures import ARCHITECTURES
from harness.types import ModelSpec

if TYPE_CHECKING:
    import torch

    from harness.ledger import Ledger
    from harness.stages import Stage

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

    @property
    def keypoints(self) -> NDArray[np.float32]:
        """``[N, K, 3]``: x and y in pixels of the image, and COCO's visibility."""

    @property
    def semantic(self) -> NDArray[np.int64]:
        """``[H, W]``: 0 where an object shows, from 1 the index of the stuff elsewhere."""


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
        """``boxes`` ``[N, 4]``, ``labels`` ``[N]`` from 1 and ``scores`` ``[N]`` as detections.

        If there are any: ``masks`` ``[N, 1, H, W]`` in 0..1; ``keypoints`` ``[N, K, 3]`` (x, y, visibility) with their
        ``keypoints_scores`` ``[N, K]``, which are logits.
        """
        masks = keypoints = None
        if "masks" in outputs:
            soft = np.asarray(outputs["masks"], dtype=np.float32).reshape(-1, *image.shape[:2])
            near = np.abs(soft - np.float32(MASK_THRESHOLD)) <= MASK_NEAR if self._margins else None
            masks = Masks.from_full(soft >= MASK_THRESHOLD, near)
        if "keypoints" in outputs:
            keypoints = np.array(outputs["keypoints"], dtype=np.float32)
            keypoints[:, :, 2] = outputs["keypoints_scores"]
        return Detections(
            np.asarray(outputs["boxes"], dtype=np.float32).reshape(-1, 4),
            np.asarray(outputs["scores"], dtype=np.float32).reshape(-1),
            whole_numbers("labels", outputs["labels"]).reshape(-1) - 1,
            masks,
            keypoints=keypoints,
        )


class TorchvisionFamily:
    """The family object; see `harness.families.Family`. Its configuration is the spec's ``config`` with what the spec adds."""

    name = "torchvision"
    requires = ("torch", "torchvision")
    first_label = 1

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
        architecture = str(config.get("architecture"))
        if architecture not in ARCHITECTURES:
            raise UnreadableConfig(
                f"{spec.id}: torchvision architecture {architecture!r}", f"Valid: {', '.join(sorted(ARCHITECTURES))}."
            )
        try:
            return self.module_of(config), config
        except KeyError as error:
            raise UnreadableConfig(f"{spec.id}: the configuration lacks {error}", "Compare with fixtures/models.py.") from error

    def graph(self, spec: ModelSpec, module: Any, sample: Pixels) -> Graph:
        """The module as a function of one image tensor; ``spec.outputs`` says whether masks or keypoints come out."""
        import torch

        names = ("boxes", "labels", "scores", *(name for kind in sorted(spec.outputs) for name in _OUTPUTS[kind]))
        axes: dict[str, dict[int, str]] = {"image": {1: "height", 2: "width"}, **{name: {0: "n"} for name in names}}
        if "masks" in axes:
            axes["masks"] = {0: "n", 2: "height", 3: "width"}
        image = torch.from_numpy(np.array(self.processor(spec).prepare(sample)["image"]))
        return Graph(_one_image(module, names), {"image": image}, names, axes)

    def processor(self, spec: ModelSpec) -> Processor:
        """The same for every spec: sizes, means and thresholds are inside the module."""
        return TorchvisionProcessor()

    def predict(
        self, module: Any, config: Any, images: Sequence[Pixels], margins: bool = False, *, mixed: bool = False
    ) -> list[Detections]:
        """Answers in order; pictures of one size go in as one list, so that nothing is padded to a neighbour's size.

        With ``mixed`` all of them do, and are.
        """
        import torch

        ends = TorchvisionProcessor(margins)
        device = next(module.parameters()).device
        answers: dict[int, Detections] = {}
        with torch.no_grad():
            for indices in [list(range(len(images)))] if mixed else _by_size(images):
                tensors = [torch.from_numpy(ends.prepare(images[i])["image"]).to(device) for i in indices]
                for index, answer in zip(indices, module(tensors), strict=True):
                    # NumPy has no bfloat16; float32 holds each of its numbers.
                    widened = {k: v.float() if v.dtype is torch.bfloat16 else v for k, v in answer.items()}
                    outputs = {name: value.cpu().numpy() for name, value in widened.items()}
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
                "keypoints": torch.from_numpy(truth.keypoints),
            }
            for truth in truths
        ]
        found: dict[str, torch.Tensor] = module([torch.from_numpy(ends.prepare(image)["image"]) for image in images], targets)
        return found

    def stages(self, spec: ModelSpec, module: Any) -> tuple[Stage, ...]:
        """`harness.families.torchvision_stages.stages`."""
        from harness.families import torchvision_stages

        return torchvision_stages.stages(module)

    def ledger(self, module: Any, config: Any, image: Pixels) -> Ledger | None:
        """`harness.families.torchvision_ledger.record`."""
        from harness.families import torchvision_ledger

        return torchvision_ledger.record(module, lambda: self.predict(module, config, [image]), image.shape[:2])

    def config_text(self, config: Any) -> str:
        """JSON with sorted keys."""
        return json.dumps(config, sort_keys=True, indent=1)

    def written_config(self, config: Any) -> str | None:
        """JSON."""
        return self.config_text(config)

    def config_of(self, text: str) -> Any:
        """The dictionary that was written."""
        try:
            return dict(json.loads(text))
        except ValueError as error:
            raise UnreadableConfig(f"the stored configuration cannot be read: {error}", "Save the model again.") from error

    def module_of(self, config: Any) -> Any:
        """As `construct` makes it of a spec's configuration."""
        return ARCHITECTURES[str(config["architecture"])](config)


_OUTPUTS = {"masks": ("masks",), "keypoints": ("keypoints", "keypoints_scores")}
"""What torchvision calls the outputs that belong to a field of `Detections`."""


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


FAMILY = TorchvisionFamily()
