"""A selection of the ledger replayed, as it was or with a tie decided the other way; and which of its rows a tie may decide.

What is tied is measured at the levels of parity, so that exactly those differences which a sound backend may show can flip a tie:

- a **threshold**: the score lies within the score's tolerance of it;
- an **order**: two scores lie within that tolerance of each other, and which is taken first matters: one suppresses the other, or
  only one of them is in the top-k of its pool or under the cap;
- an **overlap**: the IoU of two boxes may lie on either side of suppression's threshold when every coordinate of either moves by
  the level of its box, d. With intersection I = w h and areas A and B, the IoU I / (A + B - I) rises with I and falls with A and
  B; an edge of the intersection moves by at most the larger d, and an edge of a box by its own. So the IoU lies between those of
  I = (w - 2d)(h - 2d) with A and B grown by d on every side, and of I = (w + 2d)(h + 2d) with A and B shrunk.

A logit's tolerance is the level of raw tensors: that of a probability would tie everything that is nearly 0 or nearly 1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness import levels
from harness.ledger import Selection

Rows = NDArray[np.intp]
Flags = NDArray[np.bool_]
ALWAYS = -1
"""The source of a row that depends on no other."""


@dataclass(frozen=True, slots=True)
class Tie:
    """Two decisions of a selection that are one to the tolerances: ``first`` is before ``second``, in an order as it was taken.

    ``cut`` is where an order matters: among rivals, in the top-k of a pool, or under the cap; a threshold has one row, twice.
    """

    kind: Literal["threshold", "order", "overlap"]
    first: int
    second: int
    cut: Literal["rivals", "pool", "cap"] = "rivals"


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Rows that may suppress each other, ``intp [G]`` by falling score.

    ``bool [G, G]`` says of each pair whether it overlaps by more than the threshold: ``surely``, as measured (``does``), ``maybe``.
    """

    rows: Rows
    surely: Flags
    does: Flags
    maybe: Flags


class Contest:
    """A selection made ready to be replayed. ``scale_xy`` is px of the image for one of the selection's frame.

    ``score_tolerance`` (0..1) is not used for logits; ``box_floor_px`` is the noise floor that the boxes' level refers to.
    """

    def __init__(self, selection: Selection, scale_xy: tuple[float, float], score_tolerance: float, box_floor_px: float) -> None:
        self.selection = selection
        self.scores = selection.scores.astype(np.float64)
        self.boxes_xyxy_px = selection.boxes_xyxy_px.astype(np.float64) * np.array([*scale_xy, *scale_xy])
        # As torch compares float32 scores with it.
        self._threshold = float(np.float32(selection.threshold))
        self.tolerance = _tolerances(selection, self.scores, score_tolerance)
        self.moves_px = levels.box_reach_px((self.boxes_xyxy_px[:, 2:] - self.boxes_xyxy_px[:, :2]).min(axis=1), box_floor_px)
        self.order: Rows = np.argsort(-self.scores, kind="stable")
        self.groups = [self._group(label) for label in np.unique(selection.groups)]

    def kept(self, live: Flags | None = None, flipped: Collection[Tie] = ()) -> Rows:
        """The rows that survive, best first: of those that are ``live`` ``bool [C]`` (None: all), with those ties flipped."""
        return self._capped(self._survivors(live, flipped))

    def undecided(self, possible: Flags, certain: Flags) -> Flags:
        """Rows ``bool [C]`` that are kept if ties fall one way and not if another: none is left out, some may be too many.

        ``possible`` and ``certain`` ``bool [C]`` say which rows may and which must take part.
        """
        possible, certain = self._eligible(possible, certain)
        for group in self.groups:
            self._suppress(group, possible, certain)
        cap = self.selection.cap
        if cap:
            possible &= self._better(certain, clearly=True) < cap
            certain &= self._better(possible, clearly=False) < cap
        return possible & ~certain

    def ties(self, live: Flags, undecided: Flags) -> Iterator[Tie]:
        """Every tie that touches an undecided row, among the rows that are ``live``."""
        yield from (Tie("threshold", row, row) for row in np.flatnonzero(live & self._on_threshold()).tolist())
        for group in self.groups:
            either = (undecided[group.rows][:, None] | undecided[group.rows]) & live[group.rows][:, None] & live[group.rows]
            yield from self._pairs(group, either & group.maybe & self._tied(group.rows, group.rows), "order")
            yield from self._pairs(group, either & group.maybe & ~group.surely, "overlap")
        yield from self._cuts(live)

    def _group(self, label: np.int32) -> _Group:
        rows = self.order[self.selection.groups[self.order] == label]
        boxes, moves = self.boxes_xyxy_px[rows], self.moves_px[rows]
        over = (iou_between(boxes, moves * way) > self.selection.overlap for way in (-1.0, 0.0, 1.0))
        return _Group(rows, *over)

    def _on_threshold(self) -> Flags:
        return np.abs(self.scores - self._threshold) <= self.tolerance

    def _tied(self, a: Rows, b: Rows) -> Flags:
        gap: Flags = np.abs(self.scores[a][:, None] - self.scores[b]) <= np.maximum(self.tolerance[a][:, None], self.tolerance[b])
        return gap

    @staticmethod
    def _pairs(group: _Group, found: Flags, kind: Literal["order", "overlap"]) -> Iterator[Tie]:
        for first, second in np.argwhere(np.triu(found, k=1)).tolist():
            yield Tie(kind, int(group.rows[first]), int(group.rows[second]))

    def _cuts(self, live: Flags) -> Iterator[Tie]:
        """Orders that decide who is in the top-k of a pool, and who is under the cap."""
        taking_part = self.order[(live & (self.scores > self._threshold))[self.order]]
        if self.selection.pool_size:
            for pool in np.unique(self.selection.pools):
                yield from self._cut(taking_part[self.selection.pools[taking_part] == pool], self.selection.pool_size, "pool")
        if self.selection.cap:
            yield from self._cut(self._survivors(live, ()), self.selection.cap, "cap")

    def _cut(self, ranked: Rows, at: int, cut: Literal["pool", "cap"]) -> Iterator[Tie]:
        inside, outside = ranked[:at], ranked[at:]
        if len(outside) == 0:
            return
        inside = inside[self._tied(inside, outside[:1])[:, 0]]
        outside = outside[self._tied(outside, ranked[at - 1 : at])[:, 0]]
        for first, second in np.argwhere(self._tied(inside, outside)).tolist():
            yield Tie("order", int(inside[first]), int(outside[second]), cut)

    def _survivors(self, live: Flags | None, flipped: Collection[Tie]) -> Rows:
        above = self.scores > self._threshold
        above[[tie.first for tie in flipped if tie.kind == "threshold"]] ^= True
        taking_part = above if live is None else above & live
        order = _swapped(self.order, [tie for tie in flipped if tie.kind == "order"])
        alive = _best(order, taking_part, self.selection.pools, self.selection.pool_size) & self.selection.fit
        place = np.argsort(order)
        for group in self.groups:
            crossed = [tie for tie in flipped if tie.kind == "overlap"]
            _suppressed(group, place, alive, crossed)
        return order[alive[order]]

    def _capped(self, survivors: Rows) -> Rows:
        return survivors[: self.selection.cap] if self.selection.cap else survivors

    def _eligible(self, possible: Flags, certain: Flags) -> tuple[Flags, Flags]:
        on, above, fit = self._on_threshold(), self.scores > self._threshold, self.selection.fit
        possible, certain = possible & (above | on), certain & above & ~on
        if self.selection.pool_size:
            inside = np.zeros((2, len(possible)), np.bool_)
            for pool in np.unique(self.selection.pools):
                own = self.selection.pools == pool
                inside[0, own] = self._better(certain & own, clearly=True)[own] < self.selection.pool_size
                inside[1, own] = self._better(possible & own, clearly=False)[own] < self.selection.pool_size
            possible, certain = possible & inside[0], certain & inside[1]
        return possible & fit, certain & fit

    def _suppress(self, group: _Group, possible: Flags, certain: Flags) -> None:
        """Narrow ``possible`` and ``certain``, of this group, to the rows that nothing surely and nothing possibly suppresses."""
        rows = group.rows
        tied = self._tied(rows, rows)
        earlier = np.triu(np.ones_like(tied), k=1)
        surely, maybe = group.surely & earlier & ~tied, group.maybe & (earlier | tied)
        may, must = possible[rows], certain[rows]
        np.fill_diagonal(maybe, val=False)
        for index in range(len(rows)):
            may[index] &= not (must & surely[:, index]).any()
            must[index] &= may[index] and not (may & maybe[:, index]).any()
        possible[rows], certain[rows] = may, must

    def _better(self, counted: Flags, *, clearly: bool) -> NDArray[np.intp]:
        """How many of the ``counted`` rows score better than each row: by more than a tie, or (not ``clearly``) as well as tied."""
        ladder = np.sort(self.scores[counted])
        if clearly:
            return len(ladder) - np.searchsorted(ladder, self.scores + self.tolerance, side="right")
        # Of those at least as good, each counts itself.
        return len(ladder) - np.searchsorted(ladder, self.scores - self.tolerance, side="left") - counted


def iou_between(boxes_xyxy_px: NDArray[np.float64], moves_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest IoU ``float64 [N, N]`` that the boxes ``[N, 4]`` can reach when each coordinate moves by ``moves_px`` ``[N]``.

    The smallest for moves below 0. It is a bound, which no two boxes that move so can pass; boxes without area overlap nothing.
    """
    x1, y1, x2, y2 = boxes_xyxy_px.T
    corner = np.where(moves_px[:1] < 0, np.minimum.outer(moves_px, moves_px), np.maximum.outer(moves_px, moves_px))
    width = np.minimum.outer(x2, x2) - np.maximum.outer(x1, x1) + 2.0 * corner
    height = np.minimum.outer(y2, y2) - np.maximum.outer(y1, y1) + 2.0 * corner
    shared = np.clip(width, 0.0, None) * np.clip(height, 0.0, None)
    area = np.clip(x2 - x1 - 2.0 * moves_px, 0.0, None) * np.clip(y2 - y1 - 2.0 * moves_px, 0.0, None)
    union = np.maximum(np.add.outer(area, area) - shared, shared)
    iou: NDArray[np.float64] = np.zeros_like(shared)
    np.divide(shared, union, out=iou, where=union > 0)
    return iou


def _tolerances(selection: Selection, scores: NDArray[np.float64], score_tolerance: float) -> NDArray[np.float64]:
    if not selection.logits:
        return np.full(len(scores), score_tolerance)
    level: NDArray[np.float64] = levels.RAW_PER_MAX * np.abs(scores).max(initial=0.0) + levels.RAW_PER_VALUE * np.abs(scores)
    return level


def _swapped(order: Rows, orders: Collection[Tie]) -> Rows:
    """The order with each tie's second row taken just before its first."""
    listed: list[int] = order.tolist()
    for tie in orders:
        if listed.index(tie.second) > listed.index(tie.first):
            listed.remove(tie.second)
            listed.insert(listed.index(tie.first), tie.second)
    return np.array(listed, dtype=np.intp)


def _best(order: Rows, taking_part: Flags, pools: NDArray[np.int32], size: int) -> Flags:
    """``taking_part`` less those that are not among the best ``size`` of their pool."""
    if not size:
        return taking_part.copy()
    inside = np.zeros_like(taking_part)
    ranked = order[taking_part[order]]
    for pool in np.unique(pools):
        inside[ranked[pools[ranked] == pool][:size]] = True
    return inside


def _suppressed(group: _Group, place: Rows, alive: Flags, crossed: Collection[Tie]) -> None:
    """Non-maximum suppression within a group, in place: a row alive takes out those behind it that it overlaps."""
    picked = np.flatnonzero(alive[group.rows])
    picked = picked[np.argsort(place[group.rows[picked]], kind="stable")]
    rows, over = group.rows[picked], group.does[np.ix_(picked, picked)]
    at = {row: index for index, row in enumerate(rows.tolist())}
    for tie in crossed:
        if tie.first in at and tie.second in at:
            pair = ([at[tie.first], at[tie.second]], [at[tie.second], at[tie.first]])
            over[pair] = ~over[pair]
    stands = np.ones(len(rows), np.bool_)
    for index in range(len(rows)):
        if stands[index]:
            stands[index + 1 :] &= ~over[index, index + 1 :]
    alive[rows] = stands
