"""What differs between two answers to the same deck, and by how much. No level is applied here; `harness.checks` judges.

Every image is matched as sets (`harness.match`); what is measured is kept one number a pair, so that a judge can name the
worst pair and the level that holds for its size. Measuring is symmetric but for sizes and for mask pixels near the threshold,
which are taken from the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.match import Matching, match
from harness.types import Detections, Masks

Quantity: TypeAlias = Literal[
    "score", "box_px", "iou", "side_px", "class_differs", "mask_iou", "mask_area_px", "mask_flipped_px", "mask_unexplained_px"
]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a certificate needs to know: the model's ``score_threshold`` (0..1), its ``detection_cap``, and how close is a tie."""

    score_threshold: float
    detection_cap: int
    score_tolerance: float


class Pair(NamedTuple):
    """One matched pair: the image, and the index of the detection in either answer."""

    image: str
    reference: int
    candidate: int


@dataclass(frozen=True, slots=True, eq=False)
class ImageComparison:
    """Two answers to one image. M is the number of matched pairs.

    ``certified_missing`` and ``certified_extra`` are those of ``matching.missing`` and ``.extra`` that a tie explains.
    ``values`` has ``float64 [M]`` for every quantity: absolute difference in ``score``; largest coordinate difference
    ``box_px``; ``iou`` of the boxes; shorter side of the reference's box ``side_px``; ``class_differs``, 0 or 1; and, where both
    answers have masks (else those keys are absent), ``mask_iou``, ``mask_area_px`` (of the reference's), ``mask_flipped_px``
    (pixels that differ) and ``mask_unexplained_px`` (those of them that the reference does not place within 0.01 of the
    threshold). A difference from a value that is not finite is infinite. ``mask_pixels`` counts the pixels set in either mask
    of a pair.
    """

    image: str
    matching: Matching
    certified_missing: NDArray[np.intp]
    certified_extra: NDArray[np.intp]
    values: Mapping[Quantity, NDArray[np.float64]]
    mask_pixels: int


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Two answers to a deck, image by image. ``unanswered`` names the images for which the candidate left no answer at all."""

    images: tuple[ImageComparison, ...]
    unanswered: tuple[str, ...] = ()

    @property
    def matched(self) -> int:
        """Matched pairs."""
        return sum(len(image.matching.pairs) for image in self.images)

    @property
    def missing(self) -> int:
        """The reference's detections without a partner."""
        return sum(len(image.matching.missing) for image in self.images)

    @property
    def extra(self) -> int:
        """The candidate's detections without a partner."""
        return sum(len(image.matching.extra) for image in self.images)

    @property
    def certified(self) -> int:
        """Detections without a partner, on either side, that a tie explains."""
        return sum(len(image.certified_missing) + len(image.certified_extra) for image in self.images)

    @property
    def detections(self) -> int:
        """Everything looked at: pairs and what had no partner."""
        return self.matched + self.missing + self.extra

    @property
    def mask_pixels(self) -> int:
        """Pixels set in either mask of a pair, over all pairs."""
        return sum(image.mask_pixels for image in self.images)

    def column(self, quantity: Quantity) -> NDArray[np.float64]:
        """That quantity of every pair of the deck, ``float64 [P]``; pairs without it (no masks) are left out."""
        held = [image.values[quantity] for image in self.images if quantity in image.values]
        return np.concatenate(held) if held else np.zeros(0)

    def pair(self, quantity: Quantity, index: int) -> Pair:
        """Which pair stands at ``index`` of ``column(quantity)``. Raises `IndexError`."""
        for image in self.images:
            pairs = image.matching.pairs if quantity in image.values else ()
            if index < len(pairs):
                return Pair(image.image, int(pairs[index][0]), int(pairs[index][1]))
            index -= len(pairs)
        raise IndexError(f"the comparison has no such pair of {quantity}")

    def worst(self, quantity: Quantity) -> float:
        """The largest value of the deck (the smallest of ``iou`` and ``mask_iou``); the value of no difference where empty."""
        column = self.column(quantity)
        if quantity in ("iou", "mask_iou"):
            return float(column.min(initial=1.0))
        return float(column.max(initial=0.0))

    def percentile(self, quantity: Quantity, percent: float) -> float:
        """That percentile, 0..100, of the quantity over the deck's pairs; NaN where nothing was compared."""
        column = self.column(quantity)
        return float(np.percentile(column, percent, method="higher")) if len(column) else float("nan")

    def worst_image(self) -> str | None:
        """The image whose answers differ most: by unmatched detections, then class, then box, then score. None if none."""

        def severity(image: ImageComparison) -> tuple[float, ...]:
            unmatched = len(image.matching.missing) + len(image.matching.extra)
            certified = len(image.certified_missing) + len(image.certified_extra)
            worst = (float(image.values[name].max(initial=0.0)) for name in ("class_differs", "box_px", "score"))
            return (unmatched - certified, *worst, unmatched)

        found = max(self.images, key=severity, default=None)
        return found.image if found is not None and any(severity(found)) else None


def compare(
    reference: Mapping[str, Detections],
    candidate: Mapping[str, Detections],
    limits: Limits,
    images: Sequence[str] | None = None,
    masks: bool = True,
) -> Comparison:
    """Compare two decks of answers by image id.

    ``images`` chooses which (all of the reference's, by default). An image without an answer from the candidate counts as one
    without detections and is named in `Comparison.unanswered`; one without an answer from the reference raises `KeyError`.
    ``masks`` False leaves masks out, which is faster.
    """
    wanted = list(reference) if images is None else list(images)
    unanswered = tuple(image for image in wanted if image not in candidate)
    compared = (compare_image(image, reference[image], candidate.get(image, NOTHING), limits, masks) for image in wanted)
    return Comparison(tuple(compared), unanswered)


def compare_image(image: str, reference: Detections, candidate: Detections, limits: Limits, masks: bool = True) -> ImageComparison:
    """Match two answers to one image, look for certificates, and measure every pair."""
    matching = match(reference, candidate)
    mine, theirs = reference.take(matching.pairs[:, 0]), candidate.take(matching.pairs[:, 1])
    values = _box_values(mine, theirs)
    pixels = 0
    if masks and mine.masks is not None and theirs.masks is not None:
        mask_values, pixels = _mask_values(mine.masks, theirs.masks)
        values |= mask_values
    return ImageComparison(
        image,
        matching,
        _certified(matching.missing, reference.scores, candidate.scores, limits),
        _certified(matching.extra, candidate.scores, reference.scores, limits),
        values,
        pixels,
    )


NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
"""The answer of a detector that found nothing."""


def _certified(
    unmatched: NDArray[np.intp], own: NDArray[np.float32], other: NDArray[np.float32], limits: Limits
) -> NDArray[np.intp]:
    """Those of ``unmatched`` (indices into ``own`` scores) that the ``other`` side may have lost by a hair.

    Either the score lies within tolerance of the threshold, or the other side is full to the cap and its last rank is tied with
    this score: which of two tied detections survives a cut is not decided by the model.
    """
    scores = own[unmatched].astype(np.float64)
    tied = np.abs(scores - limits.score_threshold) <= limits.score_tolerance
    if len(other) >= limits.detection_cap > 0:
        tied |= np.abs(scores - float(other.min())) <= limits.score_tolerance
    return unmatched[tied]


def _box_values(reference: Detections, candidate: Detections) -> dict[Quantity, NDArray[np.float64]]:
    a, b = reference.boxes_xyxy_px.astype(np.float64), candidate.boxes_xyxy_px.astype(np.float64)
    score = np.abs(reference.scores.astype(np.float64) - candidate.scores.astype(np.float64))
    sides = a[:, 2:] - a[:, :2]
    return {
        "score": np.where(np.isfinite(score), score, np.inf),
        "box_px": np.abs(a - b).max(axis=1, initial=0.0),
        "iou": _aligned_iou(a, b),
        "side_px": sides.min(axis=1, initial=np.inf),
        "class_differs": (reference.labels != candidate.labels).astype(np.float64),
    }


def _aligned_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of boxes pair by pair, ``float64 [M]``; two boxes without area overlap wholly if equal, else not at all."""
    corner = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    intersection = np.clip(corner, 0.0, None).prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - intersection
    iou: NDArray[np.float64] = (a == b).all(axis=1).astype(np.float64)
    np.divide(intersection, union, out=iou, where=union > 0)
    return iou


def _mask_values(reference: Masks, candidate: Masks) -> tuple[dict[Quantity, NDArray[np.float64]], int]:
    rows = np.array([_mask_pair(reference, candidate, index) for index in range(len(reference))], np.float64).reshape(-1, 4)
    union, intersection, area, unexplained = rows.T
    iou = np.divide(intersection, union, out=np.ones_like(union), where=union > 0)
    values: dict[Quantity, NDArray[np.float64]] = {
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
