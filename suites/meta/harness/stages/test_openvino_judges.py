"""PyTorch's operators stand in where OpenVINO's core has no evaluation: on sound operators both say the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from harness.stages.openvino_judges import BY_TORCH

openvino = pytest.importorskip("openvino")
pytest.importorskip("torch")

RANDOM = np.random.default_rng(7)
PICTURE = RANDOM.normal(size=(1, 4, 12, 10)).astype(np.float32)
CORNERS = np.sort(RANDOM.uniform(0, 20, size=(6, 2, 2)), axis=1).reshape(6, 4).astype(np.float32)
SCORES = RANDOM.uniform(0.1, 1, size=(1, 2, 6)).astype(np.float32)


def by(name: str, *inputs: Any, **attributes: Any) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    return getattr(openvino.opset13, name), inputs, attributes


def constant(value: Any) -> Any:
    return openvino.opset13.constant(value)


OPERATORS = {
    "Convolution": by("convolution", PICTURE, RANDOM.normal(size=(3, 4, 3, 3)).astype(np.float32), [2, 1], [1, 0], [1, 0], [1, 1]),
    "GroupConvolution": by(
        "group_convolution", PICTURE, RANDOM.normal(size=(2, 3, 2, 3, 3)).astype(np.float32), [1, 1], [1, 1], [1, 1], [1, 1]
    ),
    "ConvolutionBackpropData": by(
        "convolution_backprop_data", PICTURE, RANDOM.normal(size=(4, 3, 2, 2)).astype(np.float32), strides=[2, 2]
    ),
    "AvgPool": by("avg_pool", PICTURE, [2, 2], [1, 1], [1, 1], [3, 3], True, "floor", "explicit"),
    "ROIAlign": by(
        "roi_align",
        PICTURE,
        CORNERS,
        np.zeros(6, np.int32),
        pooled_h=3,
        pooled_w=2,
        sampling_ratio=2,
        spatial_scale=0.5,
        mode="avg",
        aligned_mode="half_pixel_for_nn",
    ),
    "GatherND": by("gather_nd", PICTURE[0, 0], np.array([[1, 2], [11, 0]])),
    "NonMaxSuppression": by(
        "non_max_suppression",
        CORNERS[None],
        SCORES,
        constant(np.int64(4)),
        constant(np.float32(0.3)),
        constant(np.float32(0.2)),
        box_encoding="corner",
        sort_result_descending=False,
    ),
}


@pytest.mark.parametrize("kind", BY_TORCH)
def test_torch_says_what_the_plugin_does(kind: str) -> None:
    make, inputs, attributes = OPERATORS[kind]
    arrays = [value for value in inputs if isinstance(value, np.ndarray)]
    parameters = [openvino.opset13.parameter(value.shape, openvino.Type(value.dtype)) for value in arrays]
    given = iter(parameters)
    op = make(*(next(given) if isinstance(value, np.ndarray) else value for value in inputs), **attributes)
    assert op.get_type_name() == kind
    model = openvino.Model([op.output(index) for index in range(op.get_output_size())], parameters, kind)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answers = compiled(arrays)
    fed = [*arrays, *(value.get_node().data for value in op.input_values() if value.get_node().get_type_name() == "Constant")]
    judged = BY_TORCH[kind](op.get_attributes(), fed)
    assert judged is not None
    assert len(judged) == op.get_output_size()
    for index, mine in enumerate(judged):
        assert mine.dtype == answers[index].dtype
        np.testing.assert_allclose(mine, answers[index], rtol=1e-5, atol=1e-6)
