"""What is measured of matched pairs: M detections of the reference beside their M partners, row by row.

Measuring is symmetric but for sizes, for mask pixels near the threshold and for the scale of raw tensors, which are taken from the
reference. A difference from a value that is not finite, or between arrays of unlike shapes, is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness import levels
from harness.detections import Detections, Masks
from harness.match import iou

Quantity: TypeAlias = Literal[
    "score",
    "box_px",
    "iou",
    "side_px",
    "class_differs",
    "mask_iou",
    "mask_area_px",
    "mask_flipped_px",
    "mask_unexplained_px",
    "raw_mask_share",
    "raw_mask_cosine",
    "keypoint_px",
    "keypoint_score",
]
Column: TypeAlias = NDArray[np.float64]
Values: TypeAlias = dict[Quantity, Column]
Pairs: TypeAlias = NDArray[np.intp]
"""``intp [M, 2]``: index in the reference, index in the candidate."""


def box_values(reference: Detections, candidate: Detections, pairs: Pairs) -> Values:
    """What every detector answers: box, score, class."""
    rows, columns = pairs.T
    a, b = reference.boxes_xyxy_px[rows].astype(np.float64), candidate.boxes_xyxy_px[columns].astype(np.float64)
    return {
        "score": _apart(reference.scores[rows], candidate.scores[columns]),
        "box_px": np.abs(a - b).max(axis=1, initial=0.0),
        "iou": np.where((a == b).all(axis=1), 1.0, iou(a, b)),
        "side_px": np.minimum(a[:, 2] - a[:, 0], a[:, 3] - a[:, 1]),
        "class_differs": (reference.labels[rows] != candidate.labels[columns]).astype(np.float64),
    }


def _apart(a: NDArray[np.float32], b: NDArray[np.float32]) -> Column:
    """The absolute difference; infinite where one is not finite."""
    apart: Column = np.full(a.shape, np.inf)
    np.subtract(a, b, out=apart, where=np.isfinite(a) & np.isfinite(b), dtype=np.float64)
    return np.abs(apart)


def keypoint_distances_px(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> Column:
    """How far each keypoint lies from its partner: ``float64 [M, K]`` of two ``float32 [M, K, 3]``."""
    if reference.shape != candidate.shape:
        return np.full(reference.shape[:2], np.inf)
    apart = _apart(reference[:, :, :2], candidate[:, :, :2])
    return np.hypot(apart[:, :, 0], apart[:, :, 1])


def keypoint_values(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], excused: NDArray[np.bool_] | None = None
) -> Values:
    """The farthest of the K points of each pair, and the largest difference of their scores.

    ``excused`` ``bool [M, K]`` are points whose distance a tie explains: it counts as none.
    """
    alike = reference.shape == candidate.shape
    scores = _apart(reference[:, :, 2], candidate[:, :, 2]) if alike else np.full(reference.shape[:2], np.inf)
    apart_px = keypoint_distances_px(reference, candidate)
    if excused is not None:
        apart_px[excused] = 0.0
    return {
        "keypoint_px": apart_px.max(axis=1, initial=0.0),
        "keypoint_score": scores.max(axis=1, initial=0.0),
    }


def raw_mask_values(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> Values:
    """Of two ``float32 [M, R, R]``: the largest difference as a share of its level, and the cosine of the two."""
    count = len(reference)
    if reference.shape != candidate.shape:
        return {"raw_mask_share": np.full(count, np.inf), "raw_mask_cosine": np.full(count, -1.0)}
    a, b = (side.reshape(count, math.prod(side.shape[1:])).astype(np.float64) for side in (reference, candidate))
    with np.errstate(invalid="ignore", divide="ignore"):
        # A difference of 0 is none, even where the level is 0 too; what is not finite differs infinitely.
        share = np.where(a == b, 0.0, np.nan_to_num(np.abs(a - b) / levels.raw_level(a), nan=np.inf, posinf=np.inf))
        cosine = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    finite = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    return {
        "raw_mask_share": np.where(finite, share.max(axis=1, initial=0.0), np.inf),
        "raw_mask_cosine": np.where((a == b).all(axis=1), 1.0, np.where(finite, np.nan_to_num(cosine), -1.0)),
    }


def mask_values(reference: Masks, candidate: Masks) -> tuple[Values, int]:
    """Of M masks a side, and how many pixels are set in either mask of a pair, over all pairs.

    Masks of pictures of unlike size agree in no pixel.
    """
    if reference.size_hw_px != candidate.size_hw_px:
        areas = np.array([crop.sum() for crop in reference.crops], np.float64)
        nowhere = np.full(areas.shape, np.inf)
        unlike: Values = {"mask_iou": np.zeros_like(areas), "mask_area_px": areas}
        return unlike | {"mask_flipped_px": nowhere, "mask_unexplained_px": nowhere}, int(areas.sum())
    rows = np.array([_mask_pair(reference, candidate, index) for index in range(len(reference))], np.float64).reshape(-1, 4)
    union, intersection, area, unexplained = rows.T
    iou = np.divide(intersection, union, out=np.ones_like(union), where=union > 0)
    values: Values = {
        "mask_iou": iou,
        "mask_area_px": area,
        "mask_flipped_px": union - intersection,
        "mask_unexplained_px": unexplained,
    }
    return values, int(union.sum())


def _mask_pair(reference: Masks, candidate: Masks, index: int) -> tuple[int, int, int, int]:
    """Union, intersection, area of the reference's mask and unexplained flips of pair ``index``, in pixels.

    A pixel that flips is explained only by the reference: a candidate that called all its pixels doubtful would excuse itself.
    """
    spans = [_span(masks, index) for masks in (reference, candidate)]
    window = (*np.minimum(*(s[:2] for s in spans)), *np.maximum(*(s[2:] for s in spans)))
    mine = _in_window(reference, reference.crops, index, window)
    theirs = _in_window(candidate, candidate.crops, index, window)
    flipped = mine ^ theirs
    if reference.near_crops is not None:
        unexplained = flipped & ~_in_window(reference, reference.near_crops, index, window)
    else:
        unexplained = flipped
    return int((mine | theirs).sum()), int((mine & theirs).sum()), int(mine.sum()), int(unexplained.sum())


def _span(masks: Masks, index: int) -> NDArray[np.int64]:
    x, y = masks.origins_xy_px[index]
    height, width = masks.crops[index].shape
    return np.array([x, y, x + width, y + height], dtype=np.int64)


def _in_window(masks: Masks, crops: Sequence[NDArray[np.bool_]], index: int, window_xyxy_px: Sequence[int]) -> NDArray[np.bool_]:
    x1, y1, x2, y2 = (int(v) for v in window_xyxy_px)
    full = np.zeros((y2 - y1, x2 - x1), dtype=np.bool_)
    left, top, right, bottom = (int(v) for v in _span(masks, index))
    full[top - y1 : bottom - y1, left - x1 : right - x1] = crops[index]
    return full
