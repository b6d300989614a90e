"""A graph that ends at the heatmaps: every other output stays, in its order, and what has no keypoints is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.families import Graph, Model
from harness.families.detectron2_keypoints import DECODED, graph_without_decoding
from harness.suites.meta.harness.adapters.graphs import SPEC

OUTPUTS = ("boxes", "keypoint_heatmaps", "keypoints", "scores")


def numbered(outputs: tuple[str, ...]) -> Model:
    """A graph whose outputs are the image plus their number."""
    import torch

    class Numbered(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(image + index for index in range(len(outputs)))

    graph = Graph(Numbered().eval(), {"image": torch.zeros(2)}, outputs, {name: {0: "detections"} for name in outputs})
    return Model(SPEC, graph.module, None, np.zeros((2, 2, 3), np.uint8), graph)


def test_the_decoded_keypoints_alone_are_left_out() -> None:
    model = numbered(OUTPUTS)
    graph = graph_without_decoding(model)
    assert graph.outputs == ("boxes", "keypoint_heatmaps", "scores")
    assert [float(value[0]) for value in graph.module(*graph.example.values())] == [0, 1, 3]
    assert set(graph.dynamic_axes) == set(OUTPUTS) - {DECODED}
    assert graph.example is model.graph.example


@pytest.mark.parametrize("outputs", [("boxes", "scores"), ("keypoints",), ("boxes", "keypoints", "scores")])
def test_a_graph_without_heatmaps_is_left_as_it_is(outputs: tuple[str, ...]) -> None:
    model = numbered(outputs)
    assert graph_without_decoding(model) is model.graph
    assert graph_without_decoding(replace(model)) is model.graph
