"""A way round torchvision's traced resize: the size to which a picture is resized becomes an input of the graph.

Traced, torchvision works out that size in single precision and misses the live model's by a pixel on some pictures
(``docs/findings/torchvision_traced_resize.py``). Here the caller works it out in Python, as the live model does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.families import Graph

if TYPE_CHECKING:
    import torch

    from harness.detections import Tensors
    from harness.families import Model
    from harness.types import ModelSpec

SIZE = "resized_hw_px"


def has_one_size(spec: ModelSpec) -> bool:
    """Whether the detector resizes every picture to one size, as SSD does: then there is no size to work out."""
    return spec.family == "torchvision" and str(spec.config.get("architecture", "")).startswith("ssd")


def limits_px(model: Model) -> tuple[int, int] | None:
    """The detector's ``min_size`` and ``max_size`` in eval mode; None where it has one size."""
    if model.module.transform.fixed_size is not None:
        return None
    return int(model.module.transform.min_size[-1]), int(model.module.transform.max_size)


def with_size(tensors: Tensors, limits_px: tuple[int, int]) -> Tensors:
    """The graph's tensors with ``resized_hw_px int64 [2]`` for the image ``[3, H, W]``; as they are where there is none."""
    if "image" not in tensors:
        return tensors
    sides = tensors["image"].shape[-2:]
    scale = min(limits_px[0] / min(sides), limits_px[1] / max(sides))
    return {**tensors, SIZE: np.array([int(side * scale) for side in sides], dtype=np.int64)}


def graph_with_size(model: Model) -> Graph:
    """The model's graph with the resized size as its last input.

    A stage that is not fed the picture stays as it is, and so does a detector that has one size.
    """
    import torch

    limits = limits_px(model)
    if "image" not in model.graph.example or limits is None:
        return model.graph

    class SizeGiven(torch.nn.Module):  # type: ignore[misc] # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.detector = model.graph.module

        def forward(self, *tensors: torch.Tensor) -> Any:
            *given, size = tensors
            with _resizing_to(size):
                return self.detector(*given)

    arrays = {name: value.numpy() for name, value in model.graph.example.items()}
    size = torch.from_numpy(with_size(arrays, limits)[SIZE])
    return Graph(SizeGiven().eval(), {**model.graph.example, SIZE: size}, model.graph.outputs, model.graph.dynamic_axes)


@contextmanager
def _resizing_to(size: torch.Tensor) -> Iterator[None]:
    """While this lasts torchvision's detectors resize pictures to ``size`` (height, width); there is no hook to say so."""
    import torch
    from torchvision.models.detection import transform

    def resize(image: torch.Tensor, _min: int, _max: int, target: Any = None, _fixed: Any = None) -> tuple[torch.Tensor, Any]:
        sides = [size[0], size[1]]
        return torch.nn.functional.interpolate(image[None], size=sides, mode="bilinear", align_corners=False)[0], target

    before = transform._resize_image_and_masks  # noqa: SLF001 - torchvision offers no other place to step in
    transform._resize_image_and_masks = resize  # noqa: SLF001
    try:
        yield
    finally:
        transform._resize_image_and_masks = before  # noqa: SLF001
