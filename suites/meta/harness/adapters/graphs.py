"""A graph small enough to convert in a moment that still does what detectors do: as many answers as the picture has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.families import Graph, Model
from harness.types import ModelSpec, Weights

if TYPE_CHECKING:
    from harness.adapters import Adapter, GraphSession
    from harness.detections import Pixels, Tensors

SPEC = ModelSpec("picker", "torchvision", {}, Weights("path", "none", ""), "detection", ("bright",), 0.5, 100)


def picker(*, threshold: float = 0.5) -> Model:
    """``image float32 [3, H, W]`` to ``places int64 [N, 2]`` (y, x) and ``scores float32 [N]`` of what is above the threshold."""
    import torch
    from torch import nn

    class Picker(nn.Module):
        """As torchvision's detectors: takes a list of pictures, answers with a list of named tensors."""

        def __init__(self) -> None:
            super().__init__()
            self.smooth = nn.Conv2d(3, 1, 3, padding=1)

        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            return [self.pick(one) for one in self.smooth(torch.stack(images))[:, 0]]

        def pick(self, brightness: torch.Tensor) -> dict[str, torch.Tensor]:
            places = torch.nonzero(brightness > threshold)
            return {"places": places, "scores": brightness[places[:, 0], places[:, 1]]}

    class OneImage(nn.Module):
        def __init__(self, detector: Picker) -> None:
            super().__init__()
            self.detector = detector

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.detector([image])[0].values())

    torch.manual_seed(5)
    module = Picker().eval()
    torch.nn.init.uniform_(module.smooth.weight, 0, 0.1)
    example = {"image": torch.from_numpy(picture(24, 32)["image"])}
    axes = {"image": {1: "height", 2: "width"}, "places": {0: "n"}, "scores": {0: "n"}}
    graph = Graph(OneImage(module).eval(), example, ("places", "scores"), axes)
    return Model(SPEC, module, None, np.zeros((24, 32, 3), np.uint8), graph, calibration=_pictures)


def _pictures() -> list[Pixels]:
    return [(picture(24, 32, seed)["image"].transpose(1, 2, 0) * 255).astype(np.uint8) for seed in range(4)]


def picture(height: int, width: int, seed: int = 0) -> dict[str, Any]:
    """``{"image": float32 [3, height, width]}`` in 0..1."""
    return {"image": np.random.default_rng(seed).random((3, height, width), dtype=np.float32)}


def eager(model: Model, tensors: Tensors) -> dict[str, Any]:
    """What the live graph answers."""
    import torch

    with torch.no_grad():
        answers = model.graph.module(torch.from_numpy(tensors["image"].copy()))
    return {name: value.numpy() for name, value in zip(model.graph.outputs, answers, strict=True)}


@dataclass(frozen=True)
class Opened:
    """A graph adapter's session on the picker, what made it, and where its artifact lies."""

    session: GraphSession
    model: Model
    adapter: Adapter
    artifact: Path
