"""Which detection of one answer is which of another: sets, not lists.

The assignment is one to one and optimal (Jonker-Volgenant, `scipy.optimize.linear_sum_assignment`): of all one-to-one pairings
it has the largest total weight. The weight of a pair is its overlap, in 0..1, plus `CLASS_BONUS` when the labels agree, plus
`SCORE_BONUS` times the closeness of the scores. The two bonuses are far below what an overlap is worth, so class does not
decide what matches; they only settle ties, such as the two classes that a RetinaNet finds in one and the same box, in favour
of the pairing under which the two answers agree. A pairing that agrees within the levels is proof that the sets do.

The overlap is the intersection over union of the two boxes, each grown by `GROWTH_PX` on every side. The growth is nothing to a
large object; it gives an object of a pixel or less the same chance as the others, whose plain IoU would collapse when it moves
by a fraction of a pixel and is 0/0 when it has no area. A pair that overlaps by less than `MIN_OVERLAP` is never a match.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.types import Detections

GROWTH_PX = 0.5
"""Half a pixel on every side: the size of the cell in which a coordinate is rounded."""

MIN_OVERLAP = 0.5
"""The overlap at which PASCAL VOC and COCO begin to call two boxes the same object."""

CLASS_BONUS = 1e-2
SCORE_BONUS = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """A one-to-one assignment between a reference and a candidate answer.

    ``pairs`` is ``intp [M, 2]``, (index in the reference, index in the candidate), by rising reference index; ``missing``
    ``intp [.]`` holds the reference's indices without a partner, ``extra`` ``intp [.]`` the candidate's, both rising.
    """

    pairs: NDArray[np.intp]
    missing: NDArray[np.intp]
    extra: NDArray[np.intp]

    def swapped(self) -> Matching:
        """The same assignment seen from the candidate."""
        return Matching(_by_first(self.pairs[:, ::-1]), self.extra, self.missing)


def overlaps(a_xyxy_px: NDArray[np.float32], b_xyxy_px: NDArray[np.float32], growth_px: float = GROWTH_PX) -> NDArray[np.float64]:
    """IoU of every box of ``a`` ``[N, 4]`` with every box of ``b`` ``[M, 4]``, grown on each side: ``float64 [N, M]`` in 0..1.

    Boxes with a coordinate that is not finite, or that stay inside out when grown, overlap nothing.
    """
    a, b = (_grown(boxes, growth_px) for boxes in (a_xyxy_px, b_xyxy_px))
    corner = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    intersection = np.clip(corner, 0.0, None).prod(axis=2)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b))
    union = area_a[:, None] + area_b[None, :] - intersection
    iou: NDArray[np.float64] = np.zeros_like(union)
    np.divide(intersection, union, out=iou, where=union > 0)
    return iou


def weights(reference: Detections, candidate: Detections) -> NDArray[np.float64]:
    """The weight of every pair ``float64 [N, M]``; 0 where the pair may not match."""
    overlap = overlaps(reference.boxes_xyxy_px, candidate.boxes_xyxy_px)
    same = reference.labels[:, None] == candidate.labels[None, :]
    scores = (np.nan_to_num(side.scores.astype(np.float64), posinf=0.0, neginf=0.0) for side in (reference, candidate))
    apart = np.clip(np.abs(np.subtract.outer(*scores)), 0.0, 1.0)
    weight: NDArray[np.float64] = overlap + CLASS_BONUS * same + SCORE_BONUS * (1.0 - apart)
    weight[overlap < MIN_OVERLAP] = 0.0
    return weight


def match(reference: Detections, candidate: Detections) -> Matching:
    """The optimal one-to-one assignment; the same whichever order either answer lists its detections in.

    Exact ties are settled by value, never by position: both sides are put in one canonical order first, and the lesser side is
    taken as the rows, so that ``match(a, b)`` is ``match(b, a).swapped()``. Only detections that are equal in box, class and
    score can still change places.
    """
    rows, columns = _canonical(reference), _canonical(candidate)
    if _key(reference, rows) > _key(candidate, columns):
        return match(candidate, reference).swapped()
    picked = _assign(weights(reference, candidate)[np.ix_(rows, columns)])
    pairs = _by_first(np.stack([rows[picked[:, 0]], columns[picked[:, 1]]], axis=1))
    missing = np.setdiff1d(np.arange(len(reference)), pairs[:, 0])
    return Matching(pairs, missing, np.setdiff1d(np.arange(len(candidate)), pairs[:, 1]))


def _assign(weight: NDArray[np.float64]) -> NDArray[np.intp]:
    """``intp [M, 2]``, the pairs of positive weight with the largest total.

    Pairs that touch no other pair, nearly all in practice, are taken at once; only the rest needs the cubic algorithm.
    """
    from scipy.optimize import linear_sum_assignment

    allowed = weight > 0
    lonely = allowed & (allowed.sum(axis=1, keepdims=True) == 1) & (allowed.sum(axis=0, keepdims=True) == 1)
    settled = np.argwhere(lonely)
    contested = allowed & ~lonely
    rows, columns = np.flatnonzero(contested.any(axis=1)), np.flatnonzero(contested.any(axis=0))
    if len(rows) == 0:
        return settled
    picked_rows, picked_columns = linear_sum_assignment(weight[np.ix_(rows, columns)], maximize=True)
    pairs = np.stack([rows[picked_rows], columns[picked_columns]], axis=1)
    return np.concatenate([settled, pairs[allowed[pairs[:, 0], pairs[:, 1]]]])


def _canonical(detections: Detections) -> NDArray[np.intp]:
    x1, y1, x2, y2 = detections.boxes_xyxy_px.T
    order: NDArray[np.intp] = np.lexsort((detections.scores, detections.labels, y2, x2, y1, x1))
    return order


def _key(detections: Detections, order: NDArray[np.intp]) -> tuple[int, bytes, bytes, bytes]:
    columns = (detections.boxes_xyxy_px, detections.labels, detections.scores)
    boxes, labels, scores = (column[order].tobytes() for column in columns)
    return len(detections), boxes, labels, scores


def _grown(boxes_xyxy_px: NDArray[np.float32], growth_px: float) -> NDArray[np.float64]:
    grown: NDArray[np.float64] = boxes_xyxy_px.astype(np.float64) + np.array([-growth_px, -growth_px, growth_px, growth_px])
    broken = ~np.isfinite(grown).all(axis=1) | (grown[:, 2:] < grown[:, :2]).any(axis=1)
    # Far outside every image and without area: such a box overlaps nothing, its copies included.
    grown[broken] = -1e18
    return grown


def _by_first(pairs: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.ascontiguousarray(pairs[np.argsort(pairs[:, 0], kind="stable")], dtype=np.intp)
