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

from harness.detections import Detections

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


def overlap(a_xyxy_px: NDArray[np.float32], b_xyxy_px: NDArray[np.float32], growth_px: float = GROWTH_PX) -> NDArray[np.float64]:
    """IoU, each box grown on every side, of boxes ``[..., 4]`` that broadcast against each other: ``float64 [...]`` in 0..1.

    Boxes with a coordinate that is not finite, or that stay inside out when grown, overlap nothing.
    """
    return iou(_grown(a_xyxy_px, growth_px), _grown(b_xyxy_px, growth_px))


def iou(a_xyxy_px: NDArray[np.float64], b_xyxy_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU, as it stands, of boxes ``[..., 4]`` that broadcast against each other: ``float64 [...]``; 0 of boxes without area."""
    a, b = a_xyxy_px, b_xyxy_px
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    intersection = _area(low, np.maximum(low, high))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - intersection
    shared: NDArray[np.float64] = np.zeros_like(union)
    np.divide(intersection, union, out=shared, where=union > 0)
    return shared


def match(reference: Detections, candidate: Detections) -> Matching:
    """The optimal one-to-one assignment; the same whichever order either answer lists its detections in.

    Pairs that touch no other pair, nearly all in practice, are taken at once; only the rest needs the cubic algorithm.
    """
    pairs, weight = _possible(reference, candidate)
    alone = _once(pairs[:, 0], len(reference)) & _once(pairs[:, 1], len(candidate))
    if not alone.all():
        pairs = np.concatenate([pairs[alone], _assign(reference, candidate, pairs[~alone], weight[~alone])])
    pairs = _by_first(pairs)
    return Matching(pairs, _others(pairs[:, 0], len(reference)), _others(pairs[:, 1], len(candidate)))


def canonical(detections: Detections, indices: NDArray[np.intp]) -> NDArray[np.intp]:
    """The indices, each once, in an order that depends only on the values of the detections."""
    held = np.flatnonzero(np.bincount(indices))
    x1, y1, x2, y2 = detections.boxes_xyxy_px[held].T
    order = held[np.lexsort((detections.scores[held], detections.labels[held], y2, x2, y1, x1))]
    again = np.ones(max(len(order) - 1, 0), np.bool_)
    for column in _columns(detections):
        equal = column[order[1:]] == column[order[:-1]]
        again &= equal.all(axis=1) if equal.ndim > 1 else equal
    if not again.any():
        return order
    # Equal in all of these: what the task adds settles the order, if anything does.
    place = np.concatenate([[0], np.cumsum(~again)]).tolist()
    settled = sorted(range(len(order)), key=lambda rank: (place[rank], _added(detections, int(order[rank]))))
    return order[settled]


def _columns(detections: Detections) -> tuple[NDArray[np.generic], ...]:
    return detections.boxes_xyxy_px, detections.labels, detections.scores


def _added(detections: Detections, index: int) -> tuple[bytes, ...]:
    """Raw mask, keypoints and mask of one detection, as bytes."""
    arrays = [column[index].tobytes() for column in (detections.raw_masks, detections.keypoints) if column is not None]
    if detections.masks is not None:
        arrays += [detections.masks.origins_xy_px[index].tobytes(), detections.masks.crops[index].tobytes()]
    return tuple(arrays)


def _possible(reference: Detections, candidate: Detections) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """``intp [P, 2]``, the pairs that may match, and their weights ``float64 [P]``.

    Of two boxes whose intersection is at least half of their union it is at least half of either, so that it holds the middle of
    both: whether the one's lies in the other is cheap to ask of all pairs, and leaves few whose overlap must be computed.
    """
    a, b = (_grown(side.boxes_xyxy_px, GROWTH_PX) for side in (reference, candidate))
    x, y = ((a[:, :2] + a[:, 2:]) / 2).astype(np.float32).T[:, :, None]
    left, top, right, bottom = np.ascontiguousarray((b + _SLACK_PX).T, np.float32)
    inside = x >= left
    for edge in (x <= right, y >= top, y <= bottom):
        inside &= edge
    rows, columns = np.divmod(np.flatnonzero(inside), max(len(b), 1))
    shared = iou(a[rows], b[columns])
    near = np.flatnonzero(shared >= MIN_OVERLAP)
    rows, columns, shared = rows[near], columns[near], shared[near]
    same = reference.labels[rows] == candidate.labels[columns]
    mine, theirs = (np.where(np.isfinite(side.scores), side.scores, np.float32(0)) for side in (reference, candidate))
    apart = np.minimum(np.abs(mine[rows].astype(np.float64) - theirs[columns]), 1.0)
    return np.stack([rows, columns], axis=1), shared + CLASS_BONUS * same + SCORE_BONUS * (1.0 - apart)


_SLACK_PX = np.array([-1.0, -1.0, 1.0, 1.0])
"""More than the middle of a box can be off when rounded to float32, which is compared at twice the speed."""


def _assign(reference: Detections, candidate: Detections, pairs: NDArray[np.intp], weight: NDArray[np.float64]) -> NDArray[np.intp]:
    """Those of ``pairs`` that together weigh most.

    Exact ties are settled by value, never by position: both sides are put in one canonical order first, and the lesser side is
    taken as the rows, so that ``match(a, b)`` is ``match(b, a).swapped()``. Only detections that are equal in every
    output can still change places.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = canonical(reference, pairs[:, 0]), canonical(candidate, pairs[:, 1])
    if _key(reference, rows) > _key(candidate, columns):
        return _assign(candidate, reference, pairs[:, ::-1], weight)[:, ::-1]
    table = np.zeros((len(reference), len(candidate)))
    table[pairs[:, 0], pairs[:, 1]] = weight
    table = table[np.ix_(rows, columns)]
    picked = linear_sum_assignment(table, maximize=True)
    possible: NDArray[np.bool_] = table[picked] > 0
    return np.stack([rows[picked[0]], columns[picked[1]]], axis=1)[possible]


def _once(indices: NDArray[np.intp], length: int) -> NDArray[np.bool_]:
    """Where in ``indices``, each below ``length``, stands one that occurs nowhere else in it."""
    once: NDArray[np.bool_] = np.bincount(indices, minlength=length)[indices] == 1
    return once


def _others(indices: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """What is missing from ``indices`` between 0 and ``length``, rising."""
    free = np.ones(length, np.bool_)
    free[indices] = False
    return np.flatnonzero(free)


def _key(detections: Detections, order: NDArray[np.intp]) -> tuple[int, bytes, bytes, bytes]:
    boxes, labels, scores = (column[order].tobytes() for column in _columns(detections))
    return len(detections), boxes, labels, scores


def _area(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    sides = high - low
    area: NDArray[np.float64] = sides[..., 0] * sides[..., 1]
    return area


def _grown(boxes_xyxy_px: NDArray[np.float32], growth_px: float) -> NDArray[np.float64]:
    grown: NDArray[np.float64] = boxes_xyxy_px + growth_px * np.array([-1.0, -1.0, 1.0, 1.0])
    with np.errstate(invalid="ignore"):
        sides = grown[..., 2:] - grown[..., :2]
    # Also where a coordinate is infinite or not a number: then a side is too.
    sound = ((sides >= 0) & (sides < np.inf)).all(axis=-1)
    # Far outside every image and without area: such a box overlaps nothing, its copies included.
    grown[~sound] = -1e18
    return grown


def _by_first(pairs: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.ascontiguousarray(pairs[np.argsort(pairs[:, 0], kind="stable")], dtype=np.intp)
