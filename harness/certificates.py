"""Which differences from the reference a measured tie explains: certificates, made from the reference's ledger.

A detector decides by hair's breadths: which of two rivals survives, whether a score passes. Where one was decided by less than the
levels allow a score or a box to differ, an honest backend may decide it the other way, and then it must answer just what follows.
So the ledger is replayed with one tie decided the other way at a time. A tie is accepted when the replay comes nearer to the
candidate's answer and nowhere goes away from it, and what became equal is certified, by that tie. Hence nothing is certified that
the ledger does not know: an extra detection must be one of its rows, class, box and score within their levels, and a missing one
must be missing because of the tie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness import levels
from harness.detections import Detections
from harness.ledger import Ledger
from harness.match import Matching
from harness.selection import ALWAYS, Contest, Tie

Rows: TypeAlias = NDArray[np.intp]
NOWHERE = -1
"""The row of a detection that the ledger does not know."""

SAME_SCORE = 1e-6
SAME_PX = 2e-3
"""How far the reference's own answer may lie from its rows: boxes were scaled to the image in single precision, up to 8192 px."""


class Certificate(StrEnum):
    """What explains a difference, as the report says it."""

    THRESHOLD = "a score on the threshold"
    RIVALS = "two NMS rivals tied in score"
    OVERLAP = "an IoU on the NMS threshold"
    POOL = "the last rank before NMS tied"
    CAP = "the last rank under the cap tied"
    CLASSES = "the two best classes tied"
    PROPOSALS = "two region proposals tied"


@dataclass(frozen=True, slots=True)
class Limits:
    """How close is a tie: the model's ``score_threshold`` and ``score_tolerance`` (0..1), and the noise floor of its boxes in px.

    ``detection_cap`` and the threshold are used where there is no ledger, which has its own.
    """

    score_threshold: float
    detection_cap: int
    score_tolerance: float
    box_floor_px: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Certificates:
    """What is certified, and by what.

    Of `Matching.missing` by index in the reference's answer, of `Matching.extra` by index in the candidate's, and of the matched
    pairs, whose winner was tied, by index in `Matching.pairs`.
    """

    missing: Mapping[int, Certificate]
    extra: Mapping[int, Certificate]
    pairs: Mapping[int, Certificate]

    @property
    def counts(self) -> dict[Certificate, int]:
        """How many detections each explains: a missing one with an extra one in its place is one."""
        found = {}
        for kind in Certificate:
            missing, extra, pairs = (sum(k is kind for k in side.values()) for side in (self.missing, self.extra, self.pairs))
            if missing or extra or pairs:
                found[kind] = max(missing, extra) + pairs
        return found

    @property
    def count(self) -> int:
        """How many detections are explained in all."""
        return max(len(self.missing), len(self.extra)) + len(self.pairs)


NONE = Certificates({}, {}, {})


def certificates(
    reference: Detections, candidate: Detections, matching: Matching, limits: Limits, ledger: Ledger | None = None
) -> Certificates:
    """What a tie explains of the difference between two answers to one image.

    Without a ledger (a reference of somebody else's) only a score on the threshold and a tie with the last rank of a full answer
    are known to be ties, and no pair is certified.
    """
    if ledger is None:
        lost = _without_ledger(matching.missing, reference.scores, candidate.scores, limits)
        won = _without_ledger(matching.extra, candidate.scores, reference.scores, limits)
        return Certificates(lost, won, {}) if lost or won else NONE
    astray = _astray(reference, candidate, matching, limits)
    if not len(matching.missing) and not len(matching.extra) and not len(astray):
        return NONE
    contest = Contest(ledger.detections, ledger.scale_xy, limits.score_tolerance, limits.box_floor_px)
    known = _Known(ledger, contest)
    own = known.take(reference, np.arange(len(reference)), SAME_SCORE, SAME_PX)
    swapped = _found(astray, known.take(candidate, matching.pairs[astray, 1], limits.score_tolerance))
    extra = _found(matching.extra, known.take(candidate, matching.extra, limits.score_tolerance))
    gone: set[int] = {*own[matching.missing].tolist(), *own[matching.pairs[list(swapped), 0]].tolist()}
    come = {*swapped.values(), *extra.values()}
    if (own == NOWHERE).any() or not (gone or come):
        return NONE
    trial = _Trial(ledger, contest, limits)
    before = set(own.tolist())
    explained = trial.towards((before - gone) | come) if trial.settle(before) else {}
    missing = _found(matching.missing, own[matching.missing])
    return Certificates(
        {index: explained[row] for index, row in missing.items() if row in explained},
        {index: explained[row] for index, row in extra.items() if row in explained},
        {index: explained[row] for index, row in swapped.items() if {row, own[matching.pairs[index, 0]]} <= explained.keys()},
    )


def excused_keypoints(
    ledger: Ledger | None, detections: Rows, reference: NDArray[np.float32], candidate: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Keypoints ``bool [M, K]`` beyond their level that lie at another maximum of the reference's heatmap, tied with the one taken.

    ``detections`` ``intp [M]`` are the matched detections of the reference's answer; ``reference`` and ``candidate`` are
    ``float32 [M, K, 3]``, their keypoints.
    """
    excused = np.zeros(reference.shape[:2], np.bool_)
    ties = None if ledger is None else ledger.keypoints
    if ties is None or reference.shape != candidate.shape:
        return excused
    at = {int(detection): index for index, detection in enumerate(detections)}
    for detection, point, place in zip(ties.detections.tolist(), ties.points.tolist(), ties.places_xy_px, strict=True):
        if detection in at:
            theirs = candidate[at[detection], point, :2]
            excused[at[detection], point] |= np.hypot(*(theirs - place).astype(np.float64)) <= levels.KEYPOINT_PX
    with np.errstate(invalid="ignore"):
        apart = (reference[:, :, :2] - candidate[:, :, :2]).astype(np.float64)
    beyond: NDArray[np.bool_] = np.hypot(apart[:, :, 0], apart[:, :, 1]) > levels.KEYPOINT_PX
    return excused & beyond


def _without_ledger(
    unmatched: Rows, own: NDArray[np.float32], other: NDArray[np.float32], limits: Limits
) -> dict[int, Certificate]:
    """Those of ``unmatched`` (indices into ``own`` scores) that the ``other`` side may have lost by a hair."""
    scores = own[unmatched].astype(np.float64)
    on_threshold = np.abs(scores - limits.score_threshold) <= limits.score_tolerance
    found = {int(index): Certificate.THRESHOLD for index in unmatched[on_threshold]}
    if len(other) >= limits.detection_cap > 0:
        last = np.abs(scores - float(other.min())) <= limits.score_tolerance
        found |= {int(index): Certificate.CAP for index in unmatched[last & ~on_threshold]}
    return found


def _astray(reference: Detections, candidate: Detections, matching: Matching, limits: Limits) -> Rows:
    """The matched pairs ``intp [.]`` that are not one and the same row: another class, or beyond a level."""
    mine, theirs = matching.pairs.T
    a, b = reference.boxes_xyxy_px[mine].astype(np.float64), candidate.boxes_xyxy_px[theirs].astype(np.float64)
    sides = (a[:, 2:] - a[:, :2]).min(axis=1, initial=np.inf)
    with np.errstate(invalid="ignore"):
        apart_px = np.abs(a - b).max(axis=1, initial=0.0)
        apart = np.abs(reference.scores[mine].astype(np.float64) - candidate.scores[theirs])
    same = (apart_px <= levels.box_reach_px(sides, limits.box_floor_px)) & (apart <= limits.score_tolerance)
    return np.flatnonzero(~(same & (reference.labels[mine] == candidate.labels[theirs])))


def _found(indices: Rows, rows: Rows) -> dict[int, int]:
    """The row of each index that has one."""
    return {int(index): int(row) for index, row in zip(indices, rows, strict=True) if row != NOWHERE}


class _Known:
    """The detections' rows as an answer gives them, and which of them are taken."""

    def __init__(self, ledger: Ledger, contest: Contest) -> None:
        height, width = ledger.size_hw_px
        # Detectron2's dense detectors clip boxes only after suppression.
        self._boxes_xyxy_px = np.clip(contest.boxes_xyxy_px, 0.0, np.array([width, height, width, height]))
        self._contest = contest
        self._free = np.ones(len(contest.scores), np.bool_)

    def take(self, answer: Detections, indices: Rows, score_tolerance: float, reach_px: float | None = None) -> Rows:
        """Which row each detection of ``indices`` is, ``intp [.]``, and nobody else's then; `NOWHERE` where none is near enough.

        The nearest first. ``reach_px`` is how far a coordinate may lie off, None: the level of the row's box. Detections that are
        equal in all are interchangeable, so the order of the answer does not matter.
        """
        contest, near = self._contest, []
        reach = contest.moves_px if reach_px is None else np.full(len(self._free), reach_px)
        for at, index in enumerate(indices.tolist()):
            apart = np.abs(self._boxes_xyxy_px - answer.boxes_xyxy_px[index].astype(np.float64)).max(axis=1) / reach
            apart = np.maximum(apart, np.abs(contest.scores - float(answer.scores[index])) / score_tolerance)
            fits = self._free & (apart <= 1.0) & (contest.selection.groups == answer.labels[index])
            near += [(float(apart[row]), int(row), at) for row in np.flatnonzero(fits)]
        found = np.full(len(indices), NOWHERE, np.intp)
        for _, row, at in sorted(near):
            if found[at] == NOWHERE and self._free[row]:
                found[at], self._free[row] = row, False
        return found


class _Trial:
    """The ledger replayed from one decision to the next."""

    def __init__(self, ledger: Ledger, detections: Contest, limits: Limits) -> None:
        self._detections, self._proposals = detections, None
        if ledger.proposals is not None:
            self._proposals = Contest(ledger.proposals, ledger.scale_xy, limits.score_tolerance, limits.box_floor_px)
        self._sources = ledger.detections.sources
        self._flipped: list[_Flip] = []
        self._rows = self._replay([])

    def settle(self, answer: set[int]) -> bool:
        """Make the replay the reference's own answer; False where that cannot be.

        It is at once, but for ties within the rounding of the arithmetic, which the reference may have decided otherwise.
        """
        self.towards(answer)
        return self._rows == answer

    def towards(self, wanted: set[int]) -> dict[int, Certificate]:
        """Flip ties, one at a time, that bring the replay nearer to these rows and nowhere away: each row, and what explains it."""
        explained: dict[int, Certificate] = {}
        # Every turn leaves fewer rows apart.
        while (apart := self._rows ^ wanted) and (found := self._next(apart, wanted)):
            self._flipped.append(found)
            rows = self._replay(self._flipped)
            explained |= {row: self._certificate(found) for row in apart - (rows ^ wanted)}
            self._rows = rows
        return explained

    def _next(self, apart: set[int], wanted: set[int]) -> _Flip | None:
        """The first tie, those of detections before those of proposals, that explains something and contradicts nothing."""
        live, loose, undecided, loose_proposals = self._undecided()
        if not undecided[list(apart)].any():
            return None
        for flip in self._ties(live | loose, undecided, loose_proposals):
            if flip not in self._flipped and (self._replay([*self._flipped, flip]) ^ wanted) < apart:
                return flip
        return None

    def _ties(self, live: NDArray[np.bool_], undecided: NDArray[np.bool_], loose: NDArray[np.bool_] | None) -> Iterator[_Flip]:
        yield from (_Flip(tie, of_proposals=False) for tie in self._detections.ties(live, undecided))
        if self._proposals is not None and loose is not None:
            everything = np.ones(len(loose), np.bool_)
            yield from (_Flip(tie, of_proposals=True) for tie in self._proposals.ties(everything, loose))

    def _undecided(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_] | None]:
        """Rows of detections that take part, that may, and that ties decide; and proposals that ties decide."""
        everything = np.ones(len(self._sources), np.bool_)
        if self._proposals is None:
            return everything, everything, self._detections.undecided(everything, everything), None
        all_proposals = np.ones(len(self._proposals.scores), np.bool_)
        loose_proposals = self._proposals.undecided(all_proposals, all_proposals)
        live = self._live(self._proposals.kept(None, self._of(self._flipped, proposals=True)))
        loose = (self._sources != ALWAYS) & loose_proposals[self._sources]
        return live, loose, self._detections.undecided(live | loose, live & ~loose), loose_proposals

    def _replay(self, flipped: Sequence[_Flip]) -> set[int]:
        live = None
        if self._proposals is not None:
            live = self._live(self._proposals.kept(None, self._of(flipped, proposals=True)))
        kept = self._detections.kept(live, self._of(flipped, proposals=False))
        return set(kept[self._detections.selection.shown[kept]].tolist())

    def _live(self, proposals: Rows) -> NDArray[np.bool_]:
        live: NDArray[np.bool_] = (self._sources == ALWAYS) | np.isin(self._sources, proposals)
        return live

    @staticmethod
    def _of(flipped: Sequence[_Flip], *, proposals: bool) -> list[Tie]:
        return [flip.tie for flip in flipped if flip.of_proposals == proposals]

    def _certificate(self, flip: _Flip) -> Certificate:
        if flip.of_proposals:
            return Certificate.PROPOSALS
        tie = flip.tie
        if tie.kind == "threshold":
            return Certificate.THRESHOLD
        if tie.kind == "overlap":
            return Certificate.OVERLAP
        if self._one_object(tie):
            return Certificate.CLASSES
        return {"rivals": Certificate.RIVALS, "pool": Certificate.POOL, "cap": Certificate.CAP}[tie.cut]

    def _one_object(self, tie: Tie) -> bool:
        """Whether the two rows are one place in two classes."""
        a, b = tie.first, tie.second
        selection = self._detections.selection
        same_source = selection.sources[a] == selection.sources[b] != ALWAYS
        same_box = np.array_equal(selection.boxes_xyxy_px[a], selection.boxes_xyxy_px[b])
        return bool(selection.groups[a] != selection.groups[b] and (same_source or same_box))


class _Flip(NamedTuple):
    """A tie of the region proposals or of the detections, decided the other way."""

    tie: Tie
    of_proposals: bool
