"""What OpenVINO's core cannot evaluate without a plugin, by PyTorch's operator: each takes an operator's attributes and inputs.

They give None for attributes that PyTorch's operator does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Attributes: TypeAlias = Mapping[str, Any]
Values: TypeAlias = Sequence[NDArray[Any]]
Judge: TypeAlias = Callable[[Attributes, Values], list[NDArray[Any]] | None]


def convolution(said: Attributes, inputs: Values) -> list[NDArray[Any]] | None:
    """``Convolution``: data ``[N, C, H, W]``, weights ``[O, C, h, w]``."""
    data, weights = _tensors(inputs)
    return _convolved(said, data, weights, 1)


def group_convolution(said: Attributes, inputs: Values) -> list[NDArray[Any]] | None:
    """``GroupConvolution``: weights ``[G, O, C, h, w]``."""
    data, weights = _tensors(inputs)
    return _convolved(said, data, weights.flatten(0, 1), weights.shape[0])


def transposed_convolution(said: Attributes, inputs: Values) -> list[NDArray[Any]] | None:
    """``ConvolutionBackpropData`` without an output shape of its own."""
    import torch

    if len(inputs) != 2 or not _symmetric(said):
        return None
    return [torch.nn.functional.conv_transpose2d(*_tensors(inputs), **_spacing(said)).numpy()]


def average_pooling(said: Attributes, inputs: Values) -> list[NDArray[Any]] | None:
    """``AvgPool``: data ``[N, C, H, W]``."""
    import torch

    if not _symmetric(said) or said["rounding_type"] != "floor":
        return None
    options = {"stride": list(said["strides"]), "padding": list(said["pads_begin"]), "count_include_pad": not said["exclude-pad"]}
    return [torch.nn.functional.avg_pool2d(_tensors(inputs)[0], list(said["kernel"]), **options).numpy()]


def region_align(said: Attributes, inputs: Values) -> list[NDArray[Any]] | None:
    """``ROIAlign``: data ``[N, C, H, W]``, boxes ``[K, 4]`` as XYXY, the picture of each ``[K]``."""
    import torch
    from torchvision.ops import roi_align

    aligned = {"asymmetric": False, "half_pixel_for_nn": True}.get(said["aligned_mode"])
    if said["mode"] != "avg" or aligned is None:
        return None
    data, boxes, of = _tensors(inputs)
    size = (said["pooled_h"], said["pooled_w"])
    regions = torch.cat([of[:, None].to(boxes.dtype), boxes], dim=1)
    return [roi_align(data, regions, size, said["spatial_scale"], said["sampling_ratio"] or -1, aligned).numpy()]


def suppression(said: Attributes, inputs: Values) -> list[NDArray[Any]] | None:
    """``NonMaxSuppression``: boxes ``[N, B, 4]`` by their corners, scores ``[N, C, B]``, the most a class, thresholds.

    What is kept is in the order of pictures, then classes, then falling scores: judged only where that is asked for, or is all one.
    """
    import torch
    from torchvision.ops import nms

    boxes, scores = _tensors(inputs[:2])
    given = [float(np.asarray(value).item()) for value in inputs[2:6]]
    most, overlap, least, sigma = given + _NMS_DEFAULTS[len(given) :]
    several = scores.shape[0] * scores.shape[1] > 1
    if said["box_encoding"] != "corner" or sigma or (several and said["sort_result_descending"]):
        return None
    rows = []
    for picture in range(scores.shape[0]):
        for label in range(scores.shape[1]):
            above = torch.nonzero(scores[picture, label] > least).flatten()
            kept = above[nms(boxes[picture, above], scores[picture, label, above], overlap)][: int(most)]
            rows += [(picture, label, int(box)) for box in kept]
    kind = np.int32 if said["output_type"] == "i32" else np.int64
    chosen = np.array(rows, dtype=kind).reshape(-1, 3)
    values = [[float(picture), float(label), float(scores[picture, label, box])] for picture, label, box in rows]
    return [chosen, np.array(values, dtype=np.float32).reshape(-1, 3), np.array([len(rows)], dtype=kind)]


_NMS_DEFAULTS = [0.0, 0.0, 0.0, 0.0]
"""The most a class, the overlap, the least score, the sigma of soft suppression."""


def gather(said: Attributes, inputs: Values) -> list[NDArray[Any]] | None:
    """``GatherND`` without leading axes in common."""
    data, places = inputs
    return None if said["batch_dims"] else [data[tuple(np.moveaxis(places, -1, 0))]]


BY_TORCH: Mapping[str, Judge] = {
    "AvgPool": average_pooling,
    "Convolution": convolution,
    "ConvolutionBackpropData": transposed_convolution,
    "GatherND": gather,
    "GroupConvolution": group_convolution,
    "NonMaxSuppression": suppression,
    "ROIAlign": region_align,
}
"""By the operator's type."""


def _convolved(said: Attributes, data: Any, weights: Any, groups: int) -> list[NDArray[Any]] | None:
    import torch

    if not _symmetric(said):
        return None
    return [torch.nn.functional.conv2d(data, weights, groups=groups, **_spacing(said)).numpy()]


def _spacing(said: Attributes) -> dict[str, Any]:
    return {"stride": list(said["strides"]), "padding": list(said["pads_begin"]), "dilation": list(said["dilations"])}


def _symmetric(said: Attributes) -> bool:
    return list(said["pads_begin"]) == list(said["pads_end"]) and said["auto_pad"] == "explicit"


def _tensors(values: Values) -> list[Any]:
    import torch

    return [torch.from_numpy(np.array(value)) for value in values]
