"""A way round Detectron2's keypoint decoding, which no exporter to ONNX takes along: the graph ends at the heatmaps.

`heatmaps_to_keypoints` resizes each heatmap to its own box in a scripted loop, which `torch.onnx.export` cannot translate
(``docs/findings/detectron2_keypoint_export.py``). Where a graph gives no keypoints, the family decodes the heatmaps on the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.families import Graph

if TYPE_CHECKING:
    import torch

    from harness.families import Model

HEATMAPS = "keypoint_heatmaps"
DECODED = "keypoints"


def graph_without_decoding(model: Model) -> Graph:
    """The model's graph with the heatmaps, but without the keypoints decoded from them; as it is where it does not give both."""
    import torch

    graph = model.graph
    if not {HEATMAPS, DECODED} <= set(graph.outputs):
        return graph
    kept = [index for index, name in enumerate(graph.outputs) if name != DECODED]

    class WithoutDecoding(torch.nn.Module):  # type: ignore[misc] # torch has no types here
        def __init__(self) -> None:
            super().__init__()
            self.detector = graph.module

        def forward(self, *tensors: torch.Tensor) -> tuple[Any, ...]:
            outputs = self.detector(*tensors)
            return tuple(outputs[index] for index in kept)

    axes = {name: axes for name, axes in graph.dynamic_axes.items() if name != DECODED}
    return Graph(WithoutDecoding().eval(), graph.example, tuple(graph.outputs[index] for index in kept), axes)
