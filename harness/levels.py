"""The numbers that make a check mean something, and where they come from.

They are those of "Output parity at fp32" and of "Throughput" in the project's levels: drawn from Detectron2's own tests, MLPerf,
OpenVINO's output validation and Triton's stability rule, and from measurements of trained small detectors on CPU (there, the
reference against itself differs by 5e-5 px and 2e-6 in score, sound backends by about as much, broken ones by 20 px and 0.3).
**They are never loosened to make a backend pass.**

``F`` is the noise floor: how far the reference's own repeats, over thread counts and equal-size batches, differ from it, measured
in the same run. It may raise a level up to a fixed limit, so that a noisy reference cannot excuse everything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

FLOOR_FACTOR = 4.0
"""A level is at least four times the noise floor F."""

SCORE = 1e-4
SCORE_LIMIT = 1e-3
SCORE_NOTED = 2e-5
"""Score differences, absolute: the level, the most that F may raise it to, and what is worth a note in a record that passes."""

BOX_PX = 1e-2
BOX_PER_SIDE = 1e-4
BOX_LIMIT_PX = 0.1
BOX_NOTED_PX = 1e-3
BOX_MIN_SIDE_PX = 8.0
"""Box differences, the largest of the four coordinates; judged where the shorter side of the reference's box is at least 8 px."""

IOU_LARGE = 0.999
IOU_LARGE_SIDE_PX = 32.0
IOU_SMALL = 0.99
"""IoU of matched boxes from 32 px and from `BOX_MIN_SIDE_PX` (shorter side of the reference's box); below that it is not used."""

MASK_IOU_LARGE = 0.999
MASK_LARGE_AREA_PX = 1024
MASK_IOU_SMALL = 0.99
MASK_SMALL_AREA_PX = 64
"""IoU of matched masks from 1024 and from 64 set pixels in the reference's mask; below that it is not used."""

KEYPOINT_PX = 0.1
"""How far a keypoint of a matched detection may lie from the reference's."""

PANOPTIC_QUALITY = 0.999
"""Panoptic quality against the reference's segments, in 0..1; beside it, no segment may be missing or extra."""

RAW_COSINE = 0.99999
"""The least cosine between two raw tensors, such as a head's."""

PRECISION_POINTS = 0.02
AGREEMENT_POINTS = 99.9
"""In points, AP x 100: how far AP against the ground truth may lie from the reference's, and the least agreement AP."""

KEPT_PERCENT: Mapping[str, float] = MappingProxyType({"fp16": 99.9, "bf16": 99.9, "int8": 99.0})
KEPT_OBJECTS = 1000
"""By precision class, the least share of the reference's AP that is kept; with fewer objects it is not established."""

CERTIFIED_SHARE = 0.005
"""Of all of the reference's detections, at most this share (or one detection) may differ for a certified reason."""

RAW_PER_MAX = 1e-5
RAW_PER_VALUE = 1e-4
"""Raw tensors, such as a head's: the level of each value is the first of the tensor's largest, and the second of the value."""

RESIZED_PER_MAX = 1e-4
"""In place of `RAW_PER_MAX` where a picture was resized: two honest ways to work out the place to sample round apart by 1.2e-7 of a
coordinate, 4e-5 px at 320 px, and a picture may step from its least to its largest value, twice the largest, within a pixel."""

INSIDE_PX = 1e-3
"""How far a box may reach over the edge of its image: one rounding of a float32 coordinate of up to 8192 px."""

KEYPOINT_OUTSIDE = 0.01
"""How far a keypoint may reach over the edge of its box, of the image's side: a box below one pixel of the resized picture is taken
for one pixel wide, its points lie in the middle of that, and no detector looks at pictures of fewer than 50 px."""

MASK_GROSS_AREA_PX = 16
MASK_GROSS_IOU = 0.5
"""A mask of so many pixels that shares less than half with what it was is another mask, though it be too small for a level."""

MEDIAN_SAMPLES = 11
"""Calls that a median needs: the fewest whose order statistics bound it at 99.9 %."""

PERCENTILE_SAMPLES = {50: MEDIAN_SAMPLES, 90: 64, 95: 130, 99: 662}
"""Calls that each percentile needs: with fewer it is not told."""

STEADY_WINDOWS = 3
STEADY_SPREAD = {"cpu": 1.05, "cuda": 1.03}
"""The last so many windows of calls lie within this ratio of each other, or nothing is established."""

FEWEST_PROCESSES, MOST_PROCESSES = 5, 20
"""Processes a side, within the budget: iterations within one are not independent."""

HARNESS_SHARE = 0.01
"""Of the wall-clock time of a timed loop, what may lie between the calls."""

LITTLE = 0.05
"""By so much may clients at once differ from answers a second times latency, for a load of waiting clients to be believed."""

LATE = 0.01
"""Of the requests of a load, the share that its generator may send too late."""

CACHED = 0.9
"""A picture asked once more that takes a smaller share of the time than this, for sure, was not looked at again."""

TIMED_MARGIN = 0.02
"""A share by which a timing may change before it is a regression."""


def score_level(floor: float = 0.0) -> float:
    """The largest difference in score that counts as none, for a noise floor in score."""
    return min(max(SCORE, FLOOR_FACTOR * floor), SCORE_LIMIT)


def box_level_px(side_px: NDArray[np.float64], floor_px: float = 0.0) -> NDArray[np.float64]:
    """The largest difference in px for boxes of shorter side ``float64 [N]``; infinite where the side is too small to judge."""
    return np.where(side_px >= BOX_MIN_SIDE_PX, box_reach_px(side_px, floor_px), np.inf)


def box_reach_px(side_px: NDArray[np.float64], floor_px: float = 0.0) -> NDArray[np.float64]:
    """How far a coordinate may move before it counts, for boxes of shorter side ``float64 [N]``, too small to judge or not."""
    reach: NDArray[np.float64] = np.minimum(np.maximum(BOX_PER_SIDE * side_px, max(BOX_PX, FLOOR_FACTOR * floor_px)), BOX_LIMIT_PX)
    return reach


def iou_level(side_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """The least IoU for boxes of shorter side ``float64 [N]``; 0 where the side is too small to judge."""
    return np.select([side_px >= IOU_LARGE_SIDE_PX, side_px >= BOX_MIN_SIDE_PX], [IOU_LARGE, IOU_SMALL], 0.0)


def mask_iou_level(area_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """The least IoU for masks of ``float64 [N]`` set pixels; 0 where the mask is too small to judge."""
    return np.select([area_px >= MASK_LARGE_AREA_PX, area_px >= MASK_SMALL_AREA_PX], [MASK_IOU_LARGE, MASK_IOU_SMALL], 0.0)


RAW_SHARE_LIMIT = 10.0
"""The most, in terms of their level, that F may raise the level of raw masks to: as `SCORE_LIMIT` is ten times `SCORE`.

The level is meant for a head that is fed the same tensors. At the end of a whole detector the reference itself misses it: a
panoptic FPN with two threads by a factor of 1.33, boxes within 3e-5 px and scores within 4e-6.
"""


def raw_share_level(floor: float = 0.0) -> float:
    """The largest difference of raw masks that counts as none, in terms of their level, for a noise floor in the same terms."""
    return min(max(1.0, FLOOR_FACTOR * floor), RAW_SHARE_LIMIT)


def raw_level(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest difference that counts as none for each value of raw tensors, ``float64 [N, V]``, one tensor a row."""
    size: NDArray[np.float64] = np.abs(values)
    level: NDArray[np.float64] = RAW_PER_MAX * size.max(axis=1, initial=0.0, keepdims=True) + RAW_PER_VALUE * size
    return level


def certified_allowed(detections: int) -> int:
    """How many unmatched detections a certificate may excuse on a model and deck with this many in the reference."""
    return max(1, math.floor(CERTIFIED_SHARE * detections + 1e-9))


TABLE = (
    ("a restored model: weights, answers, config, attachments", "equal, bit for bit"),
    ("matching", "as sets, by IoU without class, one to one, optimal; both directions"),
    ("unmatched detections", "0, save certified ties: at most one, or 0.5 %, of a model and deck"),
    ("class of matched", "100 %"),
    ("score", "max(1e-4, 4F), never above 1e-3; above 2e-5 is noted"),
    ("box, side from 8 px", "max(0.01 px, 1e-4 x side, 4F), never above 0.1 px; above 0.001 px is noted"),
    ("IoU of matched", "at least 0.999 from 32 px of side, 0.99 from 8 px, not used below"),
    ("mask of each instance", "IoU at least 0.999 from 1024 px of area, 0.99 from 64 px; every flipped pixel within 0.01 of 0.5"),
    ("raw mask of each instance", "each value within 1e-5 of the largest and 1e-4 of itself, or 4F; cosine at least 0.99999"),
    ("keypoints", "at most 0.1 px"),
    ("panoptic segments", "the same; panoptic quality against the reference at least 0.999"),
    ("AP against ground truth", "candidate minus reference within 0.02 points; agreement AP at least 99.9"),
    (
        "fp16, bf16, int8",
        "99.9 %, 99.9 %, 99 % of the reference's AP (of segments: panoptic quality), on at least 1,000 objects or not established",
    ),
    ("noise floor F", "the reference against itself over thread counts and equal-size batches, in the same run"),
    ("batch curve", "survey, not gated; a median needs 11 calls"),
    (
        "throughput, measured",
        "5 to 20 processes a side, in turns; three windows within 5 % (GPU: 3 %); p50 of 11 calls, p90 64, p95 130, p99 662",
    ),
)
"""Quantity and level, in words, as the page prints them."""
