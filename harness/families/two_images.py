"""Two pictures of one size in one call of a graph: how such a graph is traced, and how pictures are handed to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from harness.errors import Unavailable
from harness.families import Graph

if TYPE_CHECKING:
    import torch

    from harness.adapters import GraphSession
    from harness.detections import Tensors
    from harness.families import Model
    from harness.types import Effective, Variant


def takes_two(variant: Variant) -> bool:
    """Whether graphs of a variant take two pictures at once."""
    return bool(variant.build.get("images") == 2)


def of_one(variant: Variant) -> Variant:
    """The variant for one picture at a time, as stages are declared; as it is where it has nothing to do with two."""
    if not takes_two(variant):
        return variant
    return dataclasses.replace(variant, build={name: value for name, value in variant.build.items() if name != "images"})


def graph_of_two(model: Model) -> Graph:
    """The model's graph for two pictures: each input and output twice, ``<name>_0`` and ``<name>_1``.

    Raises `Unavailable` for what is not a whole detector: a stage is declared for one picture.
    """
    graph = model.graph
    if list(graph.example) != ["image"] or not (hasattr(graph.module, "detector") or hasattr(graph.module, "inference_func")):
        raise Unavailable("Only a whole detector takes two images at once: its stages are declared for one.")
    image = graph.example["image"]
    # Another picture, so that nothing of the one is taken for the other's.
    example = {"image_0": image, "image_1": image.flip(-1).contiguous()}
    outputs = tuple(f"{name}_{which}" for which in (0, 1) for name in graph.outputs)
    names = (*example, *outputs)
    axes = {name: graph.dynamic_axes[name[:-2]] for name in names if name[:-2] in graph.dynamic_axes}
    module = _detectron2(model, example) if model.spec.family == "detectron2" else _torchvision(model)
    return Graph(module, example, outputs, {name: _named_apart(axes[name], name[-2:]) for name in axes})


def _named_apart(axes: Any, suffix: str) -> dict[int, str]:
    """Pictures share their size, not their number of detections."""
    return {axis: name if name in ("height", "width") else name + suffix for axis, name in axes.items()}


def _detectron2(model: Model, example: dict[str, torch.Tensor]) -> Any:
    from detectron2.export import TracingAdapter

    return TracingAdapter(model.module, [{"image": image} for image in example.values()], model.graph.module.inference_func).eval()


def _torchvision(model: Model) -> Any:
    import torch

    class TwoImages(torch.nn.Module):  # type: ignore[misc] # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.detector = model.graph.module.detector

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(answer[name] for answer in self.detector([first, second]) for name in model.graph.outputs)

    return TwoImages().eval()


class TwoImagesSession:
    """A session of a graph of two images, as one that answers any number: pictures of one size in twos, an odd one given twice."""

    batching = "two images of one size in one call of the graph"

    def __init__(self, session: GraphSession) -> None:
        self._session = session

    @property
    def effective(self) -> Effective:
        """As the session has it."""
        return self._session.effective

    def run(self, tensors: Tensors) -> Tensors:
        """One picture given twice."""
        return self._both(tensors, tensors)[1]

    def run_many(self, batch: Sequence[Tensors]) -> list[Tensors]:
        """In twos of one size, as they come; answers in order."""
        answers: dict[int, Tensors] = {}
        for first, second in _in_twos([tensors["image"].shape for tensors in batch]):
            answers[first], answers[second] = self._both(batch[first], batch[second])
        return [answers[index] for index in range(len(batch))]

    def _both(self, first: Tensors, second: Tensors) -> tuple[Tensors, Tensors]:
        outputs = self._session.run({"image_0": first["image"], "image_1": second["image"]})
        one, other = ({name[:-2]: value for name, value in outputs.items() if name.endswith(end)} for end in ("_0", "_1"))
        return one, other


def _in_twos(shapes: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, int]]:
    """Indices of equal shapes, two by two; the last of an odd number with itself."""
    for shape in dict.fromkeys(shapes):
        same = [index for index, other in enumerate(shapes) if other == shape]
        yield from zip(same[::2], same[1::2] + same[-1:] * (len(same) % 2), strict=True)
